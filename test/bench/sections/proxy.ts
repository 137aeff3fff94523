import { fileURLToPath } from 'node:url'
import { loadConfig } from '../../../src/config/load.ts'
import { mostEntries } from '../../../src/store/session-cache.ts'
import { upstreamsOf } from '../../../src/upstreams.ts'
import { freePort } from '../../support/free-port.ts'
import { type Ground, plantSessions, startCoatcheck, startCountedRedis } from '../ground.ts'
import { createLoad } from '../load.ts'
import { openidcPeer, plainProxy } from '../peers.ts'
import { start } from '../process.ts'
import { figure, type Section } from '../report.ts'
import { measureRounds, notQuiet, type Results, type Round, type Subject } from '../rounds.ts'
import { judge, median, medianRatio } from '../statistics.ts'
import { apiScopes } from '../world.ts'

const bare = 'bare @fastify/http-proxy (S)'
const warm = 'warm: 64 sessions'
const twenty = 'sessions with 20 requests a second'
const confirmed = 'no cache: confirmed at each request'
const uncached = 'no cache: read at each request'
const peer = 'Apache with mod_auth_openidc'
const plain = 'nginx, plain proxy (A)'
const large = 'large: 8 upstreams, many sessions'

/** More than a process keeps at hand, so that each is forgotten before it is asked for again. */
const moreThanCached = 1.5 * mostEntries
/** Few enough to be kept at hand, and too many to be asked for again within 900 ms. */
const cachedAndLate = 0.7 * mostEntries

/** An authenticated call, against the same call without authentication and against others of the kind. */
export async function proxySection(ground: Ground): Promise<Section> {
  const plan = ground.quick ? { rounds: 7, seconds: 2, warmUpSeconds: 3 } : { rounds: 13, seconds: 4, warmUpSeconds: 6 }
  const subjects = [
    await bareSubject(ground),
    await gatewaySubject(ground, warm, 64),
    twentyEach(await gatewaySubject(ground, twenty, 4000)),
    await gatewaySubject(ground, confirmed, cachedAndLate),
    await gatewaySubject(ground, uncached, moreThanCached),
    twentyEach(await largeSubject(ground)),
    ...(ground.programs.apache ? [await openidcPeer(ground, peer, ground.programs.apache)] : []),
    await plainProxy(ground, plain),
  ]
  const results = await measureRounds(ground, subjects, plan)
  return report(results)
}

async function bareSubject(ground: Ground): Promise<Subject> {
  const port = await freePort()
  const running = await start({
    command: process.execPath,
    args: [fileURLToPath(new URL('../bare.js', import.meta.url)), String(port), ground.world.upstream],
    cores: ground.cores.subject,
    env: { NODE_ENV: 'production' },
    ready: `http://127.0.0.1:${port}/api/items`,
  })
  ground.toStop.push(running.stop)
  // As long as a session's, so that what is parsed is the same.
  const cookies = [`__Host-coatcheck=${'c'.repeat(43)}`]
  return { name: bare, pids: [running.pid], load: createLoad({ ...ground, port, cookies }) }
}

/** A gateway with one upstream, asked for so many sessions in turn. */
export async function gatewaySubject(
  ground: Ground,
  name: string,
  sessions: number,
  execArgv: string[] = [],
): Promise<Subject> {
  ground.say(`starting: ${name}`)
  const redis = await startCountedRedis(ground)
  const cookies = await plantSessions(ground, redis, { count: sessions })
  const { pid, port } = await startCoatcheck(ground, redis, { execArgv })
  return { name, pids: [pid], redis, load: createLoad({ ...ground, port, cookies }) }
}

/** Walks through as many sessions as get 20 requests a second each, as fast as the load went the last time. */
function twentyEach(subject: Subject): Subject {
  const { load } = subject
  load.walks(400)
  const run: typeof load.run = async seconds => {
    const result = await load.run(seconds)
    load.walks(result.requests / result.seconds / 20)
    return result
  }
  return { ...subject, load: { ...load, run } }
}

/** Eight upstreams, four of them with a token of their own; some of the sessions are busy, the others lie there. */
async function largeSubject(ground: Ground): Promise<Subject> {
  ground.say(`starting: ${large}`)
  const port = await freePort()
  const names = Array.from({ length: 8 }, (_, index) => `A${index}`)
  const env: Record<string, string> = {}
  for (const [index, name] of names.entries()) {
    env[`UPSTREAM_${name}_PATH`] = `/apis/${name.toLowerCase()}`
    env[`UPSTREAM_${name}_URL`] = ground.world.upstream
    const scope = apiScopes[index]
    if (scope !== undefined) env[`UPSTREAM_${name}_SCOPE`] = scope
  }
  const config = loadConfig({ ...ground.world.env, ...env })
  const slots = [...new Set(upstreamsOf(config).map(({ audience }) => audience.slot))].filter(slot => slot !== 'login')
  const redis = await startCountedRedis(ground)
  const cookies = await plantSessions(ground, redis, { count: ground.quick ? 20_000 : 100_000, slots })
  const { pid } = await startCoatcheck(ground, redis, { env, port })
  const paths = names.map(name => `/apis/${name.toLowerCase()}/items`)
  return { name: large, pids: [pid], redis, load: createLoad({ ...ground, port, cookies, paths }) }
}

function report(results: Results): Section {
  const of = (name: string, field: keyof Round) => (results[name] ?? []).map(round => round[field])
  const ratio = (name: string, field: keyof Round) => medianRatio(of(name, field), of(bare, field))
  const names = Object.keys(results)
  const column = (name: string, field: keyof Round) => figure(median(of(name, field)))
  const hasRedis = (name: string) => name !== bare && name !== plain
  const redisColumn = (name: string, field: keyof Round) => (hasRedis(name) ? column(name, field) : '')
  const rows = names.map(name => [
    name,
    column(name, 'requestsPerSecond'),
    column(name, 'p50Ms'),
    column(name, 'p99Ms'),
    column(name, 'cpuPer1000'),
    figure(ratio(name, 'cpuPer1000')),
    figure(Math.min(...of(name, 'cpuPer1000')) / Math.min(...of(bare, 'cpuPer1000'))),
    redisColumn(name, 'redisCpuPer1000'),
    // Apache's commands have other names than a gateway's, and none is inside a script.
    redisColumn(name, name === peer ? 'redisRun' : 'redisSent'),
    `${(median(of(name, 'busy')) * 100).toFixed(0)}%`,
  ])
  const goals = [
    judge('warm, CPU per request against S', ratio(warm, 'cpuPer1000'), 'at most', 1.0, 0.85),
    judge('confirmed at each request, CPU against S', ratio(confirmed, 'cpuPer1000'), 'at most', 1.25, 1.15),
    judge('read at each request, CPU against S', ratio(uncached, 'cpuPer1000'), 'at most', 1.25, 1.15),
    judge('warm, p99 against S', ratio(warm, 'p99Ms'), 'at most', 1.5),
    judge('Redis commands sent for each request, at 20 a second', median(of(twenty, 'redisSent')), 'at most', 0.1),
  ]
  const hasPeer = results[peer] !== undefined
  if (hasPeer) {
    const perCpu = (name: string) => of(name, 'cpuPer1000').map(cpu => 1 / cpu)
    const faster = medianRatio(perCpu(warm), perCpu(peer))
    goals.push(judge('warm, requests per second of CPU against mod_auth_openidc', faster, 'at least', 5))
  }
  const idle = names.filter(name => median(of(name, 'busy')) < 0.95)
  const notes = [
    'CPU and Redis CPU are milliseconds for 1,000 requests; × S is the median of the ratios of each round.',
    'best × S is the ratio of the least CPU that each had in any round: other processes of the machine only ever add to it.',
    ...notQuiet(results),
    ...(hasPeer ? [] : ['Apache with mod_auth_openidc was not to be had, and is left out.']),
    ...(idle.length > 0
      ? [`not saturated, so their requests per second are held down by something else: ${idle.join('; ')}`]
      : []),
  ]
  const head = ['', 'req/s', 'p50 ms', 'p99 ms', 'CPU', '× S', 'best × S', 'Redis CPU', 'Redis cmds/req', 'core busy']
  return { title: 'Proxied GETs, one core', tables: [{ head, rows }], goals, notes, figures: results }
}
