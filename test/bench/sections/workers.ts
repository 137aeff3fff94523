import { type Ground, plantSessions, startCoatcheck, startCountedRedis } from '../ground.ts'
import { connections, createLoad, together } from '../load.ts'
import { childrenOf } from '../process.ts'
import { figure, type Section } from '../report.ts'
import { measureRounds, notQuiet, type Round, type Subject } from '../rounds.ts'
import { judge, median, medianRatio } from '../statistics.ts'

const [one, two, replicas] = ['one worker', 'two workers', 'two replicas']

/** What a second process behind the same port brings. */
export async function workersSection(ground: Ground): Promise<Section> {
  const plan = { rounds: ground.quick ? 5 : 9, seconds: ground.quick ? 2 : 5, warmUpSeconds: 3 }
  const { cores } = ground
  const subjects = [
    await workersSubject(ground, one, 1, cores.subject),
    await workersSubject(ground, two, 2, cores.pair),
    await replicasSubject(ground),
  ]
  const results = await measureRounds(ground, subjects, plan)
  const of = (name: string, field: keyof Round) => (results[name] ?? []).map(round => round[field])
  const gained = medianRatio(of(two, 'requestsPerSecond'), of(one, 'requestsPerSecond'))
  const perCpu = 2 * medianRatio(of(one, 'cpuPer1000'), of(two, 'cpuPer1000'))
  const againstReplicas = medianRatio(of(two, 'cpuPer1000'), of(replicas, 'cpuPer1000'))
  const fields = ['requestsPerSecond', 'p50Ms', 'p99Ms', 'cpuPer1000', 'redisSent'] as const
  const rows = [one, two, replicas].map(name => [name, ...fields.map(field => figure(median(of(name, field))))])
  const apart = cores.count >= 4
  const goals = apart
    ? [judge('requests per second of two workers against one', gained, 'at least', 1.7)]
    : [judge('two workers against one, by their CPU per request', perCpu, 'at least', 1.7)]
  const shared =
    `on ${cores.count} cores the load, Redis and the API share a core with a worker, so that requests per second rise by no more than what ` +
    `these leave: they came to ${figure(gained)} ×. What two cores of their own would bring is told by CPU per request, 2 × that of one over that of two.`
  return {
    title: 'Workers',
    tables: [{ head: ['', 'req/s', 'p50 ms', 'p99 ms', 'CPU', 'Redis cmds/req'], rows }],
    goals,
    notes: [
      // Of the core that one worker has for itself.
      ...notQuiet({ [one]: results[one] ?? [] }),
      'CPU is milliseconds for 1,000 requests, all processes of the gateway together.',
      `Two replicas are processes that share nothing but Redis, on the same cores: two workers cost ${figure(againstReplicas)} × as much, ` +
        'and what is above 1 is the price of sharing a port.',
      ...(apart ? [] : [shared]),
    ],
    figures: results,
  }
}

async function workersSubject(ground: Ground, name: string, workers: number, cores: string): Promise<Subject> {
  const redis = await startCountedRedis(ground)
  const cookies = await plantSessions(ground, redis, { count: 64 })
  const { pid, port } = await startCoatcheck(ground, redis, { env: { WORKERS: String(workers) }, cores })
  if (workers > 1 && childrenOf(pid).length < workers) throw new Error(`there are no ${workers} workers to measure`)
  return { name, pids: [pid], redis, load: createLoad({ ...ground, port, cookies }) }
}

async function replicasSubject(ground: Ground): Promise<Subject> {
  const redis = await startCountedRedis(ground)
  const cookies = await plantSessions(ground, redis, { count: 64 })
  const start = () => startCoatcheck(ground, redis, { cores: ground.cores.pair })
  const both = [await start(), await start()]
  const loads = both.map(({ port }) => createLoad({ ...ground, port, cookies, connections: connections / 2 }))
  return { name: replicas, pids: both.map(({ pid }) => pid), redis, load: together(loads) }
}
