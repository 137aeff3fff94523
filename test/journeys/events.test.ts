import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import tap, { type Test, test } from 'tap'
import type { EndReason } from '../../src/core/session.ts'
import { sessionHandle, sessionIdOf } from '../../src/core/session.ts'
import { createBrowser, type LiveResponse, type TestBrowser } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { startGateway } from '../support/gateway.ts'
import { login } from '../support/login.ts'
import { startProvider } from '../support/provider.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { type Replica, type Replicas, startReplicas } from '../support/replicas.ts'
import { sessionCookie } from '../support/stage.ts'

const adminToken = 'the-administrators-own-secret'
const sealingKey = Buffer.from(Array.from({ length: 32 }, (_, index) => index * 5)).toString('base64')
/** Contract of the stream: a word of life at least this often, and slack for a busy machine. */
const heartbeatMs = 15_000
const slackMs = 5000
const idleSeconds = 10
/** How long after the last activity a deadline is told ahead: a third of the idle timeout is left. */
const warningMs = (idleSeconds * 1000 * 2) / 3

const redisDir = mkdtempSync(join(tmpdir(), 'events-'))
const provider = await startProvider()
const [lasting, brief] = await Promise.all([startRedis({ dir: redisDir }), startRedis()])
const env = { ADMIN_TOKEN: adminToken, SESSION_MAX_PER_USER: '3' }
/** Three replicas whose sessions outlast the file, and three whose sessions end soon. */
const [long, short] = await Promise.all([
  startReplicas(3, { provider, redis: lasting, env }),
  startReplicas(3, { provider, redis: brief, env: { ...env, SESSION_IDLE_TIMEOUT: `${idleSeconds}s` } }),
])
tap.teardown(async () => {
  await Promise.all([long.stop(), short.stop()])
  await Promise.all([provider.close(), lasting.stop(), brief.stop()])
  rmSync(redisDir, { recursive: true, force: true })
})
// Most of the time here is spent waiting.
tap.jobs = 8
const parallel = () => ({ buffered: true })

const cookieOf = (browser: TestBrowser) => browser.jar.get(sessionCookie) ?? ''
const handleOf = (browser: TestBrowser) => sessionHandle(sessionIdOf(cookieOf(browser)))
const replicaOf = (replicas: Replicas, index: number) => replicas.all[index] as Replica

/** A request as the SPA makes it, that a load balancer hands to this replica. */
const balanced = (replicas: Replicas) => ({ Origin: replicas.url, 'Sec-Fetch-Site': 'same-origin' })

async function enter(replicas: Pick<Replicas, 'url'>, user: string, browser = createBrowser({ origin: replicas.url })) {
  await login(browser, replicas.url, provider, { user })
  if (cookieOf(browser) === '') throw new Error(`${user} could not log in`)
  return browser
}

function ask(replicas: Replicas, index: number, browser: TestBrowser, method: string, path: string) {
  return browser.api(`${replicaOf(replicas, index).url}/bff/${path}`, { method, headers: balanced(replicas) })
}

function openAt(replicas: Replicas, index: number, browser: TestBrowser): Promise<LiveResponse> {
  return browser.stream(`${replicaOf(replicas, index).url}/bff/events`, { headers: balanced(replicas) })
}

const openAtAll = (replicas: Replicas, browser: TestBrowser) =>
  Promise.all(replicas.all.map((_replica, index) => openAt(replicas, index, browser)))

function admin(at: { internalUrl: string }, selector: object): Promise<Response> {
  const headers = { authorization: `Bearer ${adminToken}`, 'content-type': 'application/json' }
  return fetch(`${at.internalUrl}/admin/revoke`, { method: 'POST', headers, body: JSON.stringify(selector) })
}

/** Names and data of the events so far. */
function eventsOf(stream: LiveResponse): [name: string, data: Record<string, unknown>][] {
  return [...stream.text().matchAll(/^event: (\w+)\ndata: (.*)\n\n/gm)].map(([, name = '', data = '']) => [
    name,
    JSON.parse(data),
  ])
}

const lastOf = (stream: LiveResponse) => eventsOf(stream).at(-1)

/** How long after `since` each stream was closed; infinite when it was not within the limit. */
function closings(streams: LiveResponse[], since: number, limitMs: number): Promise<number[]> {
  const limit = (stream: LiveResponse) =>
    new Promise<number>(resolve => {
      const timer = setTimeout(() => resolve(Number.POSITIVE_INFINITY), limitMs)
      void stream.ended.then(() => {
        clearTimeout(timer)
        resolve(performance.now() - since)
      })
    })
  return Promise.all(streams.map(limit))
}

const figures = (delays: number[]) => delays.map(ms => ms.toFixed(0)).join(', ')

/** Ends a session and holds that its streams say why and close within a second. */
async function endsStreams(
  t: Test,
  streams: LiveResponse[],
  reason: EndReason,
  end: () => Promise<unknown>,
  name: string = reason,
): Promise<void> {
  await end()
  const delays = await closings(streams, performance.now(), 10_000)
  t.comment(`${name}: streams closed ${figures(delays)} ms after the answer`)
  for (const delay of delays) t.ok(delay < slackMs, `${name}: at once, on a busy machine, too`)
  for (const stream of streams) {
    t.same(lastOf(stream), ['ended', { reason }], `${name}: the last event says why`)
    t.match(stream.text(), /data: \{"reason":"\w+"\}\n\n$/, 'and nothing follows')
  }
}

test('a stream is an event stream, not to be stored or buffered, and begins at once', parallel(), async t => {
  const browser = await enter(long, 'hera')
  const stream = await openAt(long, 1, browser)
  t.equal(stream.status, 200)
  t.match(stream.headers, {
    'content-type': /^text\/event-stream/,
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    'x-accel-buffering': 'no',
  })
  t.same(stream.rawSetCookie, [])
  await stream.waitFor(/^retry: \d+\n\n/, slackMs)
  t.same(eventsOf(stream), [], 'nothing to tell yet')
  for (const secret of [cookieOf(browser), sessionIdOf(cookieOf(browser))]) t.notMatch(stream.text(), secret)
  stream.close()
})

// EventSource sends no custom header, so another site could open the stream and count what happens in it.
test('a stream is only opened for a page of the application with a session', parallel(), async t => {
  const browser = await enter(long, 'hugo')
  const cookies = [`${sessionCookie}=${cookieOf(browser)}`]
  const of = (headers: [string, string][], method = 'GET') =>
    browser.request(`${long.url}/bff/events`, { method, headers, cookies })
  const own: [string, string] = ['Sec-Fetch-Site', 'same-origin']
  const refusals: [string, string][][] = [
    [],
    [['X-CSRF', '1']],
    [['Sec-Fetch-Site', 'same-site']],
    [['Sec-Fetch-Site', 'cross-site']],
    [['Sec-Fetch-Site', 'none']],
    [['Origin', 'null']],
    [['Origin', 'http://localhost']],
    [['Origin', `${long.url}.evil.test`]],
    [['Origin', long.url.replace('localhost', 'evil.localhost')], own],
    [
      ['Origin', long.url],
      ['Sec-Fetch-Site', 'cross-site'],
    ],
  ]
  for (const headers of refusals) {
    const answer = await of(headers)
    t.match([answer.status, answer.json()], [403, { code: 'csrf' }], JSON.stringify(headers))
    t.same([answer.headers.location, answer.headers['cache-control']], [undefined, 'no-store'])
  }
  for (const method of ['HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
    const answer = await of([own], method)
    t.same([answer.status, answer.headers.allow], [405, 'GET'], method)
  }
  const anonymous = await browser.api('/bff/events', { cookies: [] })
  t.match([anonymous.status, anonymous.json()], [401, { code: 'not_authenticated' }])
  t.match(anonymous.headers['content-type'], /^application\/problem\+json/)
  for (const headers of [[own], [['Origin', long.url]]] as [string, string][][]) {
    const stream = await browser.stream('/bff/events', { headers: [['X-CSRF', ''], ...headers] })
    t.equal(stream.status, 200, JSON.stringify(headers))
    stream.close()
  }
})

test('a deadline is told ahead, and told to be off when activity elsewhere moved it', parallel(), async t => {
  const before = performance.now()
  const browser = await enter(short, 'nora')
  const since = performance.now()
  const streams = await openAtAll(short, browser)
  const ahead = /event: expiring\ndata: {"idleExpiresIn":[0123],"absoluteExpiresIn":431\d\d}\n\n/
  await Promise.all(streams.map(stream => stream.waitFor(ahead, warningMs + slackMs)))
  const warnedAt = performance.now()
  t.comment(`expiring came ${(warnedAt - since).toFixed(0)} ms after the login, of ${idleSeconds * 1000}`)
  t.ok(warnedAt - before > warningMs - 100, 'no earlier than a third of the idle timeout ahead')
  t.ok(warnedAt - since < warningMs + slackMs, 'and no later')

  const movingFrom = performance.now()
  t.equal((await ask(short, 2, browser, 'POST', 'activity')).status, 204)
  const movedAt = performance.now()
  await Promise.all(streams.map(stream => stream.waitFor(/event: extended\n/, 10_000)))
  const heardAfter = performance.now() - movedAt
  t.comment(`extended came ${heardAfter.toFixed(0)} ms after the activity on another replica`)
  t.ok(heardAfter < slackMs)
  for (const stream of streams) {
    const [name, data] = lastOf(stream) ?? []
    t.equal(name, 'extended')
    t.ok(Number(data?.idleExpiresIn) >= idleSeconds - slackMs / 1000, 'with the new deadline')
  }
  // From here on the streams are all there is: they warn again, and do not keep the session alive.
  const delays = await closings(streams, movedAt, idleSeconds * 1000 + 10_000)
  t.comment(`idle: streams closed ${figures(delays)} ms after the last activity`)
  for (const delay of delays) {
    t.ok(delay + movedAt - movingFrom > idleSeconds * 1000 - 100, 'not early')
    t.ok(delay < idleSeconds * 1000 + slackMs, 'in time')
  }
  for (const stream of streams) {
    t.same(
      eventsOf(stream).map(([name]) => name),
      ['expiring', 'extended', 'expiring', 'ended'],
    )
    t.same(lastOf(stream), ['ended', { reason: 'idle' }])
  }
  t.ok(await eventually(() => provider.revocations().length > 0), 'and the token is revoked')
})

// A page left open with its stream, or reconnecting it, would otherwise hold the session of an absent user for ever.
test('streams that come and go, and looking on, never keep a session alive', parallel(), async t => {
  const before = performance.now()
  const browser = await enter(short, 'lazy')
  const since = performance.now()
  let status = 200
  while (status === 200 && performance.now() - since < idleSeconds * 1000 + 10_000) {
    const index = Math.floor(Math.random() * 3)
    const stream = await openAt(short, index, browser)
    status = stream.status
    stream.close()
    await ask(short, index, browser, 'GET', 'user?slide=false')
    await ask(short, index, browser, 'GET', 'sessions')
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  const endedAt = performance.now()
  t.comment(`ended after ${(endedAt - since).toFixed(0)} ms`)
  t.ok(endedAt - before > idleSeconds * 1000 - 100, 'not early')
  t.ok(endedAt - since < idleSeconds * 1000 + slackMs, 'in time')
  t.match((await ask(short, 0, browser, 'GET', 'user')).json(), { code: 'session_expired', reason: 'idle' })
})

test('activity that comes again and again keeps the session, and its streams quiet', parallel(), async t => {
  const browser = await enter(short, 'busy')
  const stream = await openAt(short, 1, browser)
  const since = performance.now()
  for (let index = 0; performance.now() - since < 1.5 * idleSeconds * 1000; index += 1) {
    t.equal((await ask(short, index % 3, browser, 'POST', 'activity')).status, 204)
    await new Promise(resolve => setTimeout(resolve, 1000))
  }
  t.same(eventsOf(stream), [], 'no warning in one and a half idle timeouts')
  t.equal((await ask(short, 0, browser, 'POST', 'logout')).status, 200)
  await stream.ended
  t.same(lastOf(stream), ['ended', { reason: 'logout' }])
})

// The page of a signed-out user goes on showing what it shows until it hears of it.
test('streams on every replica end within a second of the session, and say why', parallel(), async t => {
  const ends: Partial<Record<EndReason, (browser: TestBrowser, user: string) => Promise<() => Promise<unknown>>>> = {
    logout: async browser => () => ask(long, 1, browser, 'POST', 'logout'),
    ended_elsewhere: async (_browser, user) => {
      const other = await enter(long, user)
      return () => ask(long, 2, other, 'DELETE', 'sessions')
    },
    admin: async (_browser, user) => () => admin(replicaOf(long, 1), { sub: user, iss: provider.issuer }),
    replaced: async (browser, user) => () => enter(long, user, browser),
    too_many: async (_browser, user) => {
      await enter(long, user)
      await enter(long, user)
      return () => enter(long, user)
    },
  }
  for (const [reason, prepare] of Object.entries(ends) as [EndReason, NonNullable<(typeof ends)[EndReason]>][]) {
    const user = `stream-${reason}`
    const browser = await enter(long, user)
    const streams = [...(await openAtAll(long, browser)), await openAt(long, 0, browser)]
    const end = await prepare(browser, user)
    await endsStreams(t, streams, reason, end)
  }
  const owner = await enter(long, 'stream-handle')
  const other = await enter(long, 'stream-handle')
  const [kept, streams] = [await openAtAll(long, owner), await openAtAll(long, other)]
  const remove = () => ask(long, 0, owner, 'DELETE', `sessions/${handleOf(other)}`)
  await endsStreams(t, streams, 'ended_elsewhere', remove, 'by its handle')
  for (const stream of kept) t.same(eventsOf(stream), [], 'the streams of the other session hear nothing')
  await endsStreams(t, kept, 'logout', () => ask(long, 2, owner, 'POST', 'logout'))
})

test('a quiet stream is kept open by a heartbeat', parallel(), async t => {
  const stream = await openAt(long, 0, await enter(long, 'calm'))
  const since = performance.now()
  await stream.waitFor(/^: alive\n\n/m, heartbeatMs + slackMs)
  t.comment(`the first heartbeat came after ${(performance.now() - since).toFixed(0)} ms`)
  t.same(eventsOf(stream), [])
  stream.close()
})

/** A link to Redis that can be troubled, for a gateway in this process. */
interface Link {
  url: string
  /** Answers to commands are held back until released; what is published comes through. */
  hold(): void
  /** How many sessions are in the answers held back, read and found to be live. */
  heldReads(): number
  release(): void
  /** Whether word of the end of a session has come through. */
  toldOf(sessionId: string): boolean
  /** What is published is lost, while the link looks sound. */
  mute(): void
  /** The next so many connections are cut when they subscribe. */
  cutSubscribers(count: number): void
  /** How often a session was asked for. */
  looksAt(sessionId: string): number
  /** Cuts everything; new connections are welcome. */
  cut(): void
  close(): void
}

async function startLink(redis: TestRedis): Promise<Link> {
  const pairs = new Set<[Socket, Socket]>()
  const held: { near: Socket; chunk: Buffer }[] = []
  let [holding, muted, cuts, published, commands] = [false, false, 0, '', '']
  const server = createServer(near => {
    const far = connect(redis.port, '127.0.0.1')
    const pair: [Socket, Socket] = [near, far]
    let subscriber = false
    pairs.add(pair)
    near.on('data', chunk => {
      if (/\bsubscribe\b/i.test(chunk.toString('latin1'))) {
        subscriber = true
        if (cuts > 0) {
          cuts -= 1
          return void near.destroy()
        }
      }
      commands += chunk.toString('latin1')
      far.write(chunk)
    })
    far.on('data', chunk => {
      if (subscriber && muted) return
      if (subscriber) published += chunk.toString('latin1')
      if (!subscriber && holding) held.push({ near, chunk })
      else near.write(chunk)
    })
    for (const socket of pair) {
      socket.on('error', () => undefined)
      socket.on('close', () => {
        pairs.delete(pair)
        for (const each of pair) each.destroy()
      })
    }
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const cut = () => {
    for (const pair of pairs) for (const socket of pair) socket.destroy()
  }
  return {
    url: `redis://127.0.0.1:${port}`,
    hold: () => {
      holding = true
    },
    heldReads: () =>
      Buffer.concat(held.map(({ chunk }) => chunk))
        .toString('latin1')
        .split('$4\r\nlive').length - 1,
    release: () => {
      holding = false
      for (const { near, chunk } of held.splice(0)) near.write(chunk)
    },
    looksAt: sessionId => commands.split(sessionId).length - 1,
    toldOf: sessionId => published.includes(`ended ${sessionId}`),
    mute: () => {
      muted = true
    },
    cutSubscribers: count => {
      cuts = count
    },
    cut,
    close: () => {
      server.close()
      cut()
    },
  }
}

/** A gateway on a link that can be troubled, beside a sound one on the same Redis. */
async function startPair(t: Test) {
  const redis = await startRedis()
  const link = await startLink(redis)
  const common = { SESSION_KEYS: sealingKey, ADMIN_TOKEN: adminToken }
  const [troubled, sound] = await Promise.all([
    startGateway({ provider, env: { ...common, REDIS_URL: link.url } }),
    startGateway({ provider, env: { ...common, REDIS_URL: redis.url } }),
  ])
  t.teardown(async () => {
    link.release()
    await Promise.all([troubled.close(), sound.close()])
    link.close()
    await redis.stop()
  })
  const browser = await enter(sound, 'pair')
  const here = { Origin: troubled.url, 'Sec-Fetch-Site': 'same-origin' }
  const open = () => browser.stream(`${troubled.url}/bff/events`, { headers: here })
  const subscribed = (count: number) =>
    eventually(async () => Number((await redis.client.pubsub('NUMSUB', 'coatcheck:events'))[1]) === count, 10_000)
  t.ok(await subscribed(2), 'both listen')
  return { redis, link, troubled, sound, browser, open, subscribed, here }
}

// The word of the end is lost on the way, while nothing looks broken: a firewall forgot the connection.
test('a stream that no word reaches ends within a second all the same', parallel(), async t => {
  const { link, sound, browser, open } = await startPair(t)
  link.mute()
  const streams = [await open(), await open()]
  t.equal((await browser.api(`${sound.url}/bff/logout`, { method: 'POST' })).status, 200)
  const delays = await closings(streams, performance.now(), 10_000)
  t.comment(`streams closed ${figures(delays)} ms after the end`)
  for (const delay of delays) t.ok(delay < slackMs)
  for (const stream of streams) t.same(lastOf(stream), ['ended', { reason: 'logout' }])
})

const heldMs = 1500
const soon = (holds: () => boolean | Promise<boolean>) => eventually(holds, heldMs)

/**
 * Plays a scene while answers of Redis are held back. A command waits two seconds for its own: a scene that took longer on
 * a busy machine, or came to nothing, is played again.
 */
async function whileHeld<T>(t: Test, scene: (pair: Awaited<ReturnType<typeof startPair>>) => Promise<T | null>) {
  for (let tries = 0; tries < 3; tries += 1) {
    const pair = await startPair(t)
    const since = performance.now()
    pair.link.hold()
    const result = await scene(pair)
    const tookMs = performance.now() - since
    pair.link.release()
    if (result !== null && tookMs < heldMs) return { ...pair, result }
    t.comment(`the scene took ${tookMs.toFixed(0)} ms${result === null ? ' and came to nothing' : ''}`)
  }
  throw new Error('the scene did not come about in three attempts')
}

// The session ends between the look at it and the stream's first listening: the word finds no stream to tell.
test('a session that ends while its stream is being opened ends the stream', parallel(), async t => {
  const { result } = await whileHeld(t, async ({ link, sound, browser, open }) => {
    const opening = open()
    const id = sessionIdOf(cookieOf(browser))
    if (!(await soon(() => link.heldReads() === 1))) return null
    // It was read; then it ends, and the word of that overtakes the answer.
    t.equal((await browser.api(`${sound.url}/bff/logout`, { method: 'POST' })).status, 200)
    return (await soon(() => link.toldOf(id))) ? { opening, since: performance.now() } : null
  })
  const stream = await result.opening
  t.equal(stream.status, 200, 'what was read was a live session')
  const [delay = 0] = await closings([stream], result.since, 10_000)
  t.comment(`closed ${delay.toFixed(0)} ms after it was opened`)
  t.ok(delay < slackMs)
  t.same(lastOf(stream), ['ended', { reason: 'logout' }])
})

// Clients that hang up early, a thousand times: each would leave a timer that asks the store for ever.
test('a stream whose client has gone before it was opened leaves nothing behind', parallel(), async t => {
  const clients = 5
  const { link, browser } = await whileHeld(t, async ({ link, troubled, browser, here }) => {
    const sockets = Array.from({ length: clients }, () => connect(troubled.port, '127.0.0.1'))
    const head = [
      'GET /bff/events HTTP/1.1',
      `Host: localhost:${troubled.port}`,
      ...Object.entries(here).map(([name, value]) => `${name}: ${value}`),
      `Cookie: ${sessionCookie}=${cookieOf(browser)}`,
    ]
    for (const socket of sockets) socket.write(`${head.join('\r\n')}\r\n\r\n`)
    const areRead = await soon(() => link.heldReads() === clients)
    for (const socket of sockets) socket.destroy()
    const { server } = troubled.app.publicServer
    const connections = promisify(server.getConnections.bind(server))
    return areRead && (await soon(async () => (await connections()) === 0)) ? 'they are gone' : null
  })
  const id = sessionIdOf(cookieOf(browser))
  const before = link.looksAt(id)
  t.equal(before, clients, 'each request asked for the session')
  await new Promise(resolve => setTimeout(resolve, heartbeatMs + 1000))
  t.equal(link.looksAt(id), before, 'nobody asks for the session any more')
})

// A gateway that is told to stop must not wait for streams that end only with their sessions.
test('a stream that is being opened while the gateway stops does not hold it up', parallel(), async t => {
  const { result } = await whileHeld(t, async ({ link, troubled, open }) => {
    const opening = open().catch(() => null)
    if (!(await soon(() => link.heldReads() === 1))) return null
    const stopping = troubled.close()
    const isClosed = await soon(() => !troubled.app.publicServer.server.listening)
    return isClosed ? { opening, stopping, since: performance.now() } : null
  })
  const tookMs = await result.stopping.then(() => performance.now() - result.since)
  t.comment(`it took ${tookMs.toFixed(0)} ms`)
  t.ok(tookMs < slackMs, 'the gateway has stopped')
  const stream = await result.opening
  t.match(
    stream?.headers,
    { 'content-type': 'text/event-stream' },
    'a browser connects again after a stream, not after an error',
  )
  stream?.close()
})

// A flapping network: the link breaks again in the instant in which it is being mended.
test('a link that breaks while it subscribes is mended all the same', parallel(), async t => {
  const { link, sound, browser, open, subscribed } = await startPair(t)
  link.cutSubscribers(2)
  link.cut()
  t.ok(await subscribed(2), 'it listens again')
  t.ok(
    await eventually(async () => {
      const stream = await open()
      stream.close()
      return stream.status === 200
    }),
  )
  const stream = await open()
  await endsStreams(t, [stream], 'logout', () => browser.api(`${sound.url}/bff/logout`, { method: 'POST' }))
})

// Redis drops its subscribers, and drops them again as they come back: the word of an end goes to nobody.
test(
  'streams survive cuts of the link that carries the word, and end within a second all the same',
  parallel(),
  async t => {
    const { redis, sound, browser: gone, open, subscribed, here, troubled } = await startPair(t)
    const stays = await enter(sound, 'stays')
    const openFor = (browser: TestBrowser) =>
      Promise.all([browser.stream(`${troubled.url}/bff/events`, { headers: here }), browser.stream('/bff/events')])
    const [lost, kept] = [[...(await openFor(gone)), await open()], await openFor(stays)]
    let over = false
    const cutting = (async () => {
      while (!over) await redis.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
    })()
    t.equal((await gone.api('/bff/logout', { method: 'POST' })).status, 200)
    const since = performance.now()
    over = true
    await cutting
    const delays = await closings(lost, since, 10_000)
    t.comment(`streams closed ${figures(delays)} ms after the end whose word may be lost`)
    for (const delay of delays) t.ok(delay < slackMs)
    for (const stream of lost) t.same(lastOf(stream), ['ended', { reason: 'logout' }])
    t.ok(await subscribed(2), 'both listen again')
    await endsStreams(t, kept, 'logout', () => stays.api('/bff/logout', { method: 'POST' }))
  },
)

// What is done to all replicas comes last, one after the other.
const alone = () => ({ buffered: false })
const subscribers = async (redis: TestRedis) => Number((await redis.client.pubsub('NUMSUB', 'coatcheck:events'))[1])

test('streams survive a restart of Redis, and hear again afterwards', alone(), async t => {
  const browser = await enter(long, 'phoenix')
  const streams = await openAtAll(long, browser)
  const since = performance.now()
  await lasting.restart()
  t.ok(await eventually(async () => (await subscribers(lasting)) === 3, 10_000), 'all listen again')
  t.comment(`they listened again ${(performance.now() - since).toFixed(0)} ms after the restart began`)
  for (const [index] of long.all.entries())
    t.ok(await eventually(async () => (await ask(long, index, browser, 'GET', 'user')).status === 200))
  for (const stream of streams) t.same(eventsOf(stream), [], 'the outage ended nothing')
  await endsStreams(t, streams, 'logout', () => ask(long, 2, browser, 'POST', 'logout'))
})

// An orchestrator kills what does not stop in time, and with it what was about to be written.
test('a replica that is told to stop ends its streams and exits, and they go on at another', alone(), async t => {
  const browser = await enter(long, 'leaving')
  const streams = [await openAt(long, 2, browser), await openAt(long, 2, browser), await openAt(long, 2, browser)]
  const elsewhere = await openAt(long, 1, browser)
  // As a real browser connects: it does not ask for the connection to be closed.
  const lasting = connect(Number(new URL(replicaOf(long, 2).url).port), '127.0.0.1')
  const head = ['GET /bff/events HTTP/1.1', 'Host: localhost', 'Sec-Fetch-Site: same-origin', `Origin: ${long.url}`]
  lasting.write(`${head.join('\r\n')}\r\nCookie: ${sessionCookie}=${cookieOf(browser)}\r\n\r\n`)
  const [first] = await once(lasting, 'data')
  t.match(String(first), /^HTTP\/1\.1 200/)
  const hungUp = once(lasting, 'close')
  const { process: child } = replicaOf(long, 2)
  const since = performance.now()
  const exit = once(child, 'exit')
  child.kill('SIGTERM')
  const [code] = await exit
  t.comment(`the process was gone after ${(performance.now() - since).toFixed(0)} ms`)
  t.equal(code, 0)
  t.ok(performance.now() - since < 10_000)
  await Promise.all([...streams.map(stream => stream.ended), hungUp])
  for (const stream of streams) t.same(eventsOf(stream), [], 'the session has not ended, so none says so')
  t.same(eventsOf(elsewhere), [])
  const again = await openAt(long, 0, browser)
  t.equal(again.status, 200, 'the browser goes on at another replica')
  await endsStreams(t, [again, elsewhere], 'logout', () => ask(long, 1, browser, 'POST', 'logout'))
})
