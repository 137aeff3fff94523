import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { createServer, type Socket, connect as tcp } from 'node:net'
import { join } from 'node:path'
import { test } from 'tap'
import { WebSocketServer } from 'ws'
import { rawRequest } from '../support/browser.ts'
import { protect } from '../support/dpop-api.ts'
import { selfSigned } from '../support/self-signed.ts'
import { acceptSockets, openSocket, within } from '../support/sockets.ts'
import { sessionCookie, startStage } from '../support/stage.ts'
import { startUpstream } from '../support/upstream.ts'

const key = 'dGhlIHNhbXBsZSBub25jZQ=='
const timeoutMs = 2000
/** Of the upstream that never answers a call; a client that leaves has to be noticed sooner. */
const silentMs = 4000

/** Headers of a sound handshake, by name, so that a test can change one; a line that is null is left out. */
type Lines = Record<string, string | null>

test('the handshake', { timeout: 90_000 }, async t => {
  const [other, open, silent] = await Promise.all([startUpstream(), startUpstream(), startSilent()])
  t.teardown(() => Promise.all([other.close(), open.close(), silent.close()]))
  const stage = await startStage(t, {
    env: {
      UPSTREAM_U0_WEBSOCKET: 'true',
      UPSTREAM_U0_TIMEOUT: `${timeoutMs / 1000}s`,
      UPSTREAM_U0_CLAIMS_HEADERS: 'X-Who=sub',
      UPSTREAM_PLAIN_PATH: '/plain',
      UPSTREAM_PLAIN_URL: other.url,
      UPSTREAM_FREE_PATH: '/free',
      UPSTREAM_FREE_URL: `${open.url}/base`,
      UPSTREAM_FREE_AUTH: 'none',
      UPSTREAM_FREE_WEBSOCKET: 'true',
      UPSTREAM_MAYBE_PATH: '/maybe',
      UPSTREAM_MAYBE_URL: open.url,
      UPSTREAM_MAYBE_AUTH: 'optional',
      UPSTREAM_MAYBE_WEBSOCKET: 'true',
      UPSTREAM_SILENT_PATH: '/silent',
      UPSTREAM_SILENT_URL: silent.url,
      UPSTREAM_SILENT_WEBSOCKET: 'true',
      UPSTREAM_SILENT_TIMEOUT: `${silentMs / 1000}s`,
    },
  })
  const { gateway, upstream, provider } = stage
  const alice = await stage.loggedIn('alice')
  const cookie = alice.jar.get(sessionCookie) ?? ''
  const api = `${gateway.url}/api`
  const honest = upstream.respond

  t.beforeEach(() => {
    for (const each of [upstream, other, open]) each.clear()
    upstream.respond = honest
  })

  const lines = (changed: Lines = {}): string =>
    Object.entries({
      Host: `localhost:${gateway.port}`,
      Cookie: `${sessionCookie}=${cookie}`,
      Origin: gateway.url,
      Connection: 'Upgrade',
      Upgrade: 'websocket',
      'Sec-WebSocket-Version': '13',
      'Sec-WebSocket-Key': key,
      ...changed,
    })
      .filter(([, value]) => value !== null)
      .map(([name, value]) => `${name}: ${value}\r\n`)
      .join('')
  const raw = (changed: Lines = {}, start = 'GET /api/live HTTP/1.1', body = '') =>
    rawRequest(gateway.port, `${start}\r\n${lines(changed)}\r\n${body}`, { idleMs: timeoutMs * 2, timeoutMs: 15_000 })
  const silentUpstreams = () => upstream.connections + other.connections + open.connections + silent.connections

  t.test('the upstream gets the token, the claims and where it came from, and nothing else of who asks', async t => {
    const server = acceptSockets(upstream)
    const client = await openSocket(`${api}/live`, {
      cookie,
      headers: {
        authorization: 'Bearer attacker',
        'proxy-authorization': 'Basic attacker',
        dpop: 'attacker',
        'x-access-token': 'attacker',
        'x-forwarded-for': '6.6.6.6',
        'x-forwarded-host': 'attacker.test',
        forwarded: 'for=6.6.6.6',
        'x-who': 'attacker',
        x_who: 'attacker',
        'x-own': 'kept',
      },
    })
    const { headers } = (await server.socket()) && (upstream.requests[0] as (typeof upstream.requests)[number])
    t.ok(provider.issued.accessTokens.has(headers.authorization?.replace('Bearer ', '') ?? ''))
    t.match(headers, {
      'x-own': 'kept',
      'x-who': 'alice',
      'x-forwarded-for': '127.0.0.1',
      'x-forwarded-host': `localhost:${gateway.port}`,
      'x-forwarded-proto': 'http',
      host: `127.0.0.1:${upstream.port}`,
      origin: gateway.url,
    })
    t.notMatch(upstream.rawText(), /attacker|6\.6\.6\.6|cookie|__Host-/i)
    t.not(headers['sec-websocket-key'], key, 'the key is one of its own')
    client.ws.close()
    await client.closed
  })

  t.test('path and query arrive byte for byte', async t => {
    const server = acceptSockets(upstream)
    const targets = [
      "/live?q='&r={}|^`&s=%27+%20",
      "/a%20b/%C3%A4/c'(d)!*;v=1/{}/^|",
      '/live?',
      '',
      '/x//y?//'.replace('//y', '/y'),
    ]
    for (const [index, target] of targets.entries()) {
      const socket = tcp(gateway.port, '127.0.0.1')
      socket.write(`GET /api${target} HTTP/1.1\r\n${lines()}\r\n`)
      await within(target, () => server.sockets.length > index || socket.readableLength > 0)
      t.equal(upstream.requests[index]?.url, target === '' ? '/' : target)
      socket.destroy()
    }
  })

  t.test('the upstream is offered all subprotocols, and the client gets the one that it chooses', async t => {
    for (const chosen of ['one', 'two.v1', undefined]) {
      const server = acceptSockets(upstream, { choose: () => chosen ?? false })
      const answer = await opened(`GET /api/live HTTP/1.1\r\n${lines({ 'Sec-WebSocket-Protocol': 'one, two.v1' })}\r\n`)
      t.match(answer, /^HTTP\/1\.1 101 /)
      t.equal(/sec-websocket-protocol: *(.*)\r\n/i.exec(answer)?.[1], chosen)
      await server.socket()
      t.equal(upstream.requests.at(-1)?.headers['sec-websocket-protocol'], 'one,two.v1')
    }
    acceptSockets(upstream)
    const none = await openSocket(`${api}/live`, { cookie })
    t.equal(none.ws.protocol, '')
    t.equal(upstream.requests.at(-1)?.headers['sec-websocket-protocol'], undefined)
    none.ws.terminate()
  })

  t.test('an upstream that chooses what was not offered is 502', async t => {
    for (const offered of [null, 'one, two']) {
      upstream.upgrade = (message, socket) => socket.write(accepting(message.headers['sec-websocket-key'], 'three'))
      t.match(await raw({ 'Sec-WebSocket-Protocol': offered }), /^HTTP\/1\.1 502 [\s\S]*"code":"bad_upstream"/)
    }
  })

  // A page of another site opens a websocket, and the browser sends the user's cookie along (cross-site websocket hijacking).
  t.test('any Origin but exactly that of the application is 403, and no upstream hears of it', async t => {
    const before = silentUpstreams()
    const { port } = gateway
    const strangers = [
      null,
      'null',
      '',
      'http://evil.test',
      `http://evil.localhost:${port}`,
      `http://localhost:${port + 1}`,
      'http://localhost',
      `https://localhost:${port}`,
      `http://localhost:${port}.evil.test`,
      `http://localhost:${port}/`,
      `HTTP://localhost:${port}`,
      `http://127.0.0.1:${port}`,
    ]
    for (const path of ['/api/live', '/free/live', '/maybe/live'])
      for (const origin of strangers) {
        const answer = await raw({ Origin: origin, 'X-CSRF': '1' }, `GET ${path} HTTP/1.1`)
        t.match(answer, /^HTTP\/1\.1 403 [\s\S]*"code":"csrf"/, `${origin} at ${path}`)
      }
    t.match(await raw({ 'Sec-Fetch-Site': 'cross-site' }), /^HTTP\/1\.1 403 /, 'the browser itself says otherwise')
    t.match(await raw({ Origin: `${gateway.url}\r\nOrigin: http://evil.test` }), /^HTTP\/1\.1 40[03] /, 'two of them')
    t.equal(silentUpstreams(), before)
  })

  t.test('without a session it is 401 as a problem, and the upstream hears nothing', async t => {
    const before = silentUpstreams()
    for (const line of [null, `${sessionCookie}=wrong`, `${sessionCookie}=${cookie}; ${sessionCookie}=${cookie}`]) {
      const answer = await raw({ Cookie: line })
      t.match(answer, /^HTTP\/1\.1 401 [\s\S]*"code":"not_authenticated"[\s\S]*"loginUrl":"\/bff\/login"/)
      t.match(answer, /content-type: application\/problem\+json/i)
      t.match(answer, /cache-control: no-store/i)
      t.match(answer, /connection: close/i)
      t.notMatch(answer, /set-cookie/i)
    }
    t.equal(silentUpstreams(), before)
  })

  t.test('where there are no websockets it is 400', async t => {
    const before = silentUpstreams()
    t.match(await raw({}, 'GET /plain/live HTTP/1.1'), /^HTTP\/1\.1 400 [\s\S]*"code":"bad_request"/)
    for (const path of ['/bff/user', '/bff/events', '/nothing'])
      t.notMatch(await rawRequest(gateway.port, `GET ${path} HTTP/1.1\r\n${lines()}\r\n`), /^HTTP\/1\.1 (101|5)/, path)
    t.equal(silentUpstreams(), before)
  })

  t.test('an upstream for everybody gets no token, one for anybody only that of a session', async t => {
    const server = acceptSockets(open)
    await openSocket(`${gateway.url}/free/live?x`, { cookie })
    await openSocket(`${gateway.url}/maybe/live`, {})
    await openSocket(`${gateway.url}/maybe/live`, { cookie: 'wrong' })
    await openSocket(`${gateway.url}/maybe/live`, { cookie })
    const [free, ...maybe] = open.requests
    t.match(free, { url: '/base/live?x' })
    t.same(
      [free, ...maybe].map(request => request?.headers.authorization !== undefined),
      [false, false, false, true],
    )
    t.notMatch(open.rawText(), /__Host-/)
    for (const { ws } of server.sockets) ws.terminate()
  })

  t.test('a handshake that is not sound is refused before the upstream hears of it', async t => {
    const before = silentUpstreams()
    const unsound: [Lines, string?, string?][] = [
      [{ 'Sec-WebSocket-Key': null }],
      [{ 'Sec-WebSocket-Key': 'short' }],
      [{ 'Sec-WebSocket-Key': `${key}\r\nSec-WebSocket-Key: ${key}` }],
      [{ 'Sec-WebSocket-Version': null }],
      [{ 'Sec-WebSocket-Version': '8' }],
      [{ 'Sec-WebSocket-Version': '14' }],
      [{ 'Sec-WebSocket-Protocol': '' }],
      [{ 'Sec-WebSocket-Protocol': 'a, a' }],
      [{ 'Sec-WebSocket-Protocol': 'a\r\nSec-WebSocket-Protocol: a' }],
      [{ 'Sec-WebSocket-Protocol': 'a,,b' }],
      [{ 'Sec-WebSocket-Protocol': 'a b' }],
      [{ 'Sec-WebSocket-Protocol': 'a,' }],
      [{}, 'HEAD /api/live HTTP/1.1'],
      [{}, 'POST /api/live HTTP/1.1'],
      [{ 'Content-Length': '4' }, 'POST /api/live HTTP/1.1', 'body'],
      [{ 'Content-Length': '4' }, 'GET /api/live HTTP/1.1', 'body'],
      [{ 'Transfer-Encoding': 'chunked' }, 'GET /api/live HTTP/1.1', '0\r\n\r\n'],
      [{}, 'OPTIONS /api/live HTTP/1.1'],
      [{}, 'TRACE /api/live HTTP/1.1'],
      [{}, 'CONNECT localhost:80 HTTP/1.1'],
      [{}, 'GET /api/../live HTTP/1.1'],
      [{}, 'GET http://evil.test/api/live HTTP/1.1'],
      [{ Host: 'evil.test' }],
      [{}, 'GET /api/live HTTP/1.0'],
    ]
    for (const [changed, start, body] of unsound) {
      const answer = await raw(changed, start, body)
      t.match(answer, /^HTTP\/1\.1 4\d\d /, JSON.stringify([changed, start]))
      t.match(answer, /connection: close/i)
    }
    t.equal(silentUpstreams(), before)
  })

  // The first to see an upgrade as something else opens a tunnel that the other takes for requests (h2c smuggling).
  t.test('an upgrade to anything else is none: the request is answered, and what follows it is not', async t => {
    const smuggled =
      'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET /api/smuggled HTTP/1.1\r\nHost: localhost\r\nX-CSRF: 1\r\n\r\n'
    for (const [upgrade, connection] of [
      ['h2c', 'Upgrade, HTTP2-Settings'],
      ['H2C', 'upgrade'],
      ['websocket, h2c', 'Upgrade'],
      ['websocket\r\nUpgrade: websocket', 'Upgrade'],
      ['nonsense/1', 'Upgrade'],
      ['websocket', 'close'],
    ] as const) {
      const answer = await raw(
        { Upgrade: upgrade, Connection: connection, 'HTTP2-Settings': 'AAMAAABkAAQAAP__', 'X-CSRF': '1' },
        undefined,
        connection === 'close' ? '' : smuggled,
      )
      t.match(answer, /^HTTP\/1\.1 200 /, upgrade)
      t.equal(answer.match(/HTTP\/1\.1 /g)?.length, 1)
    }
    t.equal(upstream.requests.length, 6)
    t.notMatch(upstream.rawText(), /smuggled|upgrade|http2-settings|h2c|nonsense|sec-websocket/i)
    t.match(await rawRequest(gateway.port, 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), /^(HTTP\/1\.1 4\d\d |$)/)
  })

  // Node hands an upgrade over while the answer to a request before it is still being written: to begin another would throw.
  t.test('an upgrade behind a request that is not yet answered ends the connection, not the gateway', async t => {
    upstream.early = (message, response) => {
      if (message.url === '/slow') setTimeout(() => response.end('slow'), 300)
      else response.end('{}')
    }
    for (const upgrade of ['websocket', 'h2c']) {
      const first = `GET /api/slow HTTP/1.1\r\nHost: localhost:${gateway.port}\r\nCookie: ${sessionCookie}=${cookie}\r\nX-CSRF: 1\r\n\r\n`
      const answer = await rawRequest(
        gateway.port,
        `${first}GET /api/live HTTP/1.1\r\n${lines({ Upgrade: upgrade, 'X-CSRF': '1' })}\r\n`,
        { idleMs: 2000 },
      )
      t.notMatch(answer, /HTTP\/1\.1 (101|5)/)
    }
    t.equal((await alice.api('/api/items')).status, 200, 'the gateway lives')
  })

  t.test('what an upstream says instead of yes is an ordinary answer, with the headers of one', async t => {
    for (const status of [200, 400, 401, 403, 404, 426, 500, 503]) {
      upstream.upgrade = (_message, socket) =>
        socket.end(
          `HTTP/1.1 ${status} X\r\nContent-Type: text/plain\r\nContent-Length: 7\r\nSet-Cookie: ${sessionCookie}=x\r\n` +
            'Access-Control-Allow-Origin: *\r\nServer: secret\r\nX-Own: kept\r\nSec-WebSocket-Version: 13\r\n\r\nrefused',
        )
      const answer = await raw()
      t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} [\\s\\S]*x-own: kept[\\s\\S]*\r\n\r\nrefused$`, 'i'))
      t.notMatch(answer, /set-cookie|secret|allow-origin/i)
      t.match(answer, /connection: close/i)
    }
  })

  t.test('a redirect to its own place is told as ours, one to elsewhere is 502', async t => {
    const leading = (location: string) => {
      upstream.upgrade = (_message, socket) =>
        socket.end(`HTTP/1.1 302 Found\r\nLocation: ${location}\r\nContent-Length: 0\r\n\r\n`)
      return raw()
    }
    t.match(await leading('/other?x'), /^HTTP\/1\.1 302 [\s\S]*location: \/api\/other\?x\r\n/i)
    t.match(await leading(`${stage.evil.url}/`), /^HTTP\/1\.1 502 [\s\S]*"code":"bad_upstream"/)
    t.equal(stage.evil.connections, 0)
  })

  t.test('an upstream that talks garbage is 502, one that says nothing 504', async t => {
    const saying = (bytes: string) => {
      upstream.upgrade = (message, socket) => {
        // What it was told comes back, as a debugging server might do it.
        socket.end(bytes.replace('TOKEN', String(message.headers.authorization)))
      }
      return raw()
    }
    const garbage = [
      '',
      'garbage TOKEN\r\n\r\n',
      'HTTP/1.1 101 Switching Protocols\r\n\r\n',
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: TOKEN\r\n\r\n',
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: TOKEN\r\n\r\n',
      'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\nX: TOKEN\r\n\r\n0\r\n\r\n',
      `HTTP/1.1 200 OK\r\nX: ${'x'.repeat(70_000)}\r\n\r\n`,
    ]
    for (const bytes of garbage)
      t.match(await saying(bytes), /^HTTP\/1\.1 502 [\s\S]*"code":"bad_upstream"/, bytes.slice(0, 60))
    const extended = await (() => {
      upstream.upgrade = (message, socket) =>
        socket.write(
          accepting(message.headers['sec-websocket-key']).replace(
            '\r\n\r\n',
            '\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n',
          ),
        )
      return raw()
    })()
    t.match(extended, /^HTTP\/1\.1 502 /, 'an extension that was not offered')
    upstream.upgrade = () => {}
    for (const [path, ms] of [
      ['/api/live', timeoutMs],
      ['/silent/live', silentMs],
    ] as const) {
      const since = performance.now()
      t.match(await raw({}, `GET ${path} HTTP/1.1`), /^HTTP\/1\.1 504 [\s\S]*"code":"upstream_timeout"/)
      t.ok(performance.now() - since > ms - 100)
    }
    t.ok(await eventuallyNone(silent.open), 'and its connection is gone')
  })

  t.test('a token that the upstream refuses is replaced once, and the upstream asked once more', async t => {
    const server = acceptSockets(upstream)
    const accept = upstream.upgrade as NonNullable<typeof upstream.upgrade>
    const tokens: (string | undefined)[] = []
    const refuse =
      'HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer error="invalid_token"\r\nContent-Length: 2\r\nX-First: 1\r\n\r\nno'
    upstream.upgrade = (message, socket, head) => {
      tokens.push(message.headers.authorization)
      if (tokens.length > 1) accept(message, socket, head)
      else socket.end(refuse)
    }
    const bob = await stage.loggedIn('bob')
    const client = await openSocket(`${api}/live`, { cookie: bob.jar.get(sessionCookie) })
    t.equal(new Set(tokens).size, 2)
    const far = await server.socket()
    far.ws.send('hello')
    await within('the message', () => client.messages.length === 1)
    client.ws.close()
    await far.closed

    tokens.length = 0
    upstream.upgrade = (message, socket) => {
      tokens.push(message.headers.authorization)
      socket.end(refuse)
    }
    const carol = (await stage.loggedIn('carol')).jar.get(sessionCookie)
    t.match(await raw({ Cookie: `${sessionCookie}=${carol}` }), /^HTTP\/1\.1 401 [\s\S]*\r\n\r\nno$/)
    t.equal(tokens.length, 2, 'a second no is passed on')
  })

  t.test('a client that leaves during the handshake takes the connection to the upstream along', async t => {
    for (const leave of ['destroy', 'end', 'resetAndDestroy'] as const) {
      const before = silent.connections
      const socket = tcp(gateway.port, '127.0.0.1')
      socket.on('error', () => undefined)
      socket.write(`GET /silent/live HTTP/1.1\r\n${lines()}\r\n`)
      await within('the dial', () => silent.connections > before)
      const since = performance.now()
      socket[leave]()
      await within('the end', () => silent.open() === 0)
      t.ok(performance.now() - since < silentMs - 300, `${leave}: ahead of the time limit`)
    }
  })

  t.test('a client that leaves an answer to an upgrade that was none is noticed', async t => {
    upstream.early = (_message, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write('data: 1\n\n')
    }
    const socket = tcp(gateway.port, '127.0.0.1')
    socket.write(`GET /api/stream HTTP/1.1\r\n${lines({ Upgrade: 'h2c', 'X-CSRF': '1' })}\r\nunread`)
    await new Promise(resolve => socket.once('data', resolve))
    socket.destroy()
    await within('the stream', () => upstream.requests[0]?.aborted)
    t.pass()
  })

  async function opened(head: string): Promise<string> {
    const socket: Socket = tcp(gateway.port, '127.0.0.1')
    socket.write(head)
    const text = await new Promise<string>(resolve => socket.once('data', chunk => resolve(chunk.toString('latin1'))))
    socket.destroy()
    return text
  }
})

test('an upstream with TLS is verified', async t => {
  const { key: privateKey, cert } = selfSigned('ec', undefined, { name: 'localhost' })
  const server = createTlsServer({ key: privateKey, cert })
  const sockets = new WebSocketServer({ server })
  sockets.on('connection', ws => ws.send('hello'))
  await new Promise<void>(resolve => server.listen(0, 'localhost', resolve))
  t.teardown(() => void server.close())
  const url = `https://localhost:${(server.address() as AddressInfo).port}`
  const caFile = join(t.testdir(), 'ca.pem')
  writeFileSync(caFile, cert)
  const stage = await startStage(t, {
    env: {
      UPSTREAM_KNOWN_PATH: '/known',
      UPSTREAM_KNOWN_URL: url,
      UPSTREAM_KNOWN_CA_FILE: caFile,
      UPSTREAM_KNOWN_WEBSOCKET: 'true',
      UPSTREAM_UNKNOWN_PATH: '/unknown',
      UPSTREAM_UNKNOWN_URL: url,
      UPSTREAM_UNKNOWN_WEBSOCKET: 'true',
    },
  })
  const cookie = (await stage.loggedIn('tess')).jar.get(sessionCookie)
  const client = await openSocket(`${stage.gateway.url}/known/live`, { cookie })
  await within('the message', () => client.messages[0] === 'hello')
  client.ws.close()
  await client.closed
  await t.rejects(openSocket(`${stage.gateway.url}/unknown/live`, { cookie }), /502/)
})

test('a token that is bound goes with a proof for the handshake', async t => {
  const bound = { OIDC_DPOP: 'true', UPSTREAM_U0_DPOP: 'true', UPSTREAM_U0_WEBSOCKET: 'true' }
  const stage = await startStage(t, { env: bound, provider: { accessTokens: 'jwt' } })
  const { upstream, gateway, clock } = stage
  const api = protect(upstream, { now: clock.now })
  const cookie = (await stage.loggedIn('dana')).jar.get(sessionCookie)
  const server = acceptSockets(upstream)
  const client = await openSocket(`${gateway.url}/api/live?x=1`, { cookie })
  await server.socket()
  const [request] = upstream.requests
  t.ok(request)
  if (request) t.equal(await api.judge(request, clock.now()), null)

  const accept = upstream.upgrade as NonNullable<typeof upstream.upgrade>
  upstream.upgrade = (message, socket, head) => {
    if (upstream.requests.length > 2) return accept(message, socket, head)
    socket.end(
      'HTTP/1.1 401 X\r\nWWW-Authenticate: DPoP error="use_dpop_nonce"\r\nDPoP-Nonce: the-nonce\r\nContent-Length: 0\r\n\r\n',
    )
  }
  const second = await openSocket(`${gateway.url}/api/live`, { cookie })
  const proof = String(upstream.requests.at(-1)?.headers.dpop).split('.')[1] ?? ''
  t.match(JSON.parse(Buffer.from(proof, 'base64url').toString()), {
    nonce: 'the-nonce',
    htm: 'GET',
    htu: `${upstream.url}/live`,
  })
  t.match(upstream.requests.at(-1)?.headers, { upgrade: 'websocket' })
  for (const { ws } of [client, second]) ws.terminate()
})

/** An upstream that listens and never says a word. */
async function startSilent() {
  const sockets = new Set<Socket>()
  let connections = 0
  const server = createServer(socket => {
    connections += 1
    sockets.add(socket)
    socket.resume()
    socket.on('error', () => undefined)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    get connections() {
      return connections
    },
    open: () => sockets.size,
    close: async () => {
      server.close()
      for (const socket of sockets) socket.destroy()
    },
  }
}

async function eventuallyNone(count: () => number): Promise<boolean> {
  await within('none', () => count() === 0)
  return true
}

/** A yes as RFC 6455 §4.2.2 has it. */
function accepting(of: string | undefined, protocol?: string): string {
  const accept = createHash('sha1').update(`${of}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
  const chosen = protocol === undefined ? '' : `\r\nSec-WebSocket-Protocol: ${protocol}`
  return `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ${accept}${chosen}\r\n\r\n`
}
