import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import tap, { type Test, test } from 'tap'
import { createBrowser, type LiveResponse, type TestBrowser } from '../support/browser.ts'
import { startProvider } from '../support/provider.ts'
import { startRedis } from '../support/redis.ts'
import { type Replica, type Replicas, startReplicas } from '../support/replicas.ts'
import { acceptSockets, openSocket, rawSocket, type TestSocket, within } from '../support/sockets.ts'
import { login, sessionCookie } from '../support/stage.ts'
import { startUpstream } from '../support/upstream.ts'

const adminToken = 'the-administrators-own-secret'
const idleSeconds = 6
/** Of the promise, within which everything of a session is closed, and slack for a busy machine. */
const [promisedMs, slackMs] = [1000, 500]

const provider = await startProvider()
const upstream = await startUpstream()
const [lasting, brief] = await Promise.all([startRedis(), startRedis()])
const env = {
  ADMIN_TOKEN: adminToken,
  UPSTREAM_U0_PATH: '/api',
  UPSTREAM_U0_URL: upstream.url,
  UPSTREAM_U0_WEBSOCKET: 'true',
}
const [long, short] = await Promise.all([
  startReplicas(2, { provider, redis: lasting, env }),
  startReplicas(1, { provider, redis: brief, env: { ...env, SESSION_IDLE_TIMEOUT: `${idleSeconds}s` } }),
])
const server = acceptSockets(upstream)
const streams: ServerResponse[] = []
upstream.early = (message, response) => {
  if (!message.url?.startsWith('/stream')) return void response.end('{}')
  streams.push(response)
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.write('data: first\n\n')
}

tap.teardown(async () => {
  await Promise.all([long.stop(), short.stop()])
  await Promise.all([provider.close(), upstream.close(), lasting.stop(), brief.stop()])
})

tap.afterEach(() => {
  const log = JSON.stringify([...long.all, ...short.all].map(replica => replica.log))
  const secrets = [...provider.issued.accessTokens, ...provider.issued.refreshTokens, ...cookies]
  if (secrets.some(secret => log.includes(secret))) throw new Error('the log holds a secret')
})
const cookies: string[] = []

async function enter(replicas: Replicas, user: string): Promise<[TestBrowser, string]> {
  const browser = createBrowser({ origin: replicas.url })
  await login(browser, replicas.url, provider, { user })
  const cookie = browser.jar.get(sessionCookie) ?? ''
  cookies.push(cookie)
  return [browser, cookie]
}

/** All that a session can have open through a replica. */
interface Open {
  client: TestSocket
  far: TestSocket
  /** A client that answers nothing, and one that reads nothing. */
  deaf: Socket[]
  stream: LiveResponse
  streamFar: ServerResponse
}

async function openAll(replicas: Replicas, replica: Replica, browser: TestBrowser, cookie: string): Promise<Open> {
  const [url, origin] = [`${replica.url}/api/live`, replicas.url]
  const client = await openSocket(url, { cookie, origin })
  const far = await server.socket(server.sockets.length - 1)
  const deaf = [await rawSocket(url, { cookie, origin }), await rawSocket(url, { cookie, origin })]
  deaf[0]?.on('data', () => undefined)
  deaf[1]?.pause()
  const stream = await browser.stream(`${replica.url}/api/stream`, {
    headers: { Origin: origin, 'Sec-Fetch-Site': 'same-origin' },
  })
  await stream.waitFor(/first/)
  return { client, far, deaf, stream, streamFar: streams.at(-1) as ServerResponse }
}

/** When this process was last awake, and the gaps: what it sees late because it stood still itself was not late. */
let awakeAt = performance.now()
const gaps: { until: number; ms: number }[] = []
setInterval(() => {
  const now = performance.now()
  gaps.push({ until: now, ms: now - awakeAt })
  awakeAt = now
}, 20).unref()

/** Within how many milliseconds all has to be seen closed that had to be closed since then. */
function allowedMs(since: number): number {
  const longest = Math.max(performance.now() - awakeAt, ...gaps.filter(gap => gap.until >= since).map(({ ms }) => ms))
  return promisedMs + slackMs + longest
}

/** Holds that all of it is closed in time after `since`, the clients with this code. */
async function allClosed(t: Test, opened: Open[], code: number, reason: string, since: number): Promise<void> {
  const inTime = async (what: string, holds: () => unknown) => {
    while (!holds()) {
      if (performance.now() - since > allowedMs(since)) throw new Error(`${what}: not in time`)
      await new Promise(resolve => setTimeout(resolve, 5))
    }
  }
  for (const { client, far, deaf, stream, streamFar } of opened) {
    let streamEnded = false
    void stream.ended.then(() => {
      streamEnded = true
    })
    for (const side of [client, far]) {
      const closed = await side.closed
      t.match(closed, { code, reason })
      t.ok(closed.at - since < allowedMs(since), `after ${Math.round(closed.at - since)} ms`)
    }
    await inTime('a client that does not answer', () => deaf[0]?.destroyed)
    await inTime('the stream', () => streamEnded)
    await inTime("the stream's upstream", () => streamFar.destroyed)
    // To see its end it has to read.
    deaf[1]?.resume()
    await within('a client that does not read', () => deaf[1]?.destroyed)
  }
}

const [first, second] = long.all as [Replica, Replica]
const sameOrigin = { Origin: long.url, 'Sec-Fetch-Site': 'same-origin' }

const ways: [string, (browser: TestBrowser, user: string) => Promise<{ status: number }>][] = [
  ['a logout', browser => browser.api(`${first.url}/bff/logout`, { method: 'POST', headers: sameOrigin })],
  [
    'a logout on another replica',
    browser => browser.api(`${second.url}/bff/logout`, { method: 'POST', headers: sameOrigin }),
  ],
  [
    'an administrator',
    (_browser, sub) =>
      fetch(`${second.internalUrl}/admin/revoke`, {
        method: 'POST',
        headers: { authorization: `Bearer ${adminToken}`, 'content-type': 'application/json' },
        body: JSON.stringify({ iss: provider.issuer, sub }),
      }),
  ],
  [
    'the back channel',
    (_browser, sub) =>
      fetch(`${second.url}/bff/backchannel`, {
        method: 'POST',
        body: new URLSearchParams({ logout_token: provider.logoutToken({ sub }) }),
      }),
  ],
]

for (const [name, end] of ways)
  test(`${name} closes all that a session has open, on every replica`, async t => {
    const user = `user of ${name}`
    const [browser, cookie] = await enter(long, user)
    const [other, otherCookie] = await enter(long, 'bystander')
    const opened: Open[] = []
    for (const replica of long.all) opened.push(await openAll(long, replica, browser, cookie))
    const bystander = await openAll(long, first, other, otherCookie)
    t.equal((await end(browser, user)).status, 200)
    await allClosed(t, opened, 4401, 'the session has ended', performance.now())
    t.equal(bystander.client.ws.readyState, bystander.client.ws.OPEN, 'of this session alone')
    bystander.client.ws.send('still here')
    await within('a message of another', () => bystander.far.messages.length === 1)
    await t.rejects(openSocket(`${first.url}/api/live`, { cookie, origin: long.url }), /401/)
    bystander.client.ws.terminate()
    bystander.stream.close()
    for (const socket of bystander.deaf) socket.destroy()
  })

test('the idle deadline comes although frames flow and websockets are opened', { timeout: 40_000 }, async t => {
  const [browser, cookie] = await enter(short, 'ida')
  const [replica] = short.all as [Replica]
  t.equal((await browser.api('/api/items')).status, 200)
  const since = performance.now()
  const opened = await openAll(short, replica, browser, cookie)
  const ready = performance.now()
  const chatter = setInterval(() => {
    opened.client.ws.send('up')
    opened.far.ws.send('down')
    opened.streamFar.write('data: more\n\n')
  }, 100)
  const visits = setInterval(() => {
    openSocket(`${replica.url}/api/live`, { cookie }).then(
      ({ ws }) => ws.close(),
      () => undefined,
    )
  }, 500)
  const { code, at } = await opened.client.closed
  clearInterval(chatter)
  clearInterval(visits)
  t.equal(code, 4401)
  t.ok(opened.far.messages.length > 10)
  t.ok(at - since > (idleSeconds - 1) * 1000, `not before its time: ${Math.round(at - since)} ms`)
  t.ok(at - ready < (idleSeconds + 1) * 1000 + 2000, `${Math.round(at - ready)} ms`)
  await allClosed(t, [opened], 4401, 'the session has ended', at)
})

test('a gateway that stops closes its websockets with 1001, and is gone in time', { timeout: 40_000 }, async t => {
  const [browser, cookie] = await enter(long, 'sam')
  const url = `${second.url}/api/live`
  const client = await openSocket(url, { cookie, origin: long.url })
  const far = await server.socket(server.sockets.length - 1)
  const deaf = await rawSocket(url, { cookie, origin: long.url })
  const deafFar = await server.socket(server.sockets.length - 1)
  deaf.pause()
  const block = Buffer.alloc(1024 * 1024)
  for (let index = 0; index < 16; index += 1) deafFar.ws.send(block)
  const since = performance.now()
  await second.stop()
  t.ok(performance.now() - since < 8000, `${Math.round(performance.now() - since)} ms`)
  t.equal(second.process.exitCode, 0)
  t.match(await client.closed, { code: 1001 })
  t.match(await far.closed, { code: 1001 })
  await deafFar.closed
  deaf.destroy()
  t.equal((await browser.api('/api/items')).status, 200, 'the session lives')
})
