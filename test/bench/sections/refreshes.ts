import { type Ground, plantSessions, startCoatcheck, startCountedRedis } from '../ground.ts'
import { createLoad } from '../load.ts'
import { figure, type Section } from '../report.ts'
import { measureRounds, notQuiet, type Subject } from '../rounds.ts'
import { median } from '../statistics.ts'

/** More than are asked for in a second, so that the token of each is over when it is asked for again. */
const sessions = 12_000

/** Calls whose access token is over, so that each waits for a refresh: the refresh token is rotated and stored. */
export async function refreshesSection(ground: Ground): Promise<Section> {
  const plan = { rounds: 5, seconds: ground.quick ? 2 : 5, warmUpSeconds: ground.quick ? 2 : 5 }
  const { world } = ground
  const redis = await startCountedRedis(ground)
  ground.say('storing sessions whose tokens are over')
  const cookies = await plantSessions(ground, redis, { count: sessions, tokensLiveMs: -1000 })
  const { pid, port } = await startCoatcheck(ground, redis)
  const load = createLoad({ ...ground, port, cookies })
  const refreshes: number[] = []
  const run: typeof load.run = async seconds => {
    const before = await world.requests()
    const result = await load.run(seconds)
    // Each call reaches the API once; what else nginx was asked for is refreshes.
    refreshes.push(((await world.requests()) - before) / result.requests - 1)
    return result
  }
  const name = 'a call that waits for a refresh'
  const subject: Subject = { name, pids: [pid], redis, load: { ...load, run } }
  const results = await measureRounds(ground, [subject], plan)
  const rounds = results[name] ?? []
  const perCall = median(refreshes.slice(-plan.rounds))
  const column = (field: 'requestsPerSecond' | 'p50Ms' | 'p99Ms' | 'cpuPer1000' | 'redisCpuPer1000' | 'redisSent') =>
    figure(median(rounds.map(round => round[field])))
  const row = [name, column('requestsPerSecond'), column('p50Ms'), column('p99Ms'), column('cpuPer1000')]
  return {
    title: 'Refreshes, one core',
    tables: [
      {
        head: ['', 'per second', 'p50 ms', 'p99 ms', 'CPU', 'Redis CPU', 'Redis cmds/req', 'refreshes/req'],
        rows: [[...row, column('redisCpuPer1000'), column('redisSent'), figure(perCall)]],
      },
    ],
    goals: [],
    notes: [
      ...notQuiet(results),
      'CPU and Redis CPU are milliseconds for 1,000 calls, each with its refresh and its answer from the API.',
    ],
    figures: { rounds, refreshesPerCall: refreshes },
  }
}
