import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import tap, { type Test, test } from 'tap'
import { randomToken } from '../../src/core/random.ts'
import { sessionHandle, sessionIdOf } from '../../src/core/session.ts'
import { createBrowser } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { login } from '../support/login.ts'
import { createPlanter } from '../support/planted.ts'
import { startProvider } from '../support/provider.ts'
import { startRedis } from '../support/redis.ts'
import { type Replica, startReplicas } from '../support/replicas.ts'
import { sessionCookie } from '../support/stage.ts'
import { startUpstream } from '../support/upstream.ts'

tap.jobs = 2

const main = fileURLToPath(new URL('../../src/main.js', import.meta.url))
const [provider, redis, upstream] = await Promise.all([startProvider(), startRedis(), startUpstream()])
tap.teardown(() => Promise.all([provider.close(), redis.stop(), upstream.close()]))
// As long as is asked for, so that requests are in flight when something happens.
upstream.respond = ({ url }, response) => {
  setTimeout(() => response.end('{}'), Number(new URL(url, 'http://upstream').searchParams.get('ms') ?? 0))
}

const api = { UPSTREAM_API_PATH: '/api', UPSTREAM_API_URL: upstream.url }

/** A gateway of so many workers on a port of its own, with a prefix of its own in Redis. */
async function startGateway(t: Test, count: number, env: Record<string, string> = {}) {
  const replicas = await startReplicas(1, {
    provider,
    redis,
    env: { ...api, WORKERS: String(count), REDIS_PREFIX: `${randomToken()}:`, ...env },
  })
  t.teardown(() => replicas.stop())
  const replica = replicas.all[0] as Replica
  // It is ready a moment before its log has been read here.
  await eventually(() => workersOf(replica).length === count)
  return replica
}

async function enter({ url }: Replica): Promise<string> {
  const browser = createBrowser({ origin: url })
  await login(browser, url, provider)
  return browser.jar.get(sessionCookie) ?? ''
}

interface Ask {
  path?: string
  method?: string
}

/** A request on a connection of its own: the status, or the code of the socket's fault. */
function ask({ url }: Replica, cookie: string, { path = '/api/items', method = 'GET' }: Ask = {}) {
  return new Promise<number | string>(resolve => {
    const headers = { cookie: `${sessionCookie}=${cookie}`, 'x-csrf': '1' }
    const call = request(url + path, { method, headers, agent: false }, response => {
      response.resume()
      response.once('end', () => resolve(response.statusCode ?? 0))
      response.once('error', (error: NodeJS.ErrnoException) => resolve(String(error.code)))
    })
    call.once('error', (error: NodeJS.ErrnoException) => resolve(String(error.code)))
    call.setTimeout(15_000, () => call.destroy(Object.assign(new Error('no answer'), { code: 'NO_ANSWER' })))
    call.end()
  })
}

const times = <T>(count: number, make: () => Promise<T>) => Promise.all(Array.from({ length: count }, make))
const said = ({ log }: Replica, text: string) => log.filter(({ msg }) => String(msg).includes(text))
const workersOf = (replica: Replica) =>
  said(replica, 'Server listening').flatMap(({ workers }) => workers ?? []) as number[]
/** Those that have been told of and are there. */
const living = (replica: Replica) =>
  [...workersOf(replica), ...said(replica, 'a worker takes requests').map(({ worker }) => Number(worker))].filter(lives)
const statusOf = ({ internalUrl }: Replica) => fetch(`${internalUrl}/readyz`).then(response => response.status)
const waitReady = (replica: Replica, status: number) => eventually(async () => (await statusOf(replica)) === status)

function lives(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

function isRefused(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, 'localhost', () => {
      socket.destroy()
      resolve(false)
    })
    socket.once('error', () => resolve(true))
  })
}

test('two workers are as one process to everybody, to their end', { buffered: true }, async t => {
  // Ephemeral keys: whoever made up another one could not read the sessions of the other.
  const gateway = await startGateway(t, 2, { SESSION_KEYS: '', ACCESS_LOG: 'true', RATE_LIMIT_INVALID: '5/h' })

  await t.test('two workers share the port, the sessions, the limits and the fate of a session', async t => {
    const workers = workersOf(gateway)
    t.equal(new Set(workers).size, 2)
    t.notOk(workers.includes(Number(gateway.process.pid)), 'the primary is none of them')
    t.equal(said(gateway, 'Server listening').filter(line => line.workers).length, 1, 'it is said once')
    t.equal(said(gateway, 'made up at this start').length, 1, 'and so is a warning')

    const cookie = await enter(gateway)
    t.strictSame(new Set(await times(20, () => ask(gateway, cookie))), new Set([200]))
    const served = () => new Set(said(gateway, 'request completed').map(({ pid }) => pid))
    await eventually(() => served().size === workers.length)
    t.strictSame(served(), new Set(workers), 'both serve')

    t.equal(await ask(gateway, cookie, { path: '/bff/logout', method: 'POST' }), 200)
    await sleep(1000)
    t.strictSame(new Set(await times(10, () => ask(gateway, cookie))), new Set([401]), 'both refuse what one has ended')

    const statuses = await times(12, () => ask(gateway, randomToken()))
    t.equal(statuses.filter(status => status === 401).length, 5, 'the limit is one for both')
    t.equal(statuses.filter(status => status === 429).length, 7)
  })

  await t.test('what is in flight in any worker is finished when the primary is told to stop', async t => {
    const cookie = await enter(gateway)
    const before = upstream.requests.length
    const calls = times(20, () => ask(gateway, cookie, { path: '/api/stopping?ms=3000' }))
    await eventually(() => upstream.requests.slice(before).filter(({ url }) => url.includes('stopping')).length === 20)
    const ended = once(gateway.process, 'exit')
    // As a terminal's Ctrl-C, which everybody hears, after an orchestrator's word, which only the first hears.
    gateway.process.kill('SIGTERM')
    for (const pid of [...workersOf(gateway), Number(gateway.process.pid)]) process.kill(pid, 'SIGINT')
    t.ok(await eventually(async () => (await statusOf(gateway).catch(() => 0)) === 503), 'it says so')
    t.strictSame(await calls, Array(20).fill(200))
    t.strictSame(await ended, [0, null])
    t.notOk(workersOf(gateway).some(lives))
    t.strictSame(said(gateway, 'replaced'), [])
  })
})

test('two workers come and go by themselves', { buffered: true }, async t => {
  const folder = mkdtempSync(join(tmpdir(), 'workers-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'redis-url')
  writeFileSync(file, redis.url)
  const gateway = await startGateway(t, 2, { REDIS_URL: '', REDIS_URL_FILE: file })

  // A worker is killed for lack of memory in the middle of the day.
  await t.test('a worker that dies takes along what it had in flight and nothing else, and is replaced', async t => {
    const cookie = await enter(gateway)
    const [first = 0, second = 0] = workersOf(gateway)
    const outcomes: (number | string)[] = []
    let over = false
    const lanes = 4
    const traffic = times(lanes, async () => {
      while (!over) outcomes.push(await ask(gateway, cookie, { path: '/api/items?ms=50' }))
    })
    await sleep(200)
    process.kill(first, 'SIGKILL')
    t.ok(await eventually(() => said(gateway, 'a worker takes requests').length === 1), 'it is replaced')
    over = true
    await traffic
    const failed = outcomes.filter(outcome => outcome !== 200)
    t.ok(failed.length <= lanes && failed.every(outcome => outcome === 'ECONNRESET'), `failed: ${failed}`)
    t.match(said(gateway, 'died'), [{ level: 'error', worker: first, signal: 'SIGKILL' }])
    t.ok(await waitReady(gateway, 200))

    // One that hangs is handed one more connection: whoever asks is told.
    process.kill(second, 'SIGSTOP')
    const stuck = times(4, () => ask(gateway, cookie))
    t.equal(await statusOf(gateway), 503)
    process.kill(second, 'SIGKILL')
    t.strictSame(await stuck, Array(4).fill(200), 'what it had not taken yet goes to another one')
    t.ok(await eventually(() => said(gateway, 'a worker takes requests').length === 2), 'it is replaced')
    t.ok(await waitReady(gateway, 200))
    const third = Number(said(gateway, 'a worker takes requests')[1]?.worker)

    const slow = times(6, () => ask(gateway, cookie, { path: '/api/slow?ms=600' }))
    await upstream.waitFor(({ url }) => url.includes('slow'))
    await sleep(100)
    process.kill(third, 'SIGTERM')
    t.strictSame(await slow, Array(6).fill(200), 'one that is told to stop finishes first')
    t.ok(await eventually(() => said(gateway, 'was stopped and is replaced').length === 1))
    t.ok(await eventually(() => said(gateway, 'a worker takes requests').length === 3))
  })

  await t.test(
    'a worker that cannot start is tried again after longer and longer rests, while others serve',
    async t => {
      const cookie = await enter(gateway)
      const died = said(gateway, 'died').length
      writeFileSync(file, 'nonsense')
      process.kill(living(gateway)[0] ?? 0, 'SIGKILL')
      t.ok(await eventually(() => said(gateway, 'died').length === died + 4, 60_000))
      const later = said(gateway, 'died').slice(died + 1)
      const rests = later.map(({ restMs }) => Number(restMs))
      t.ok(Number(rests[0]) >= 100)
      t.strictSame(rests.slice(1), [2 * Number(rests[0]), 4 * Number(rests[0])])
      t.strictSame(new Set(later.map(({ code }) => code)), new Set([2]))
      t.match(later[0], { detail: /REDIS_URL must be a redis:/ })
      t.equal(await statusOf(gateway), 200)
      t.equal(await ask(gateway, cookie), 200)
      writeFileSync(file, redis.url)
      t.ok(await eventually(() => living(gateway).length === 2))
    },
  )

  // Whoever looks after processes sees that the primary is gone, and starts another on the same port.
  await t.test('workers without a primary finish what they have in flight and go, and the port is free', async t => {
    const cookie = await enter(gateway)
    const workers = living(gateway)
    const before = upstream.requests.length
    const calls = times(6, () => ask(gateway, cookie, { path: '/api/orphans?ms=700' }))
    await eventually(() => upstream.requests.slice(before).filter(({ url }) => url.includes('orphans')).length === 6)
    await gateway.stop('SIGKILL')
    t.ok(await eventually(() => isRefused(Number(new URL(gateway.url).port)), 500), 'the port is free')
    t.strictSame(await calls, Array(6).fill(200))
    t.ok(await eventually(() => !workers.some(lives), 20_000), 'nobody is left')
  })
})

test('three workers sweep as often as one process does, and end each session once', { buffered: true }, async t => {
  const sessionKey = randomBytes(32)
  const prefix = `${randomToken()}:`
  const env = { SESSION_IDLE_TIMEOUT: '1s', SESSION_KEYS: sessionKey.toString('base64'), REDIS_PREFIX: prefix }
  // Of this Redis nobody else sweeps.
  const store = await startRedis()
  const gateway = await startGateway(t, 3, { ...env, REDIS_URL: store.url })
  const lifetimes = { idleTimeout: 1, absoluteTimeout: 3600 }
  const planter = await createPlanter({ redis: store, provider, sessionKey, prefix, lifetimes })
  t.teardown(async () => {
    await planter.close()
    await store.stop()
  })
  const monitor = await store.monitor()
  const startedAt = performance.now()
  const planted = await planter.plant(40)
  const tokens = new Set(planted.map(({ refreshToken }) => refreshToken))
  const revoked = () =>
    provider.requests
      .flatMap(({ kind, form }) => (kind === 'revocation' ? (form?.get('token') ?? []) : []))
      .filter(token => tokens.has(token))
  t.ok(await eventually(() => revoked().length >= 40), 'each is revoked')

  // A session that ends in a worker is told to the primary, which would look by itself only after half a minute.
  const cookie = await enter(gateway)
  const handle = sessionHandle(sessionIdOf(cookie))
  const isRevoked = () => gateway.events('revocation').some(({ session }) => session === handle)
  t.equal(await ask(gateway, cookie, { path: '/bff/logout', method: 'POST' }), 200)
  t.ok(await eventually(isRevoked, 10_000), 'at once')

  await sleep(Math.max(0, startedAt + 3000 - performance.now()))
  monitor.stop()
  const visits = (performance.now() - startedAt) / 1000 + 1
  t.equal(revoked().length, 40, 'none twice')
  t.ok(await eventually(() => gateway.events('session_ended').length === 41))
  t.equal(monitor.sweeps.size, 1, 'one of the processes sweeps')
  const [sweeps = 0] = monitor.sweeps.values()
  t.ok(sweeps > 256 && sweeps < visits * 256, `${sweeps} sweeps in ${Math.round(visits - 1)} s`)
})

test('faults of the start are told once, with the code of a single process', { buffered: true }, async t => {
  const adminPort = await freePort()
  const start = async (env: Record<string, string>) => {
    const base = {
      PATH: process.env.PATH,
      ...provider.env(),
      HOST: '127.0.0.1',
      WORKERS: '2',
      ADMIN_PORT: `${adminPort}`,
    }
    const child = spawn(process.execPath, [main], { env: { ...base, ...env }, stdio: ['ignore', 'ignore', 'pipe'] })
    let output = ''
    child.stderr.on('data', data => {
      output += data
    })
    const [code] = await once(child, 'close')
    return { code, output }
  }
  const taken = await start({ REDIS_URL: redis.url, PORT: String(provider.port) })
  t.equal(taken.code, 1)
  t.match(taken.output, /^The gateway cannot listen: [^\n]*EADDRINUSE[^\n]*\n$/)
  const faulty = await start({ PORT: '0' })
  t.equal(faulty.code, 2)
  t.match(faulty.output, /^The configuration has faults:\n {2}WORKERS is more than 1, which needs REDIS_URL[^\n]*\n$/)
})
