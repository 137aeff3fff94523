import { connect, type Socket } from 'node:net'
import tap, { test } from 'tap'
import { createBrowser, rawRequest } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { startGateway } from '../support/gateway.ts'
import { login } from '../support/login.ts'
import { startProvider } from '../support/provider.ts'
import { startUpstream } from '../support/upstream.ts'

const limits = { headersMs: 3000, requestMs: 4000, unreadMs: 2000, checkMs: 500 }
const provider = await startProvider()
const upstream = await startUpstream()
const gateway = await startGateway({ provider, upstreams: { '/api': upstream.url }, clientLimits: limits })
const browser = createBrowser({ origin: gateway.url })
await login(browser, gateway.url, provider)
const head = [
  `Host: localhost:${gateway.port}`,
  `Cookie: __Host-coatcheck=${browser.jar.get('__Host-coatcheck')}`,
  'X-CSRF: 1',
].join('\r\n')

tap.teardown(async () => {
  await gateway.close()
  await Promise.all([provider.close(), upstream.close()])
})

/** A connection that begins with this and, if it drips, goes on with a byte now and then. */
interface Slow {
  socket: Socket
  received: () => string
  closed: () => boolean
}

function startSlow(begin: string, { drips = false, reads = true } = {}): Slow {
  const socket = connect(gateway.port, '127.0.0.1')
  let [text, closed] = ['', false]
  socket.on('error', () => undefined)
  socket.on('connect', () => socket.write(begin))
  if (reads) socket.on('data', chunk => (text += chunk.toString('latin1')))
  else socket.pause()
  const drip = drips ? setInterval(() => socket.write('x'), 400) : undefined
  socket.on('close', () => {
    clearInterval(drip)
    closed = true
  })
  return { socket, received: () => text, closed: () => closed }
}

const many = <T>(count: number, make: () => T) => Array.from({ length: count }, make)
const openConnections = () =>
  new Promise<number>(resolve => gateway.app.publicServer.server.getConnections((_error, count) => resolve(count)))
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

// Slow loris: a few hundred connections that send or read a byte now and then hold all that a server has, for nothing.
test('clients that send or read too slowly are let go, and others are served meanwhile', {
  timeout: 60_000,
}, async t => {
  upstream.early = (message, response) => {
    if (!message.url?.startsWith('/huge')) return void response.end('{}')
    response.writeHead(200, { 'content-type': 'application/octet-stream' })
    const fill = () => {
      while (response.writable && response.write(Buffer.alloc(65_536)));
    }
    response.on('drain', fill)
    fill()
  }
  const quiet = await browser.stream('/bff/events')
  const before = await openConnections()
  const started = performance.now()
  const headers = many(100, () => startSlow(`GET / HTTP/1.1\r\n${head}\r\nX-Slow: `, { drips: true }))
  const forms = many(50, () =>
    startSlow(
      `POST /bff/backchannel HTTP/1.1\r\n${head}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 5000\r\n\r\n`,
      { drips: true },
    ),
  )
  const silent = many(50, () => startSlow(''))
  const readers = many(60, () => startSlow(`GET /api/huge HTTP/1.1\r\n${head}\r\n\r\n`, { reads: false }))
  const slow = [...headers, ...forms, ...silent]

  const timesMs: number[] = []
  const gone = async () => slow.every(each => each.closed()) && (await openConnections()) <= before
  while (!(await gone()) && performance.now() - started < 25_000) {
    const asked = performance.now()
    t.equal((await browser.api('/api/items')).status, 200)
    timesMs.push(performance.now() - asked)
    await pause(50)
  }
  t.ok(await gone(), `${await openConnections()} connections, ${slow.filter(each => !each.closed()).length} slow ones`)
  t.ok(performance.now() - started > limits.unreadMs, 'not at once')
  for (const each of [...headers, ...forms]) t.match(each.received(), /^HTTP\/1\.1 408 [\s\S]*"code":"request_timeout"/)
  const slowest = timesMs.toSorted((a, b) => a - b)[Math.floor(timesMs.length * 0.95)] ?? 0
  t.ok(slowest < 1000, `the others waited for up to ${Math.round(slowest)} ms`)
  t.ok(await eventually(() => upstream.requests.filter(({ url }) => url === '/huge').every(({ aborted }) => aborted)))
  for (const { socket } of readers) socket.destroy()
  upstream.early = undefined
  await browser.api('/bff/logout', { method: 'POST' })
  t.match(await quiet.waitFor(/event: ended/), /"reason":"logout"/, 'a quiet event stream lives on')
})

test('a connection may rest between requests for longer than an answer may lie unread', async t => {
  const kept = startSlow(`GET /bff/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n`)
  t.ok(await eventually(() => /404/.test(kept.received())))
  await pause(limits.unreadMs + 700)
  kept.socket.write('GET /bff/user HTTP/1.1\r\nHost: localhost\r\nX-CSRF: 1\r\nConnection: close\r\n\r\n')
  t.ok(await eventually(() => /HTTP\/1\.1 401/.test(kept.received())))
  t.ok(await eventually(kept.closed))
})

// A proxy in front gives each answer on a shared connection to whoever is next in line.
test('answers to requests in a row come in their order, and a broken one gets none in the place of another', async t => {
  const one = (path: string, more = '') => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n${more}\r\n`
  const answer = await rawRequest(
    gateway.port,
    one('/bff/nothing') + one('/bff/user', 'X-CSRF: 1\r\n') + one('/bff/user') + one('/bff/x', 'Connection: close\r\n'),
  )
  t.strictSame(
    answer.match(/HTTP\/1\.1 \d+/g),
    ['404', '401', '403', '404'].map(status => `HTTP/1.1 ${status}`),
  )

  await login(browser, gateway.url, provider)
  const session = `Cookie: __Host-coatcheck=${browser.jar.get('__Host-coatcheck')}\r\nX-CSRF: 1\r\n`
  upstream.early = (_message, response) => void setTimeout(() => response.end('{"late":true}'), 500)
  const mixed = await rawRequest(gateway.port, `${one('/api/items', session)}\x00garbage\r\n\r\n`, { idleMs: 1500 })
  t.notMatch(mixed, /^HTTP\/1\.1 400/)
  upstream.early = undefined
})
