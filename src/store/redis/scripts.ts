/**
 * The Lua that needs to be atomic. A script is given the prefix of one bucket, `<prefix>{bNNN}:`, as its key, touches
 * keys of that bucket alone, so that it runs on one slot of a cluster, and tells the time by Redis's own clock.
 *
 *   session:<id>   hash: session, refresh, id_token, access:<slot> (sealed); idle, absolute (deadlines, ms); version of the tokens;
 *                  pending (who began a refresh and has not ended it); unsure (an earlier one never did);
 *                  forced, forced:<slot> (time of the last forced refresh, ms);
 *                  refused:<slot>, refused:<slot>+ (until when no token is asked for, ms, and the sealed refusal)
 *   lease:<id>     string: who refreshes the session's tokens
 *   ended:<id>     string: why the session ended
 *   due            sorted set: session ids by a deadline that is never later than the true one
 *   outbox         sorted set: ids (of a refresh token, `<session id>~<version>`) by the time of their next attempt
 *   outbox:token   hash: id → sealed refresh token
 *   outbox:about   hash: id → JSON {reason, queuedAt, attempts}
 *
 * ARGV[1] is always the channel on which other replicas hear of ends and extensions.
 */

const prelude = `
local bucket, channel = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function sessionKey(id) return bucket .. 'session:' .. id end`

/** A record outlives its last deadline by this long, so that its refresh token is still there to be revoked. */
const retentionMs = 7 * 86_400_000
/** An entry of the outbox is settled long before this. */
const outboxMs = 30 * 86_400_000

const queue = `
local function queue(id, token, reason, due)
  redis.call('HSET', bucket .. 'outbox:token', id, token)
  redis.call('HSET', bucket .. 'outbox:about', id, cjson.encode({ reason = reason, queuedAt = due, attempts = 0 }))
  redis.call('ZADD', bucket .. 'outbox', due, id)
  for _, part in ipairs({ 'outbox', 'outbox:token', 'outbox:about' }) do
    redis.call('PEXPIRE', bucket .. part, ${outboxMs})
  end
end`

/** The one way in which a session ends. Whatever is in flight finds no session to write to. */
const finish = (tombstoneMs: number) => `${queue}
local function finish(id, reason, delay)
  local fields = redis.call('HMGET', sessionKey(id), 'session', 'refresh', 'version', 'id_token')
  if not fields[1] then return false end
  redis.call('DEL', sessionKey(id))
  redis.call('ZREM', bucket .. 'due', id)
  redis.call('SET', bucket .. 'ended:' .. id, reason, 'PX', ${tombstoneMs})
  if fields[2] then queue(id .. '~' .. fields[3], fields[2], reason, now + (delay or 0)) end
  redis.call('PUBLISH', channel, 'ended ' .. id .. ' ' .. reason)
  return fields[1], fields[4]
end
local function overdue(idle, absolute)
  return now >= absolute and 'absolute' or (now >= idle and 'idle')
end`

/** Activity counts when it happened before the deadline, however late it is told. */
const touch = (warningMs: number) => `
local function touch(id, idle, absolute, at, timeout)
  local deadline = math.min(at + timeout, absolute)
  if at >= idle or deadline <= idle then return idle end
  redis.call('HSET', sessionKey(id), 'idle', deadline)
  if idle - now < ${warningMs} then redis.call('PUBLISH', channel, 'extended ' .. id) end
  return deadline
end`

/**
 * A replica, or a master that lost its replicas and would have to stop then, knows nothing of what others wrote since: that it
 * has no session proves nothing. It refuses the first thing that could write. And where memory is full, what makes room and
 * what keeps a session alive must go on: a script that has written, and this takes no room, may write more.
 */
const insist = `
redis.call('DEL', bucket)`

/** Builds the scripts: those that are given a bucket, and those that are given the one key that they touch. */
export function createScripts({ tombstoneMs, warningMs }: { tombstoneMs: number; warningMs: number }) {
  const ofBuckets = {
    /**
     * ARGV: channel, id, sealed session, sealed access token, sealed refresh token or '', idle timeout ms, absolute
     * timeout ms, ms to this session's own absolute deadline, sealed ID token or ''.
     */
    createSession: `${prelude}
local id, absolute = ARGV[2], now + tonumber(ARGV[8])
local idle = math.min(now + tonumber(ARGV[6]), absolute)
redis.call('HSET', sessionKey(id), 'session', ARGV[3], 'access:login', ARGV[4],
  'idle', idle, 'absolute', absolute, 'version', 0)
if ARGV[5] ~= '' then redis.call('HSET', sessionKey(id), 'refresh', ARGV[5]) end
if ARGV[9] ~= '' then redis.call('HSET', sessionKey(id), 'id_token', ARGV[9]) end
redis.call('PEXPIREAT', sessionKey(id), absolute + ${retentionMs})
redis.call('ZADD', bucket .. 'due', idle, id)
redis.call('PEXPIRE', bucket .. 'due', tonumber(ARGV[7]) + ${retentionMs})`,

    /**
     * ARGV: channel, id, idle timeout ms, age of unwritten activity ms or -1, whether active (1, 0), touch interval ms, slot,
     * version that the caller has at hand or -1.
     * → nothing · 'live', session, access or '', version, idle ms left, absolute ms left, touched; 'same' without session and
     * access when they are of that version
     * · 'ended', reason, session or nothing
     */
    getSession: `${prelude}${insist}${finish(tombstoneMs)}${touch(warningMs)}
local id, timeout, age = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local fields = redis.call('HMGET', sessionKey(id), 'session', 'access:' .. ARGV[7], 'idle', 'absolute', 'version')
if not fields[1] then
  local reason = redis.call('GET', bucket .. 'ended:' .. id)
  return reason and { 'ended', reason }
end
local idle, absolute = tonumber(fields[3]), tonumber(fields[4])
if age >= 0 then idle = touch(id, idle, absolute, now - age, timeout) end
local reason = overdue(idle, absolute)
if reason then return { 'ended', reason, (finish(id, reason)) } end
local touched = 0
if ARGV[5] == '1' and now - (idle - timeout) >= tonumber(ARGV[6]) then
  idle = touch(id, idle, absolute, now, timeout)
  touched = 1
end
if fields[5] == ARGV[8] then return { 'same', '', '', tonumber(fields[5]), idle - now, absolute - now, touched } end
return { 'live', fields[1], fields[2] or '', tonumber(fields[5]), idle - now, absolute - now, touched }`,

    /** ARGV: channel, id. → as getSession for a live session without a token, and nothing otherwise; touches nothing. */
    peekSession: `${prelude}${insist}
local fields = redis.call('HMGET', sessionKey(ARGV[2]), 'session', 'idle', 'absolute', 'version')
if not fields[1] then return nil end
local idle, absolute = tonumber(fields[2]) - now, tonumber(fields[3]) - now
if idle <= 0 or absolute <= 0 then return nil end
return { 'live', fields[1], '', tonumber(fields[4]), idle, absolute, 0 }`,

    /**
     * ARGV: channel, id, slot, owner, version, lease ms, forced (1, 0), cooldown ms, fields of the refusal and of the forced refresh.
     * → 'gone' · 'held' · 'cooldown' · 'refused', refusal · 'changed' or 'granted', session, access or '', version, idle, absolute ms left,
     *   refresh or '', whether an earlier holder may have used it (1), and may return (2)
     */
    beginRefresh: `${prelude}
local id, lease = ARGV[2], bucket .. 'lease:' .. ARGV[2]
local fields = redis.call('HMGET', sessionKey(id), 'session', 'access:' .. ARGV[3], 'version', 'idle', 'absolute',
  'refresh', 'pending', ARGV[10], ARGV[9], 'unsure')
if not fields[1] then return { 'gone' } end
local reply = { 'changed', fields[1], fields[2] or '', tonumber(fields[3]), fields[4] - now, fields[5] - now, '', 0 }
if fields[3] ~= ARGV[5] then return reply end
local holder = redis.call('GET', lease)
if holder and holder ~= ARGV[4] then return { 'held' } end
local restsUntil, refusal = string.match(fields[9] or '', '^(%d+) (.*)$')
if restsUntil and now < tonumber(restsUntil) and not holder then return { 'refused', refusal } end
if ARGV[7] == '1' and not holder then
  if fields[8] and now - fields[8] < tonumber(ARGV[8]) then return { 'cooldown' } end
  redis.call('HSET', sessionKey(id), ARGV[10], now)
end
redis.call('SET', lease, ARGV[4], 'PX', ARGV[6])
local absent = fields[7] and fields[7] ~= ARGV[4]
redis.call('HSET', sessionKey(id), 'pending', ARGV[4])
if absent then redis.call('HSET', sessionKey(id), 'unsure', 1) end
reply[1], reply[7] = 'granted', fields[6] or ''
reply[8] = absent and 2 or (fields[10] and 1 or 0)
return reply`,

    /** ARGV: channel, id, owner, lease ms. */
    renewRefresh: `${prelude}
local lease = bucket .. 'lease:' .. ARGV[2]
if redis.call('GET', lease) == ARGV[3] then redis.call('PEXPIRE', lease, ARGV[4]) end`,

    /**
     * ARGV: channel, id, owner, version, slot, access or '', refresh, session or ''. The refresh token is sealed for the next
     * version. Where a failover took the session back to an earlier one, it is still the newest. For a session that is gone it
     * is revoked when the token that it replaces is. → 'saved' · 'superseded' · 'gone'
     */
    saveRefresh: `${prelude}${queue}
local id, lease, nextVersion = ARGV[2], bucket .. 'lease:' .. ARGV[2], ARGV[4] + 1
if redis.call('GET', lease) == ARGV[3] then redis.call('DEL', lease) end
local version = redis.call('HGET', sessionKey(id), 'version')
if not version then
  local replaced = id .. '~' .. ARGV[4]
  local about = redis.call('HGET', bucket .. 'outbox:about', replaced)
  local waits = about and cjson.decode(about).attempts == 0 and redis.call('ZSCORE', bucket .. 'outbox', replaced)
  queue(id .. '~' .. nextVersion, ARGV[7], 'ended_meanwhile', math.max(now, tonumber(waits or now)))
  return 'gone'
end
if tonumber(version) > tonumber(ARGV[4]) then return 'superseded' end
redis.call('HSET', sessionKey(id), 'version', nextVersion, 'refresh', ARGV[7])
if ARGV[6] ~= '' then redis.call('HSET', sessionKey(id), 'access:' .. ARGV[5], ARGV[6]) end
redis.call('HDEL', sessionKey(id), 'pending', 'unsure', 'refused:' .. ARGV[5])
if ARGV[8] ~= '' then redis.call('HSET', sessionKey(id), 'session', ARGV[8]) end
redis.call('PUBLISH', channel, 'refreshed ' .. id)
return 'saved'`,

    /** ARGV: channel, id, owner, whether the token may be used up (1, 0), then of a refused slot: field, refusal, rest ms. */
    abandonRefresh: `${prelude}
local id, lease = ARGV[2], bucket .. 'lease:' .. ARGV[2]
if redis.call('GET', lease) == ARGV[3] then redis.call('DEL', lease) end
if redis.call('HGET', sessionKey(id), 'pending') == ARGV[3] then
  redis.call('HDEL', sessionKey(id), 'pending')
  if ARGV[4] == '1' then redis.call('HSET', sessionKey(id), 'unsure', 1) end
end
if ARGV[5] and redis.call('EXISTS', sessionKey(id)) == 1 then
  redis.call('HSET', sessionKey(id), ARGV[5], (now + ARGV[7]) .. ' ' .. ARGV[6])
end
redis.call('PUBLISH', channel, 'refreshed ' .. id)`,

    /** ARGV: channel, idle timeout ms, then id and age in ms of each activity. */
    touchSessions: `${prelude}${insist}${touch(warningMs)}
for index = 3, #ARGV, 2 do
  local id = ARGV[index]
  local fields = redis.call('HMGET', sessionKey(id), 'idle', 'absolute')
  if fields[1] then
    touch(id, tonumber(fields[1]), tonumber(fields[2]), now - tonumber(ARGV[index + 1]), tonumber(ARGV[2]))
  end
end`,

    /** ARGV: channel, id, reason, ms until its token is to be revoked. → nothing · session, ID token or nothing */
    endSession: `${prelude}${finish(tombstoneMs)}
local session, idToken = finish(ARGV[2], ARGV[3], ARGV[4])
return session and { session, idToken }`,

    /** ARGV: channel, limit. → ms until the next entry is due or -1, then id, reason and session of each that ended */
    sweep: `${prelude}${insist}${finish(tombstoneMs)}
local due, reply = bucket .. 'due', { -1 }
for _, id in ipairs(redis.call('ZRANGE', due, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
  local fields = redis.call('HMGET', sessionKey(id), 'idle', 'absolute')
  local idle, absolute = tonumber(fields[1]), tonumber(fields[2])
  local reason = idle and overdue(idle, absolute)
  if not idle then redis.call('ZREM', due, id)
  elseif not reason then redis.call('ZADD', due, math.min(idle, absolute), id)
  else
    local session = finish(id, reason)
    if session then
      for _, value in ipairs({ id, reason, session }) do reply[#reply + 1] = value end
    end
  end
end
local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
if first[2] then reply[1] = math.max(0, first[2] - now) end
return reply`,

    /** ARGV: channel, id, sealed token, reason, ms until it is due. */
    queueRevocation: `${prelude}${queue}
queue(ARGV[2], ARGV[3], ARGV[4], now + ARGV[5])`,

    /** ARGV: channel, limit, lease ms. → ms until the next entry is due or -1, then id, token, about and age of each */
    claimRevocations: `${prelude}${insist}
local outbox, reply = bucket .. 'outbox', { -1 }
for _, id in ipairs(redis.call('ZRANGE', outbox, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])) do
  local token, about = redis.call('HGET', outbox .. ':token', id), redis.call('HGET', outbox .. ':about', id)
  if token and about then
    about = cjson.decode(about)
    about.attempts = about.attempts + 1
    redis.call('HSET', outbox .. ':about', id, cjson.encode(about))
    redis.call('ZADD', outbox, now + tonumber(ARGV[3]), id)
    for _, value in ipairs({ id, token, about.reason, about.attempts, now - about.queuedAt }) do
      reply[#reply + 1] = value
    end
  else
    redis.call('ZREM', outbox, id)
  end
end
local first = redis.call('ZRANGE', outbox, 0, 0, 'WITHSCORES')
if first[2] then reply[1] = math.max(0, first[2] - now) end
return reply`,

    /** ARGV: channel, id, ms until it is tried again, or -1 to forget it. */
    settleRevocation: `${prelude}${insist}
local outbox, id, retry = bucket .. 'outbox', ARGV[2], tonumber(ARGV[3])
if retry < 0 then
  redis.call('ZREM', outbox, id)
  redis.call('HDEL', outbox .. ':token', id)
  redis.call('HDEL', outbox .. ':about', id)
elseif redis.call('ZSCORE', outbox, id) then
  redis.call('ZADD', outbox, now + retry, id)
end`,
  }

  const ofKeys = {
    /** KEYS: a value to be taken. → value, time */
    takeOnce: `
local value = redis.call('GETDEL', KEYS[1])
local time = redis.call('TIME')
return value and { value, time[1] * 1000 + math.floor(time[2] / 1000) }`,

    /** KEYS: a count · ARGV: lifetime ms. → the count, this one included */
    countUp: `
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return count`,

    /** KEYS: members of an index · ARGV: id, absolute timeout ms. Entries older than that name nothing live. */
    addToIndex: `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])`,

    /** KEYS: mark of an index · ARGV: lifetime ms, reason. */
    markIndexEnded: `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[1], now .. ' ' .. ARGV[2], 'PX', ARGV[1])`,
  }
  return { ofBuckets, ofKeys }
}
