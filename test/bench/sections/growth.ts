import { type Ground, plantSessions, startCoatcheck, startCountedRedis } from '../ground.ts'
import { createLoad } from '../load.ts'
import { figure, type Section } from '../report.ts'
import { measureRounds, notQuiet, type Results, type Round, type Subject } from '../rounds.ts'
import { judge, median, medianRatio } from '../statistics.ts'
import { multiplySessions } from '../stored-sessions.ts'

/** As many as are asked for in turn: those that lie there are copies of them. */
const asked = 10_000

const busy = (stored: number) => `${stored.toLocaleString('en')} stored, one busy`
const spread = (stored: number) => `${stored.toLocaleString('en')} stored, ${asked.toLocaleString('en')} in turn`

/** What a request costs with ever more sessions in Redis: the gateway's part and that of Redis. */
export async function growthSection(ground: Ground): Promise<Section> {
  const sizes = ground.quick ? [1, 10_000, 100_000] : [1, 10_000, 100_000, 1_000_000]
  const plan = ground.quick ? { rounds: 5, seconds: 1, warmUpSeconds: 2 } : { rounds: 5, seconds: 4, warmUpSeconds: 4 }
  const subjects: Subject[] = []
  for (const size of sizes) subjects.push(...(await subjectsOf(ground, size)))
  return report(await measureRounds(ground, subjects, plan), sizes)
}

async function subjectsOf(ground: Ground, size: number): Promise<Subject[]> {
  ground.say(`storing ${size} sessions`)
  const redis = await startCountedRedis(ground)
  const planted = Math.min(size, asked)
  const cookies = await plantSessions(ground, redis, { count: planted })
  if (size > planted) await multiplySessions(redis, planted, size)
  const start = async (name: string, some: string[]): Promise<Subject> => {
    const { pid, port } = await startCoatcheck(ground, redis)
    return { name, pids: [pid], redis, load: createLoad({ ...ground, port, cookies: some }) }
  }
  const one = await start(busy(size), cookies.slice(0, 1))
  return size < asked ? [one] : [one, await start(spread(size), cookies)]
}

function report(results: Results, sizes: number[]): Section {
  const of = (name: string, value: (round: Round) => number) => (results[name] ?? []).map(value)
  const total = ({ cpuPer1000, redisCpuPer1000 }: Round) => cpuPer1000 + redisCpuPer1000
  const most = sizes.at(-1) ?? 1
  const first = (name: string) => (name.endsWith('one busy') ? busy(1) : spread(asked))
  const grown = (name: string) => medianRatio(of(name, total), of(first(name), total))
  const rows = Object.keys(results).map(name => [
    name,
    figure(median(of(name, round => round.requestsPerSecond))),
    figure(median(of(name, round => round.cpuPer1000))),
    figure(median(of(name, round => round.redisCpuPer1000))),
    figure(grown(name)),
    figure(median(of(name, round => round.redisSent))),
  ])
  return {
    title: 'Growth: the cost of a request with ever more sessions stored',
    tables: [{ head: ['', 'req/s', 'CPU', 'Redis CPU', '× least', 'Redis cmds/req'], rows }],
    goals: [
      judge(
        `CPU per request with ${most.toLocaleString('en')} stored against 1, Redis included`,
        grown(busy(most)),
        'at most',
        1.1,
      ),
    ],
    notes: [
      ...notQuiet(results),
      'CPU and Redis CPU are milliseconds for 1,000 requests; × least is their sum against that with the fewest stored.',
      'In turn: each request is of a session that was not asked for a moment ago, so that Redis confirms it.',
    ],
    figures: results,
  }
}
