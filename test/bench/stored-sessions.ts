import { buckets, createKeys } from '../../src/store/redis/keys.ts'
import type { TestRedis } from '../support/redis.ts'

const keys = createKeys('coatcheck:')

/** Says of the sessions in a Redis that they end then: evenly between two instants, in milliseconds since the epoch. */
export async function endBetween({ client }: TestRedis, firstAt: number, lastAt: number): Promise<void> {
  for (let bucket = 0; bucket < buckets; bucket += 1)
    await client.eval(redate, 1, keys.bucket(bucket), String(firstAt), String(lastAt - firstAt))
}

const redate = `
local due = KEYS[1] .. 'due'
local ids = redis.call('ZRANGE', due, 0, -1)
for index, id in ipairs(ids) do
  local at = math.floor(ARGV[1] + ARGV[2] * index / #ids)
  redis.call('HSET', KEYS[1] .. 'session:' .. id, 'idle', at)
  redis.call('ZADD', due, at, id)
end`

/**
 * Brings the sessions in a Redis up to this number or a little more, by copies under other names, with their deadlines and
 * entries of indexes: they take the room and the time of others, but nobody can use them, since a record opens under its
 * own name alone.
 */
export async function multiplySessions({ client }: TestRedis, present: number, wanted: number): Promise<void> {
  const copies = Math.ceil(wanted / present) - 1
  // In pieces, so that no other command waits for long.
  for (let bucket = 0; bucket < buckets; bucket += 1) {
    const originals = await client.zrange(`${keys.bucket(bucket)}due`, '0', '-1')
    for (let from = 0; from < originals.length; from += 10)
      await client.eval(copy, 1, keys.bucket(bucket), String(copies), 'coatcheck:', ...originals.slice(from, from + 10))
  }
}

const copy = `
local due = KEYS[1] .. 'due'
for index = 3, #ARGV do
  local id = ARGV[index]
  local idle = redis.call('HGET', KEYS[1] .. 'session:' .. id, 'idle')
  for number = 1, ARGV[1] do
    local other = redis.sha1hex(id .. number)
    local name = string.sub(id, 1, 4) .. string.sub(other, 1, 39)
    redis.call('COPY', KEYS[1] .. 'session:' .. id, KEYS[1] .. 'session:' .. name)
    redis.call('ZADD', due, idle, name)
    for _, kind in ipairs({ 'handle', 'user', 'sid' }) do
      local index = ARGV[2] .. '{' .. kind .. '-' .. other .. '}:members'
      redis.call('ZADD', index, idle, name)
      redis.call('PEXPIRE', index, 43200000)
    end
  end
end`
