import type { Redis } from 'ioredis'

/** Typed reads: DUMP would compress values, and a search in them would find nothing. */
const readers: Record<string, (key: Buffer) => [string, ...(string | Buffer)[]]> = {
  string: key => ['GET', key],
  hash: key => ['HGETALL', key],
  list: key => ['LRANGE', key, '0', '-1'],
  set: key => ['SMEMBERS', key],
  zset: key => ['ZRANGE', key, '0', '-1', 'WITHSCORES'],
  stream: key => ['XRANGE', key, '-', '+'],
}

/** Names of all keys, in order. */
export async function keysOf(client: Redis): Promise<string[]> {
  return (await rawKeys(client)).map(key => key.toString()).sort()
}

/** Names and values of all keys of the database, one after the other, as raw bytes. */
export async function dumpAll(client: Redis): Promise<Buffer> {
  const parts: Buffer[] = []
  for (const key of await rawKeys(client)) {
    const type = String(await client.call('TYPE', key))
    const [command, ...args] = readers[type]?.(key) ?? ['DUMP', key]
    parts.push(key, ...flatten(await client.callBuffer(command, ...args)))
  }
  return Buffer.concat(parts.flatMap(part => [part, Buffer.from('\n')]))
}

async function rawKeys(client: Redis): Promise<Buffer[]> {
  const found = new Map<string, Buffer>()
  let cursor = '0'
  do {
    const [next, batch] = (await client.callBuffer('SCAN', cursor, 'COUNT', '1000')) as [Buffer, Buffer[]]
    for (const key of batch) found.set(key.toString('latin1'), key)
    cursor = next.toString()
  } while (cursor !== '0')
  return [...found.values()]
}

function flatten(value: unknown): Buffer[] {
  if (Array.isArray(value)) return value.flatMap(flatten)
  if (value === null || value === undefined) return []
  return [Buffer.isBuffer(value) ? value : Buffer.from(String(value))]
}
