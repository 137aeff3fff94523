import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import tap, { test } from 'tap'
import { WebSocket } from 'ws'
import { createBrowser } from '../support/browser.ts'
import { startProvider } from '../support/provider.ts'
import { startRedis } from '../support/redis.ts'
import { startReplicas } from '../support/replicas.ts'
import {
  type AcceptOptions,
  acceptSockets,
  openSocket,
  rawSocket,
  type TestSocket,
  within,
} from '../support/sockets.ts'
import { login, sessionCookie } from '../support/stage.ts'
import { startUpstream } from '../support/upstream.ts'

const mega = 1024 * 1024
const maxBody = 4 * mega

const provider = await startProvider()
const [upstream, redis] = await Promise.all([startUpstream(), startRedis()])
const replicas = await startReplicas(1, {
  provider,
  redis,
  env: {
    UPSTREAM_U0_PATH: '/api',
    UPSTREAM_U0_URL: upstream.url,
    UPSTREAM_U0_WEBSOCKET: 'true',
    UPSTREAM_U0_MAX_BODY: String(maxBody),
  },
})
const [gateway] = replicas.all
if (gateway === undefined) throw new Error('no replica')
const browser = createBrowser({ origin: replicas.url })
await login(browser, replicas.url, provider)
const cookie = browser.jar.get(sessionCookie) ?? ''
const open = () => openSocket(`${gateway.url}/api/live`, { cookie })

tap.teardown(async () => {
  await replicas.stop()
  await Promise.all([provider.close(), upstream.close(), redis.stop()])
})

tap.afterEach(() => {
  const log = JSON.stringify(gateway.log)
  const secrets = [cookie, ...provider.issued.accessTokens, ...provider.issued.refreshTokens]
  if (secrets.some(secret => log.includes(secret))) throw new Error('the log holds a secret')
  if (gateway.process.exitCode !== null) throw new Error('the gateway has ended')
})

/** The two ends of a websocket through the gateway. */
async function pair(options: AcceptOptions = {}): Promise<[client: TestSocket, far: TestSocket]> {
  const server = acceptSockets(upstream, options)
  const client = await open()
  return [client, await server.socket()]
}

const both = ([a, b]: [TestSocket, TestSocket]) => [[a, b] as const, [b, a] as const]

test('messages of every kind arrive as they were sent, in their order, both ways', async t => {
  const ends = await pair()
  const large = randomBytes(mega)
  for (const [from, to] of both(ends)) {
    const sent: (string | Buffer)[] = [
      'text',
      '',
      'ünïcödé 🧥',
      Buffer.alloc(0),
      randomBytes(70_000),
      large,
      'x'.repeat(mega),
    ]
    for (const message of sent) from.ws.send(message)
    from.ws.send('frag', { fin: false })
    from.ws.send('men', { fin: false })
    from.ws.send('ted', { fin: true })
    for (let index = 0; index < 5000; index += 1) from.ws.send(String(index))
    await within('all', () => to.messages.length === sent.length + 5001)
    t.same(to.messages.slice(0, sent.length).map(String), sent.map(String))
    t.same(to.messages.slice(0, sent.length).map(Buffer.isBuffer), sent.map(Buffer.isBuffer))
    t.equal(to.messages[sent.length], 'fragmented')
    t.same(
      to.messages.slice(sent.length + 1),
      Array.from({ length: 5000 }, (_, index) => String(index)),
    )
  }
  for (const { ws } of ends) ws.terminate()
})

test('what either side says at once after its open is not lost', async t => {
  const greetings = Array.from({ length: 100 }, (_, index) => `hello ${index}`)
  for (let round = 0; round < 10; round += 1) {
    const server = acceptSockets(upstream, {
      open: ws => {
        for (const greeting of greetings) ws.send(greeting)
        if (round % 2 === 1) ws.close(4000, 'that was all')
      },
    })
    const early = new WebSocket(`${gateway.url.replace('http', 'ws')}/api/live`, {
      headers: { origin: replicas.url, cookie: `${sessionCookie}=${cookie}` },
    })
    const heard: string[] = []
    early.on('message', data => heard.push(String(data)))
    early.on('open', () => {
      for (const greeting of greetings) early.send(greeting)
    })
    await within('the greetings', () => heard.length === greetings.length)
    t.same(heard, greetings)
    const far = await server.socket()
    if (round % 2 === 0) await within('the answers', () => far.messages.length === greetings.length)
    if (round % 2 === 0) t.same(far.messages, greetings)
    early.terminate()
    await far.closed
  }
})

test('pings are answered', async t => {
  const ends = await pair()
  for (const [from] of both(ends)) {
    const pong = new Promise(resolve => from.ws.once('pong', data => resolve(String(data))))
    from.ws.ping('are you there')
    t.equal(await pong, 'are you there')
  }
  for (const { ws } of ends) ws.terminate()
})

test('a close goes on with its code and reason, and an abrupt end as one', async t => {
  const ends: [string, (end: TestSocket) => void, number, string][] = [
    ['1000', end => end.ws.close(1000), 1000, ''],
    ['with a reason', end => end.ws.close(1001, 'bye'), 1001, 'bye'],
    ['of the application', end => end.ws.close(4000, 'ü'.repeat(61)), 4000, 'ü'.repeat(61)],
    ['3999', end => end.ws.close(3999, 'x'), 3999, 'x'],
    ['1011', end => end.ws.close(1011, 'x'), 1011, 'x'],
    ['without a code', end => end.ws.close(), 1005, ''],
    ['without a close', end => end.ws.terminate(), 1006, ''],
  ]
  for (const [name, close, code, reason] of ends) {
    for (const index of [0, 1] as const) {
      const [from, to] = index === 0 ? await pair() : ((await pair()).toReversed() as [TestSocket, TestSocket])
      from.ws.send('last words')
      if (name === 'without a close') await within('the last words', () => to.messages.length === 1)
      close(from)
      const closed = await to.closed
      t.match(closed, { code, reason }, `${name} of ${index === 0 ? 'the client' : 'the upstream'}`)
      t.same(to.messages, ['last words'])
    }
  }
})

test('a message that is too large ends both sides with 1009', async t => {
  for (const index of [0, 1]) {
    const ends = await pair()
    const [from, to] = index === 0 ? ends : [ends[1], ends[0]]
    from.ws.send(Buffer.alloc(maxBody))
    await within('the largest', () => to.messages.length === 1, 20_000)
    from.ws.send(Buffer.alloc(maxBody + 1))
    t.equal((await to.closed).code, 1009)
    t.equal((await from.closed).code, 1009)
    t.equal(to.messages.length, 1)
  }
})

test('frames that break the protocol end both sides', async t => {
  const broken: [string, number[]][] = [
    ['not masked', [0x81, 0x01, 0x61]],
    ['a reserved bit', [0xc1, 0x80, 0, 0, 0, 0]],
    ['an unknown opcode', [0x83, 0x80, 0, 0, 0, 0]],
    ['text that is not UTF-8', [0x81, 0x81, 0, 0, 0, 0, 0xff]],
    ['a close code that is none', [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xed]],
    ['a length of 2^63', [0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]],
  ]
  for (const [name, bytes] of broken) {
    const server = acceptSockets(upstream)
    const socket = await rawSocket(`${gateway.url}/api/live`, { cookie })
    const far = await server.socket()
    const gone = new Promise(resolve => socket.once('close', resolve))
    socket.resume()
    socket.on('end', () => socket.destroy())
    socket.write(Buffer.from(bytes))
    t.ok([1002, 1009].includes((await far.closed).code), name)
    await gone
  }
})

test('a side that does not read holds the other back, in flat memory, and gets all once it reads', {
  timeout: 110_000,
}, async t => {
  const rss = () =>
    Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${gateway.process.pid}/status`, 'utf8'))?.[1]) / 1024
  const size = 256 * 1024
  const count = 800
  for (const index of [0, 1]) {
    const ends = await pair()
    const [from, to] = index === 0 ? ends : [ends[1], ends[0]]
    to.ws.removeAllListeners('message')
    let received = 0
    let inOrder = true
    to.ws.on('message', data => {
      const bytes = data as Buffer
      inOrder &&= bytes.length === size && bytes.readUInt32BE(0) === received
      received += 1
    })
    const before = rss()
    let peak = before
    const watch = setInterval(() => {
      peak = Math.max(peak, rss())
    }, 50)
    to.ws.pause()
    let sent = 0
    const send = () => {
      while (sent < count && from.ws.bufferedAmount < 4 * mega) {
        const message = Buffer.alloc(size)
        message.writeUInt32BE(sent)
        sent += 1
        from.ws.send(message, send)
      }
    }
    send()
    await new Promise(resolve => setTimeout(resolve, 2000))
    t.ok(sent < count, `held back after ${sent} of ${count}`)
    to.ws.resume()
    await within('all', () => received === count, 45_000)
    clearInterval(watch)
    t.ok(inOrder)
    t.comment(`from ${before.toFixed(0)} MB to ${peak.toFixed(0)} MB`)
    t.ok(peak - before < 80, `${(peak - before).toFixed(0)} MB more`)
    for (const { ws } of ends) ws.terminate()
  }
})

// Each message costs more than its bytes: a million empty ones for a side that does not read are a few megabytes.
test('neither empty messages nor pings for a side that does not read fill the memory', { timeout: 60_000 }, async t => {
  const rss = () =>
    Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${gateway.process.pid}/status`, 'utf8'))?.[1]) / 1024
  const frames: [string, number[]][] = [
    ['empty messages', [0x82, 0x80, 0, 0, 0, 0]],
    ['pings', [0x89, 0x80, 0, 0, 0, 0]],
  ]
  for (const [name, frame] of frames) {
    const server = acceptSockets(upstream)
    const socket = await rawSocket(`${gateway.url}/api/live`, { cookie })
    const far = await server.socket()
    far.ws.pause()
    socket.pause()
    const before = rss()
    let peak = before
    const chunk = Buffer.concat(Array.from({ length: 10_000 }, () => Buffer.from(frame)))
    const until = performance.now() + 2500
    while (performance.now() < until && !socket.destroyed) {
      if (socket.writableLength < mega) socket.write(chunk)
      await new Promise(resolve => setTimeout(resolve, 5))
      peak = Math.max(peak, rss())
    }
    t.comment(`${name}: from ${before.toFixed(0)} MB to ${peak.toFixed(0)} MB`)
    t.ok(peak - before < 100, name)
    socket.destroy()
    far.ws.terminate()
  }
})

test('nothing remains of sockets that were opened and closed', { timeout: 60_000 }, async t => {
  const server = acceptSockets(upstream)
  const url = `${gateway.internalUrl}/healthz`
  for (let round = 0; round < 10; round += 1) {
    const clients = await Promise.all(Array.from({ length: 20 }, open))
    await within('the upstream', () => server.sockets.length === (round + 1) * 20)
    clients.forEach(({ ws }, index) => {
      if (index % 3 === 0) ws.close()
      else if (index % 3 === 1) ws.terminate()
      else server.sockets.at(-1 - index)?.ws.close(4000)
    })
    for (const { ws } of clients) ws.close()
    await Promise.all(clients.map(({ closed }) => closed))
  }
  await Promise.all(server.sockets.map(({ closed }) => closed))
  t.equal(server.sockets.length, 200)
  const ports = [new URL(gateway.url).port, String(upstream.port)]
  await within('no connection', () => ports.every(port => established(Number(port)) === 0))
  t.equal((await fetch(url)).status, 200)
  t.equal((await browser.api('/api/items')).status, 200)
})

/** Connections on which a process here has this port at one end, as the kernel counts them. */
function established(port: number): number {
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  return ['/proc/net/tcp', '/proc/net/tcp6']
    .flatMap(file => readFileSync(file, 'utf8').split('\n'))
    .filter(line =>
      new RegExp(`:${hex} [0-9A-F]+:[0-9A-F]{4} 01 |[0-9A-F]:[0-9A-F]{4} [0-9A-F]+:${hex} 01 `).test(line),
    ).length
}
