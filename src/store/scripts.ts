/**
 * The Lua that needs to be atomic. Each script touches the one key of a session, so it runs on any slot of a cluster,
 * and tells the time by Redis's own clock.
 */

const now = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)`

const read = `
local fields = redis.call('HMGET', KEYS[1], 'session', 'tokens', 'idle', 'absolute')
if not (fields[1] and fields[2] and fields[3] and fields[4]) then return nil end
local idle, absolute = tonumber(fields[3]), tonumber(fields[4])`

const reply = `
return { fields[1], fields[2], idle - now, absolute - now }`

/** KEYS: session · ARGV: sealed session, sealed tokens, idle timeout ms, absolute timeout ms, retention ms after it. */
export const createSession = `${now}
local absolute = now + tonumber(ARGV[4])
local idle = math.min(now + tonumber(ARGV[3]), absolute)
redis.call('HSET', KEYS[1], 'session', ARGV[1], 'tokens', ARGV[2], 'idle', idle, 'absolute', absolute)
redis.call('PEXPIREAT', KEYS[1], absolute + tonumber(ARGV[5]))`

/** KEYS: session · ARGV: idle timeout ms, or 0 to leave the idle deadline alone. → session, tokens, ms left (idle, absolute). */
export const getSession = `${now}${read}
local timeout = tonumber(ARGV[1])
if timeout > 0 and now < idle and now < absolute then
  idle = math.min(now + timeout, absolute)
  redis.call('HSET', KEYS[1], 'idle', idle)
end${reply}`

/** KEYS: session. → as {@link getSession}, and the session is gone. */
export const takeSession = `${now}${read}
redis.call('DEL', KEYS[1])${reply}`
