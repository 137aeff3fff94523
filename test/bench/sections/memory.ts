import { setTimeout as sleep } from 'node:timers/promises'
import { mostEntries } from '../../../src/store/session-cache.ts'
import { freePort } from '../../support/free-port.ts'
import { type Ground, plantSessions, startCoatcheck, startCountedRedis } from '../ground.ts'
import { createLoad } from '../load.ts'
import { type MemoryUse, watchMemory } from '../memory-use.ts'
import { figure, type Section } from '../report.ts'
import { judge } from '../statistics.ts'
import { tokenLength } from '../world.ts'

/** Few enough to be kept at hand all together. */
const cached = 0.7 * mostEntries

/** What a session takes: in Redis, in a gateway that has it at hand, and in a gateway that has never been asked for it. */
export async function memorySection(ground: Ground): Promise<Section> {
  const stored = ground.quick ? 20_000 : 100_000
  const redis = await startCountedRedis(ground)
  const inspectPort = await freePort()
  const first = await plantSessions(ground, redis, { count: 64 })
  const { port } = await startCoatcheck(ground, redis, { execArgv: [`--inspect=127.0.0.1:${inspectPort}`] })
  const memory = await watchMemory(inspectPort)
  const ask = (cookies: string[]) => createLoad({ ...ground, port, cookies })

  ground.say('memory: warming up')
  await ask(first).run(ground.quick ? 5 : 15)
  const before = await memory.use()
  const redisBefore = await redis.usedBytes()
  ground.say(`memory: storing ${stored} sessions`)
  const cookies = await plantSessions(ground, redis, { count: stored })
  const redisBytes = ((await redis.usedBytes()) - redisBefore) / stored
  // Time for the gateway to hear of them, if it did.
  await sleep(2000)
  const idle = await memory.use()
  ground.say(`memory: asking for ${cached} sessions`)
  const load = ask(cookies.slice(0, cached))
  for (let requests = 0; requests < cached; ) requests += (await load.run(2)).requests
  const busy = await memory.use()
  memory.close()

  const per = (later: MemoryUse, earlier: MemoryUse, field: keyof MemoryUse, count: number) =>
    (later[field] - earlier[field]) / count
  const perIdle = per(idle, before, 'heldBytes', stored)
  const perCached = per(busy, idle, 'heldBytes', cached)
  const rows = [
    ['in Redis, with its deadlines and indexes', figure(redisBytes), ''],
    ['in the gateway, stored and not asked for', figure(perIdle), figure(per(idle, before, 'residentBytes', stored))],
    ['in the gateway, at hand', figure(perCached), figure(per(busy, idle, 'residentBytes', cached))],
  ]
  return {
    title: 'Memory of a session, in bytes',
    tables: [{ head: ['', 'held', 'resident'], rows }],
    goals: [
      judge('bytes held for a session at hand, beyond its token', perCached - tokenLength, 'at most', 4096),
      // Measured to a few bytes: what the heap of a process that rests changes by is shared out among all of them.
      judge('bytes held for a session that is stored and not asked for', perIdle, 'at most', 16),
    ],
    notes: [
      `Held is what is left of heap and buffers after a garbage collection; resident is what the system counts. The token has ${tokenLength} characters.`,
    ],
    figures: { redisBytes, stored, cached, before, idle, busy },
  }
}
