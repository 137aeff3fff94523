import { setTimeout as sleep } from 'node:timers/promises'
import { type CountedRedis, type Ground, plantSessions, startCoatcheck, startCountedRedis } from '../ground.ts'
import { cpuMs } from '../process.ts'
import { figure, type Section } from '../report.ts'
import { endBetween } from '../stored-sessions.ts'

/** The gateway is up before the first is due, also on a slow machine. */
const aheadMs = 10_000
const sampleMs = 250
/** Revocations are watched for this long after the last deadline; their rate is known by then. */
const patienceMs = 45_000

interface Sample {
  /** Since the first was due, in milliseconds. */
  atMs: number
  ended: number
  revoked: number
}

interface Sweep {
  name: string
  count: number
  overMs: number
  samples: Sample[]
  cpuMs: number
  redisCpuMs: number
}

/** Sessions that come to their end with nobody asking for them: ended, put into the outbox, revoked at the provider. */
export async function sweepSection(ground: Ground): Promise<Section> {
  const minute = ground.quick ? { count: 5000, overMs: 5000 } : { count: 100_000, overMs: 60_000 }
  const sweeps = [
    await sweep(ground, { ...minute, name: `${minute.count.toLocaleString('en')} within ${minute.overMs / 1000} s` }),
    await sweep(ground, { count: minute.count, overMs: 0, name: `${minute.count.toLocaleString('en')} at once` }),
  ]
  const rows = sweeps.map(({ name, count, overMs, samples, ...cost }) => [
    name,
    figure(rate(samples, 'ended')),
    figure(rate(samples, 'revoked')),
    figure((doneAt(samples, 'ended') - overMs) / 1000),
    (samples.at(-1)?.revoked ?? 0) < count
      ? `> ${patienceMs / 1000}`
      : figure((doneAt(samples, 'revoked') - overMs) / 1000),
    figure((cost.cpuMs / count) * 1000),
    figure((cost.redisCpuMs / count) * 1000),
  ])
  return {
    title: 'Expiry: sessions that end by themselves, one gateway on one core',
    tables: [{ head: ['', 'ended/s', 'revoked/s', 'ended after', 'revoked after', 'CPU', 'Redis CPU'], rows }],
    goals: [],
    notes: [
      'The rates are those from the first to the last; the times are seconds from the last deadline to the last end, and to the last revocation.',
      'CPU and Redis CPU are milliseconds for 1,000 sessions, with as many of their revocations as there were meanwhile. Times are exact to a quarter of a second.',
    ],
    figures: sweeps,
  }
}

async function sweep(ground: Ground, what: Pick<Sweep, 'name' | 'count' | 'overMs'>): Promise<Sweep> {
  const { count, overMs } = what
  ground.say(`storing sessions that end: ${what.name}`)
  const redis = await startCountedRedis(ground)
  await plantSessions(ground, redis, { count })
  const firstAt = Date.now() + aheadMs
  await endBetween(redis, firstAt, firstAt + overMs)
  const { pid, stop } = await startCoatcheck(ground, redis)
  const before = { cpu: cpuMs(pid), redisCpu: redis.cpuMs() }
  await sleep(firstAt - Date.now())
  const samples: Sample[] = []
  const limitAt = firstAt + overMs + patienceMs
  for (;;) {
    const atMs = Date.now() - firstAt
    const { ended, revoked } = await progress(redis)
    samples.push({ atMs, ended, revoked })
    if (samples.length % 20 === 0) ground.say(`${ended} ended, ${revoked} revoked`)
    if (ended >= count && revoked >= count) break
    if (Date.now() > limitAt && ended >= count) break
    if (Date.now() > limitAt) throw new Error(`of ${count} sessions ${ended} have ended`)
    await sleep(sampleMs)
  }
  const result = { ...what, samples, cpuMs: cpuMs(pid) - before.cpu, redisCpuMs: redis.cpuMs() - before.redisCpu }
  await Promise.all([stop(), redis.stop()])
  return result
}

/** Told by the commands that have run: word is sent of each end, and what was revoked leaves two hashes of the outbox. */
async function progress({ client }: CountedRedis): Promise<{ ended: number; revoked: number }> {
  const stats = await client.info('commandstats')
  const calls = (name: string) => Number(new RegExp(`^cmdstat_${name}:calls=(\\d+)`, 'm').exec(stats)?.[1] ?? 0)
  return { ended: calls('publish'), revoked: calls('hdel') / 2 }
}

const doneAt = (samples: Sample[], what: 'ended' | 'revoked') => {
  const last = samples.at(-1)?.[what] ?? 0
  return samples.find(sample => sample[what] >= last)?.atMs ?? Number.NaN
}

const rate = (samples: Sample[], what: 'ended' | 'revoked') =>
  (samples.at(-1)?.[what] ?? 0) / (doneAt(samples, what) / 1000)
