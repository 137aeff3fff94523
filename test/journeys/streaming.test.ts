import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { type IncomingMessage, request, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { brotliCompressSync, gzipSync } from 'node:zlib'
import tap, { test } from 'tap'
import { createBrowser, rawRequest } from '../support/browser.ts'
import { type Connection, openConnection, requestHead } from '../support/connection.ts'
import { eventually } from '../support/eventually.ts'
import { startGateway } from '../support/gateway.ts'
import { login } from '../support/login.ts'
import { startProvider } from '../support/provider.ts'
import { startRedis } from '../support/redis.ts'
import { startReplicas } from '../support/replicas.ts'
import { linked } from '../support/stage.ts'
import { startUpstream } from '../support/upstream.ts'

const provider = await startProvider()
const api = await startUpstream()
const gateway = await startGateway({
  provider,
  upstreams: { '/api': api.url },
  env: { UPSTREAM_U0_MAX_BODY: '1kb' },
})
await linked(gateway)
const browser = createBrowser({ origin: gateway.url })
await login(browser, gateway.url, provider)
const session = [`Cookie: __Host-coatcheck=${browser.jar.get('__Host-coatcheck')}`, 'X-CSRF: 1']

tap.teardown(async () => {
  await gateway.close()
  await Promise.all([provider.close(), api.close()])
})
tap.beforeEach(() => api.clear())

const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const open = (line: string, headers: string[] = [], body = ''): Connection =>
  openConnection(gateway.port, requestHead(line, [...session, ...headers]) + body)
/** A whole exchange on a connection of its own, byte for byte. */
const exchange = (line: string, headers: string[] = [], body = '') =>
  rawRequest(gateway.port, requestHead(line, [...session, 'Connection: close', ...headers]) + body)
/** Lets the upstream answer with exactly these bytes, and then hang up if it says so itself. */
const answerRaw = (bytes: string, { ends = true } = {}) => {
  api.early = ({ socket }) => void (ends ? socket.end(bytes, 'latin1') : socket.write(bytes, 'latin1'))
}
const bodyOf = (answer: string) => answer.slice(answer.indexOf('\r\n\r\n') + 4)
const headOf = (answer: string) => answer.slice(0, answer.indexOf('\r\n\r\n'))

test('the first bytes of a slow upload reach the upstream before the rest is sent', async t => {
  for (const [name, framing, first, rest] of [
    ['announced', 'Content-Length: 10', 'first', 'later'],
    ['chunked', 'Transfer-Encoding: chunked', '5\r\nfirst\r\n', '5\r\nlater\r\n0\r\n\r\n'],
  ] as const) {
    api.clear()
    const upload = open('POST /api/upload', [framing], first)
    t.ok(await eventually(() => /first/.test(api.rawText())), `${name}: the beginning is there`)
    t.notMatch(api.rawText(), /later/)
    upload.socket.write(rest)
    t.equal((await api.waitFor(() => true)).body.toString(), 'firstlater', name)
    t.ok(await upload.receives(/^HTTP\/1\.1 200/), name)
    upload.socket.destroy()
  }
})

test('the first event of a stream and the first chunk of a slow download are there at once', async t => {
  const held = new Set<ServerResponse>()
  t.teardown(() => {
    for (const response of held) response.destroy()
  })
  api.early = (message, response) => {
    held.add(response)
    const type = message.url === '/events' ? 'text/event-stream' : 'application/octet-stream'
    response.writeHead(200, { 'content-type': type })
    response.write('data: one\n\n')
  }
  for (const path of ['/events', '/download']) {
    const started = performance.now()
    const answer = await browser.stream(`/api${path}`)
    await answer.waitFor(/data: one\n\n/)
    const tookMs = Math.round(performance.now() - started)
    t.comment(`${path} after ${tookMs} ms`)
    t.ok(tookMs < 5000, `${path} at once`)
    t.equal(answer.text(), 'data: one\n\n', 'while the upstream holds the rest back')
    const [response] = [...held].slice(-1)
    response?.end('data: two\n\n')
    await answer.ended
    t.equal(answer.text(), 'data: one\n\ndata: two\n\n')
  }
})

// Work that nobody waits for any more is how a few clients that come and go wear an API out.
test('a client that leaves takes its request to the upstream along', async t => {
  const gone = new Map<string, number>()
  const bytes = new Map<string, number>()
  api.early = (message, response) => {
    const path = message.url ?? ''
    response.on('close', () => gone.set(path, performance.now()))
    message.on('error', () => undefined)
    message.on('data', chunk => bytes.set(path, (bytes.get(path) ?? 0) + chunk.length))
    if (path === '/body') {
      response.writeHead(200, { 'content-type': 'application/octet-stream' })
      response.write('begun')
    }
  }
  const waiting = open('GET /api/waiting')
  t.ok(await eventually(() => api.requests.length === 1))
  const reading = open('GET /api/body')
  t.ok(await reading.receives(/begun/))
  const sending = open('POST /api/upload', ['Content-Length: 1000'], 'begun')
  t.ok(await eventually(() => bytes.get('/upload') === 5))
  const posted = open('POST /api/posted', ['Content-Length: 5'], 'begun')
  t.ok(await eventually(() => bytes.get('/posted') === 5))
  t.equal(gone.size, 0)
  const left = performance.now()
  for (const { socket } of [waiting, reading, sending, posted]) socket.destroy()
  t.ok(await eventually(() => gone.size === 4))
  for (const [path, at] of gone) {
    t.comment(`${path} after ${Math.round(at - left)} ms`)
    t.ok(at - left < 5000, `${path} at once`)
  }
  t.ok(
    api.requests.every(({ complete }) => !complete),
    'and none has been seen as whole',
  )
})

// Requests in a row on one connection: Node tells nothing to a response whose turn has not come when the connection ends.
test('a client that leaves takes those requests along, too, whose answers were not yet due', async t => {
  const gone: string[] = []
  api.early = (message, response) => {
    response.on('close', () => gone.push(message.url ?? ''))
    if (message.url !== '/stream') return
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(': open\n\n')
  }
  const [slow, stream] = ['/slow', '/stream'].map(path => requestHead(`GET /api${path}`, session))
  const row = openConnection(gateway.port, `${slow}${stream}`)
  t.ok(await eventually(() => api.requests.length === 2))
  await pause(100)
  t.same(gone, [])
  row.socket.destroy()
  t.ok(await eventually(() => gone.length === 2), `${gone}`)
  // None of them counts as under way any more.
  api.early = (_message, response) => void response.end('{}')
  const many = Array.from({ length: 128 }, () => browser.api('/api/x'))
  for (const { status } of await Promise.all(many)) if (status !== 200) t.fail(`${status}`)
})

// An API that refuses an upload by its headers does not wait for the end of it.
test('an answer that comes before the request has been sent arrives', async t => {
  let upload: IncomingMessage | undefined
  api.early = (message, response) => {
    upload = message
    response.writeHead(409, { 'content-type': 'text/plain' }).end('no room')
  }
  const sending = open('PUT /api/x', ['Content-Length: 1000'], 'begun')
  t.ok(await sending.receives(/^HTTP\/1\.1 409 [\s\S]*no room/))
  t.ok(await sending.closes(), 'the connection is of no more use')
  t.ok(await eventually(() => upload?.socket.destroyed === true))
  t.equal(api.requests[0]?.complete, false)
})

test('trailers that an upstream announced arrive', async t => {
  answerRaw(
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum, Server-Timing\r\n\r\n' +
      '4\r\nbody\r\n0\r\nX-Checksum: abc\r\nServer-Timing: db;dur=5\r\n\r\n',
  )
  const answer = await exchange('GET /api/x')
  t.match(headOf(answer), /\r\ntrailer: x-checksum, server-timing/i)
  t.match(bodyOf(answer), /^4\r\nbody\r\n0\r\nx-checksum: abc\r\nserver-timing: db;dur=5\r\n\r\n$/i)
})

// What comes after the body is read when nobody looks at headers any more.
test('trailers that are not announced, not fit, or not for this client do no harm', async t => {
  const chunked = (trailer: string, last: string) =>
    `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n${trailer}\r\n4\r\nbody\r\n0\r\n${last}\r\n`
  const unfit = 'Set-Cookie, Content-Length, Transfer-Encoding, Access-Control-Allow-Origin, Location, X Y, é, X-Ok'
  const cases: [string, string, string][] = [
    ['not announced', '', 'X-Checksum: abc\r\n'],
    ['another one', 'Trailer: X-Other\r\n', 'X-Checksum: abc\r\n'],
    ['none after all', 'Trailer: X-Checksum\r\n', ''],
    ['unfit', `Trailer: ${unfit}\r\n`, 'Set-Cookie: a=b\r\nAccess-Control-Allow-Origin: *\r\nLocation: /x\r\n'],
    ['announced twice', 'Trailer: X-A\r\nTrailer: X-B\r\n', 'X-C: 1\r\n'],
    ['named by Connection', 'Connection: x-checksum, close\r\nTrailer: X-Checksum\r\n', 'X-Checksum: abc\r\n'],
  ]
  for (const [name, announced, last] of cases) {
    answerRaw(chunked(announced, last))
    const answer = await exchange('GET /api/x')
    t.match(answer, /^HTTP\/1\.1 200 /, name)
    // What came as a whole goes out as a whole.
    t.equal(bodyOf(answer), announced === '' ? 'body' : '4\r\nbody\r\n0\r\n\r\n', name)
  }
  answerRaw(chunked('Trailer: X-Twice, X-Once\r\n', 'X-Twice: 1\r\nX-Twice: 2\r\nX-Once: \xe9\r\n'))
  t.match(bodyOf(await exchange('GET /api/x')), /0\r\nx-twice: 1\r\nx-twice: 2\r\nx-once: \xe9\r\n\r\n$/i)

  const trailer = chunked('Trailer: X-Checksum\r\n', 'X-Checksum: abc\r\n')
  answerRaw(trailer.slice(0, trailer.indexOf('\r\n\r\n') + 4))
  const head = await exchange('HEAD /api/x')
  t.match(head, /^HTTP\/1\.1 200 /)
  t.equal(bodyOf(head), '')
  answerRaw(trailer)
  const old = requestHead('GET /api/x', session).replace('HTTP/1.1', 'HTTP/1.0')
  const plain = await rawRequest(gateway.port, old)
  t.match(plain, /^HTTP\/1\.1 200 /)
  t.equal(bodyOf(plain), 'body', 'HTTP/1.0 knows neither chunks nor trailers')
  answerRaw('HTTP/1.1 204 No Content\r\nTrailer: X-Checksum\r\n\r\n')
  t.match(await exchange('GET /api/x'), /^HTTP\/1\.1 204 /)
  t.equal((await browser.api('/bff/user')).status, 200, 'and the gateway lives')
})

test('parts, conditions and answers without a body keep their form', async t => {
  const cases: [line: string, answer: string, status: RegExp, head: RegExp[], body: string][] = [
    [
      'GET /api/part',
      'HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/9\r\nContent-Length: 3\r\nAccept-Ranges: bytes\r\n\r\n234',
      /^HTTP\/1\.1 206 /,
      [/content-range: bytes 2-4\/9/i, /content-length: 3/i, /accept-ranges: bytes/i],
      '234',
    ],
    [
      'GET /api/part',
      'HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */9\r\nContent-Length: 0\r\n\r\n',
      /^HTTP\/1\.1 416 /,
      [/content-range: bytes \*\/9/i, /content-length: 0/i],
      '',
    ],
    [
      'HEAD /api/x',
      'HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: "a"\r\n\r\n',
      /^HTTP\/1\.1 200 /,
      [/content-length: 1234/i, /etag: "a"/i],
      '',
    ],
    ['DELETE /api/x', 'HTTP/1.1 204 No Content\r\nX-Ok: 1\r\n\r\n', /^HTTP\/1\.1 204 /, [/x-ok: 1/i], ''],
    [
      'GET /api/x',
      'HTTP/1.1 304 Not Modified\r\nETag: W/"a"\r\nCache-Control: max-age=1\r\n\r\n',
      /^HTTP\/1\.1 304 /,
      [/etag: W\/"a"/i, /cache-control: private, max-age=1/i],
      '',
    ],
    // The length that a 200 would have (RFC 9110 §8.6): no body follows.
    [
      'GET /api/x',
      'HTTP/1.1 304 Not Modified\r\nETag: "b"\r\nContent-Length: 9\r\n\r\n',
      /^HTTP\/1\.1 304 /,
      [/etag: "b"/i],
      '',
    ],
    ['POST /api/x', 'HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n', /^HTTP\/1\.1 205 /, [], ''],
    ['GET /api/x', 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n', /^HTTP\/1\.1 200 /, [/content-length: 0/i], ''],
    [
      'GET /api/x',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      /^HTTP\/1\.1 200 /,
      [/content-length: 0/i],
      '',
    ],
    [
      'GET /api/x',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n',
      /^HTTP\/1\.1 200 /,
      [/content-length: 3/i],
      'abc',
    ],
    [
      'GET /api/x',
      'HTTP/1.0 200 OK\r\n\r\nold',
      /^HTTP\/1\.1 200 /,
      [/transfer-encoding: chunked/i],
      '3\r\nold\r\n0\r\n\r\n',
    ],
    [
      'GET /api/x',
      'HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
      /^HTTP\/1\.1 200 /,
      [/content-length: 2/i],
      'ok',
    ],
    [
      'GET /api/x',
      'HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX-Name: \xe9\xa9\r\n\r\nok',
      /^HTTP\/1\.1 200 /,
      [/x-name: \xe9\xa9/i],
      'ok',
    ],
  ]
  for (const [line, raw, status, heads, body] of cases) {
    answerRaw(raw)
    const answer = await exchange(line, ['Range: bytes=2-4', 'If-None-Match: "a"'])
    t.match(answer, status, `${line} ${raw}`)
    for (const head of heads) t.match(headOf(answer), head, raw)
    t.equal(bodyOf(answer), body, raw)
    t.notMatch(answer, /early hints|a\.css/i)
    t.match(api.requests.at(-1)?.headers, { range: 'bytes=2-4', 'if-none-match': '"a"' })
  }
})

test('bodies are neither opened nor packed anew', async t => {
  const plain = randomBytes(50_000).toString('hex')
  const packed = { gzip: gzipSync(plain), br: brotliCompressSync(plain), identity: randomBytes(300_000) }
  for (const [encoding, body] of Object.entries(packed)) {
    api.early = (message, response) => {
      t.equal(message.headers['accept-encoding'], 'gzip, br', 'what the client takes is asked for')
      response.writeHead(200, { 'content-encoding': encoding, 'content-length': body.length, etag: `"${encoding}"` })
      response.end(body)
    }
    const answer = await browser.api('/api/x', { headers: { 'accept-encoding': 'gzip, br' } })
    t.ok(answer.body.equals(body), encoding)
    t.match(answer.headers, { 'content-encoding': encoding, 'content-length': `${body.length}`, etag: `"${encoding}"` })
  }
})

test("an upstream's own errors are passed on, and asked for once", async t => {
  for (const [method, status] of [
    ['GET', 503],
    ['GET', 500],
    ['POST', 503],
    ['GET', 429],
  ] as const) {
    api.clear()
    api.respond = (_request, response) => void response.writeHead(status, { 'retry-after': '1' }).end('theirs')
    const answer = await browser.api('/api/x', { method })
    t.same([answer.status, answer.text, answer.headers['retry-after']], [status, 'theirs', '1'])
    await pause(50)
    t.equal(api.requests.length, 1, `${method} ${status}`)
  }
})

// A payment that is sent again because the first answer got lost is paid twice.
test('a request that may have done its work is never sent again', async t => {
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) {
    api.clear()
    t.equal((await browser.api('/api/warm')).status, 200)
    api.respond = (_request, response) => void response.socket?.resetAndDestroy()
    const answer = await browser.api('/api/pay', { method, ...(method !== 'DELETE' && { body: 'ten' }) })
    t.match([answer.status, answer.json()], [502, { code: 'bad_upstream' }], method)
    await pause(50)
    t.equal(api.requests.filter(({ url }) => url === '/pay').length, 1, method)
  }
})

test('a connection that the upstream closed while nobody used it fails no GET', async t => {
  const lives = new Map<Socket, number>()
  let asked = 0
  // Closes instead of answering the second time, as if the request and the end of the connection had crossed.
  api.early = (message, response) => {
    asked += 1
    const count = (lives.get(message.socket) ?? 0) + 1
    lives.set(message.socket, count)
    if (count > 1) message.socket[asked % 2 === 0 ? 'destroy' : 'resetAndDestroy']()
    else response.end('fine')
  }
  for (let round = 0; round < 4; round += 1) {
    t.equal((await browser.api('/api/warm')).status, 200)
    t.equal((await browser.api('/api/x')).text, 'fine', `round ${round}`)
  }
  api.early = message => void message.socket.destroy()
  api.requests.length = 0
  t.equal((await browser.api('/api/x')).status, 502, 'one that fails each time is not tried for ever')
  await pause(50)
  t.ok(api.requests.length <= 2)
  api.early = ({ socket }) => void socket.end('HTTP/1.1 2')
  api.requests.length = 0
  t.equal((await browser.api('/api/x')).status, 502)
  await pause(50)
  t.equal(api.requests.length, 1, 'nor one that had begun to be answered')
})

// The length of a body is what its sender says; memory and disks of an API end sooner.
test('a body over the limit is refused, before it is read where its length is known', async t => {
  const announced = open('POST /api/x', ['Content-Length: 1025'])
  t.ok(await announced.receives(/^HTTP\/1\.1 413 [\s\S]*"code":"payload_too_large"/), 'before a byte is sent')
  announced.socket.destroy()
  t.equal(api.requests.length, 0)

  const exact = await exchange('POST /api/x', ['Content-Length: 1024'], 'x'.repeat(1024))
  t.match(exact, /^HTTP\/1\.1 200/)
  const chunked = await exchange(
    'POST /api/x',
    ['Transfer-Encoding: chunked'],
    `400\r\n${'x'.repeat(1024)}\r\n0\r\n\r\n`,
  )
  t.match(chunked, /^HTTP\/1\.1 200/, 'exactly the limit, not announced')

  api.clear()
  const over = open('POST /api/x', ['Transfer-Encoding: chunked'], `200\r\n${'x'.repeat(512)}\r\n`)
  t.ok(await eventually(() => api.requests.length === 1), 'the upstream is already at it')
  over.socket.write(`201\r\n${'x'.repeat(513)}\r\n0\r\n\r\n`)
  t.ok(await over.receives(/^HTTP\/1\.1 413 [\s\S]*"code":"payload_too_large"/))
  t.ok(await eventually(() => api.requests[0]?.aborted === true), 'the upstream is told that this was not all')
  t.equal(api.requests[0]?.complete, false)
  api.clear()
  over.socket.write(requestHead('GET /api/next', session))
  t.ok(await over.receives(/HTTP\/1\.1 200 [\s\S]*\/next/), 'and the rest of the body is not taken for a request')
  over.socket.destroy()
  t.equal(api.requests.length, 1)
})

test('a body of a GET is refused, and one that waits for a word is called for', async t => {
  for (const framing of ['Content-Length: 4', 'Transfer-Encoding: chunked'])
    t.match(await exchange('GET /api/x', [framing], 'body'), /^HTTP\/1\.1 400/, framing)
  t.equal(api.requests.length, 0)
  const patient = open('POST /api/x', ['Content-Length: 4', 'Expect: 100-continue'])
  t.ok(await patient.receives(/^HTTP\/1\.1 100 Continue\r\n\r\n/))
  patient.socket.write('body')
  t.ok(await patient.receives(/HTTP\/1\.1 200 OK/))
  t.equal(api.requests[0]?.body.toString(), 'body')
  t.notMatch(api.rawText(), /expect/i)
  patient.socket.destroy()
})

const gigabyte = 1024 ** 3
const piece = Buffer.alloc(64 * 1024, 'x')

/** Writes a gigabyte as fast as it is taken, and counts. */
function pour(to: NodeJS.WritableStream, count: (bytes: number) => void): void {
  let sent = 0
  const fill = () => {
    for (;;) {
      if (sent === gigabyte) return void to.end()
      sent += piece.length
      count(sent)
      if (!to.write(piece)) return
    }
  }
  to.on('drain', fill)
  fill()
}

/** Takes all, with a rest on the way, after which it tells how far the sender had come by its beginning and end. */
async function drain(from: IncomingMessage, sent: () => number) {
  let received = 0
  let rested: { before: number; after: number } | undefined
  for await (const chunk of from) {
    received += chunk.length
    if (rested !== undefined || received < gigabyte / 8) continue
    // Buffers on the way fill up first.
    const begunAt = performance.now()
    do {
      const before = sent()
      await pause(1000)
      rested = { before, after: sent() }
    } while (rested.before !== rested.after && performance.now() - begunAt < 20_000)
  }
  return { received, rested }
}

test('a gigabyte goes either way in flat memory, and no faster than it is read', { timeout: 240_000 }, async t => {
  const redis = await startRedis()
  const replicas = await startReplicas(1, {
    provider,
    redis,
    env: { UPSTREAM_API_PATH: '/api', UPSTREAM_API_URL: api.url, UPSTREAM_API_MAX_BODY: '2gb' },
  })
  t.teardown(async () => {
    await replicas.stop()
    await redis.stop()
  })
  const user = createBrowser({ origin: replicas.url })
  await login(user, replicas.url, provider)
  const headers = { cookie: `__Host-coatcheck=${user.jar.get('__Host-coatcheck')}`, 'x-csrf': '1' }
  const rss = async () => {
    const status = await readFile(`/proc/${replicas.all[0]?.process.pid}/status`, 'utf8')
    return Number(/VmRSS:\s*(\d+) kB/.exec(status)?.[1]) * 1024
  }
  const megabytes = (bytes: number) => Math.round(bytes / 1024 / 1024)
  let sent = 0
  let upload: Promise<Awaited<ReturnType<typeof drain>>> | undefined
  api.early = (message, response) => {
    if (message.method === 'GET') return pour(response, bytes => (sent = bytes))
    upload = drain(message, () => sent)
    void upload.then(({ received }) => response.end(String(received)))
  }
  for (const method of ['GET', 'POST'] as const) {
    sent = 0
    // What the first requests load stays.
    const before = await rss()
    let most = before
    const sampling = setInterval(() => void rss().then(now => (most = Math.max(most, now))), 50)
    const outgoing = request(`${replicas.url.replace('localhost', '127.0.0.1')}/api/big`, { method, headers })
    if (method === 'POST') pour(outgoing, bytes => (sent = bytes))
    else outgoing.end()
    const answer = await new Promise<IncomingMessage>((resolve, reject) =>
      outgoing.on('response', resolve).on('error', reject),
    )
    t.equal(answer.statusCode, 200)
    const way = method === 'GET' ? await drain(answer, () => sent) : await upload
    if (method === 'POST') answer.resume()
    clearInterval(sampling)
    t.equal(way?.received, gigabyte, method)
    t.equal(way?.rested?.after, way?.rested?.before, `${method}: nothing is sent while nobody reads`)
    t.ok(
      (way?.rested?.after ?? gigabyte) < gigabyte / 2,
      `${method}: ${megabytes(way?.rested?.after ?? 0)} MB were sent`,
    )
    t.ok(most - before < 150 * 1024 ** 2, `${method}: from ${megabytes(before)} to ${megabytes(most)} MB`)
  }
})

// Otherwise each deployment with a page open somewhere would take until it is cut short, and cut short what was to be saved.
test('a gateway that stops ends the event streams of upstreams, also those that begin meanwhile', async t => {
  const stopping = await startGateway({ provider, upstreams: { '/api': api.url } })
  let late: ServerResponse | undefined
  api.early = (message, response) => {
    const begin = () => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write('data: one\n\n')
    }
    if (message.url === '/late') late = response
    else begin()
    response.once('late', begin)
  }
  t.teardown(() => late?.destroy())
  const own = createBrowser({ origin: stopping.url })
  await login(own, stopping.url, provider)
  const first = await own.stream('/api/events')
  await first.waitFor(/data: one/)
  const second = own.stream('/api/late')
  t.ok(await eventually(() => late !== undefined))
  const startedAt = performance.now()
  const stopped = stopping.close()
  await first.ended
  late?.emit('late')
  t.equal((await second).status, 200)
  await (await second).ended
  await stopped
  t.ok(performance.now() - startedAt < 5000)
})
