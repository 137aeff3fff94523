import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import tap, { test } from 'tap'
import { createBrowser, rawRequest } from '../support/browser.ts'
import { openConnection, requestHead } from '../support/connection.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { startGateway } from '../support/gateway.ts'
import { login } from '../support/login.ts'
import { startProvider } from '../support/provider.ts'
import { selfSigned } from '../support/self-signed.ts'
import { startEvil, startUpstream } from '../support/upstream.ts'

const provider = await startProvider()
const [api, orders, evil] = await Promise.all([startUpstream(), startUpstream(), startEvil()])
const gateway = await startGateway({
  provider,
  upstreams: {
    '/api': `${api.url}/v1`,
    '/quick': api.url,
    '/orders': orders.url,
    '/open': api.url,
    '/maybe': api.url,
    '/refused': `http://127.0.0.1:${await freePort()}`,
  },
  env: {
    UPSTREAM_U0_REDIRECTS: 'https://downloads.example.com',
    UPSTREAM_U1_TIMEOUT: '1s',
    UPSTREAM_U3_AUTH: 'none',
    UPSTREAM_U4_AUTH: 'optional',
  },
})
const signIn = async (user: string) => {
  const browser = createBrowser({ origin: gateway.url })
  await login(browser, gateway.url, provider, { user })
  return browser
}
const [alice, bob] = [await signIn('alice'), await signIn('bob')]
const sessionOf = (browser: typeof alice) => [
  `Cookie: __Host-coatcheck=${browser.jar.get('__Host-coatcheck')}`,
  'X-CSRF: 1',
]
/** What Alice gets, byte for byte. */
const exchange = (line: string) =>
  rawRequest(gateway.port, requestHead(line, [...sessionOf(alice), 'Connection: close']), { idleMs: 3000 })

tap.teardown(async () => {
  await gateway.close()
  await Promise.all([provider.close(), api.close(), orders.close(), evil.close()])
})
tap.beforeEach(() => {
  api.clear()
  orders.clear()
})

test('an upstream that refuses is 502, and one that hangs is cut off in time', async t => {
  const refused = await alice.api('/refused/x')
  t.match([refused.status, refused.json()], [502, { code: 'bad_upstream' }])
  t.notMatch(refused.text, /127\.0\.0\.1|ECONN/, 'and where it is stays here')

  api.early = () => {}
  const silent = await alice.api('/quick/silent')
  t.match([silent.status, silent.json()], [504, { code: 'upstream_timeout' }])
  t.ok(await eventually(() => api.requests[0]?.aborted === true), 'the upstream need not go on')

  api.early = (message, response) => {
    response.writeHead(200, message.url === '/sized' ? { 'content-length': '100' } : {})
    if (message.url === '/headed') response.flushHeaders()
    else response.write('begun')
  }
  for (const path of ['/sized', '/chunked', '/headed']) {
    const live = openConnection(gateway.port, requestHead(`GET /quick${path}`, sessionOf(alice)))
    t.ok(await live.receives(path === '/headed' ? /^HTTP\/1\.1 200/ : /begun/), path)
    t.ok(await live.closes(), `${path} is cut`)
    t.notMatch(live.received(), /\r\n0\r\n/, 'and does not look whole')
  }
  api.early = ({ socket }) => {
    const hint = () => socket.write('HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n')
    const hinting = setInterval(hint, 200)
    socket.on('close', () => clearInterval(hinting))
    hint()
  }
  t.equal((await alice.api('/quick/hints')).status, 504, 'hints are no answer')
  // The upload is there; what does not come is the answer.
  api.early = message => void message.resume()
  t.equal((await alice.api('/quick/upload', { method: 'POST', body: 'x'.repeat(100_000) })).status, 504)
})

test('an event stream may be quiet for longer, from its beginning on', async t => {
  let speak = () => {}
  api.early = (_message, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.flushHeaders()
    speak = () => void response.write('data: late\n\n')
  }
  const stream = await alice.stream('/quick/events')
  t.equal(stream.status, 200, 'it is open before there is an event')
  await new Promise(resolve => setTimeout(resolve, 2500))
  speak()
  await stream.waitFor(/data: late/, 10_000)
  stream.close()
})

// A listener whose queue is full answers no call, as an address behind a firewall that drops.
test('an upstream that cannot be reached in time is 504', async t => {
  const script = `require('net').createServer().listen({port:0,host:'127.0.0.1',backlog:1},function(){console.log(this.address().port)})`
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  const port = Number(String(await once(child.stdout, 'data')))
  child.kill('SIGSTOP')
  const fillers = Array.from({ length: 8 }, () => connect(port, '127.0.0.1').on('error', () => undefined))
  const hung = await startGateway({
    provider,
    upstreams: { '/hung': `http://127.0.0.1:${port}` },
    env: { UPSTREAM_U0_TIMEOUT: '1s', UPSTREAM_U0_AUTH: 'none' },
  })
  t.teardown(async () => {
    for (const socket of fillers) socket.destroy()
    child.kill('SIGKILL')
    await hung.close()
  })
  await eventually(() => fillers.filter(socket => !socket.connecting).length > 0)
  const answer = await createBrowser({ origin: hung.url }).get('/hung/x')
  t.match([answer.status, answer.json()], [504, { code: 'upstream_timeout' }])
})

// Two readings of one answer: the rest of the one is the beginning of the next, which is another user's.
test('an answer that can be read in two ways, or not at all, is 502 or cut, and its connection is given to nobody', {
  timeout: 120_000,
}, async t => {
  const poison = 'HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Poison: 1\r\n\r\nPOISON'
  const ok = 'HTTP/1.1 200 OK\r\n'
  const bad: Record<string, string> = {
    'length and chunks': `${ok}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    'chunks and length': `${ok}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n`,
    'two lengths': `${ok}Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody`,
    'two lengths in one': `${ok}Content-Length: 4, 5\r\n\r\nbody`,
    'a length with a sign': `${ok}Content-Length: +4\r\n\r\nbody`,
    'a negative length': `${ok}Content-Length: -4\r\n\r\nbody`,
    'a length in sixteens': `${ok}Content-Length: 0x4\r\n\r\nbody`,
    'chunks of no size': `${ok}Transfer-Encoding: chunked\r\n\r\nzz\r\nbody\r\n0\r\n\r\n`,
    'a chunk longer than it says': `${ok}Transfer-Encoding: chunked\r\n\r\n2\r\nbody\r\n0\r\n\r\n`,
    'an unknown coding': `${ok}Transfer-Encoding: gzip\r\n\r\nbody`,
    'two codings': `${ok}Transfer-Encoding: gzip, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n`,
    'chunks that are not last': `${ok}Transfer-Encoding: chunked, identity\r\n\r\n4\r\nbody\r\n0\r\n\r\n`,
    'a line without a colon': `${ok}garbage\r\nContent-Length: 4\r\n\r\nbody`,
    'a space in a name': `${ok}Bad Name: x\r\nContent-Length: 4\r\n\r\nbody`,
    'a space before the colon': `${ok}Content-Length : 4\r\n\r\nbody`,
    'NUL in a value': `${ok}X-Value: a\x00b\r\nContent-Length: 4\r\n\r\nbody`,
    'NUL in a name': `${ok}X\x00Value: a\r\nContent-Length: 4\r\n\r\nbody`,
    'a bare CR': `${ok}X-Value: a\rX-Other: b\r\nContent-Length: 4\r\n\r\nbody`,
    '200 KB of headers': `${ok}X-Value: ${'x'.repeat(200 * 1024)}\r\nContent-Length: 4\r\n\r\nbody`,
    '2,000 headers': `${ok}${'X-Value: 0123456789\r\n'.repeat(2000)}Content-Length: 4\r\n\r\nbody`,
    'status 99': 'HTTP/1.1 99 Low\r\nContent-Length: 4\r\n\r\nbody',
    'status 600': 'HTTP/1.1 600 High\r\nContent-Length: 4\r\n\r\nbody',
    'status 999': 'HTTP/1.1 999 High\r\nContent-Length: 4\r\n\r\nbody',
    'status 1200': 'HTTP/1.1 1200 OK\r\nContent-Length: 4\r\n\r\nbody',
    'a status of letters': 'HTTP/1.1 abc OK\r\nContent-Length: 4\r\n\r\nbody',
    'an upgrade': 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nbody',
    'a websocket': 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbody',
    'another version': 'HTTP/3.1 200 OK\r\nContent-Length: 4\r\n\r\nbody',
    'another protocol': 'SSH-2.0-OpenSSH_9.6\r\n',
    'two places': 'HTTP/1.1 302 Found\r\nLocation: /v1/a\r\nLocation: /v1/b\r\nContent-Length: 0\r\n\r\n',
  }
  const sockets = new Map<string, Socket>()
  let raw = ''
  api.early = (message, response) => {
    const path = message.url ?? ''
    sockets.set(path, message.socket)
    if (path === '/v1/good') response.end('good')
    else message.socket.write(raw, 'latin1')
  }
  for (const [name, bytes] of Object.entries(bad)) {
    sockets.clear()
    raw = bytes + poison
    const answer = await exchange('GET /api/bad')
    if (/^HTTP\/1\.1 502 /.test(answer)) t.match(answer, /"code":"bad_upstream"/, name)
    else t.notMatch(answer, /\r\n0\r\n\r\n$|content-length/i, `${name}: cut`)
    t.notMatch(answer, /POISON|x-poison|HTTP\/1\.1 5(?!02)/, name)
    t.equal(api.requests.filter(({ url }) => url === '/v1/bad').length, 1, `${name}: asked once`)
    const next = await bob.api('/api/good')
    t.same([next.status, next.text, next.headers['x-poison']], [200, 'good', undefined], name)
    t.not(sockets.get('/v1/good'), sockets.get('/v1/bad'), name)
    api.requests.length = 0
  }

  // Whole answers, and then something that nobody asked for.
  for (const surplus of [poison, 'x', '\x00', 'HTTP/1.1 100 Continue\r\n\r\n']) {
    sockets.clear()
    raw = `${ok}Content-Length: 4\r\n\r\nbody${surplus}`
    t.match(await exchange('GET /api/bad'), /^HTTP\/1\.1 200 [\s\S]*\r\n\r\nbody$/)
    const next = await bob.api('/api/good')
    t.same([next.status, next.text], [200, 'good'])
    t.not(sockets.get('/v1/good'), sockets.get('/v1/bad'))
  }

  // Less than announced.
  api.early = ({ socket }) => void socket.end(raw)
  for (const short of [
    `${ok}Content-Length: 10\r\n\r\nbody`,
    `${ok}Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n`,
    `${ok}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n`,
    `${ok}Connection: close\r\nContent-Length: 10\r\n\r\nbody`,
    `${ok}Transfer-Encoding: chunked\r\n\r\n8\r\nbody`,
  ]) {
    raw = short
    const answer = await exchange('GET /api/bad')
    if (/^HTTP\/1\.1 200 /.test(answer)) t.notMatch(answer, /\r\n0\r\n|content-length: 4\r/i, short)
    else t.match(answer, /^HTTP\/1\.1 502 [\s\S]*"code":"bad_upstream"/, short)
    t.notMatch(answer, /content-length: 10\r[\s\S]*bad_upstream/i, 'the length is that of what is sent')
  }
})

test('of an answer that turns out to be broken nothing is left on the problem', async t => {
  const head = 'Content-Encoding: gzip\r\nETag: "a"\r\nCache-Control: max-age=9'
  for (const framing of ['Transfer-Encoding: chunked\r\n\r\nzz\r\n', 'Content-Length: 10\r\n\r\n']) {
    api.early = ({ socket }) => void socket.end(`HTTP/1.1 200 OK\r\n${head}\r\n${framing}`)
    const answer = await exchange('GET /api/x')
    t.notMatch(answer, /\r\n0\r\n/)
    if (/^HTTP\/1\.1 200 /.test(answer)) continue
    t.match(answer, /^HTTP\/1\.1 502 [\s\S]*"code":"bad_upstream"/)
    t.notMatch(answer, /content-encoding|etag|max-age/i)
  }
})

// Nobody reads the body of a 401 while another token is fetched; an error that nobody hears ends the process.
test('an answer that breaks while another token is fetched does not matter', async t => {
  let asked = 0
  api.early = (message, response) => {
    asked += 1
    if (asked % 2 === 0) return void response.end('fine')
    message.socket.write('HTTP/1.1 401 Unauthorized\r\nContent-Length: 10\r\n\r\nbody')
    setTimeout(() => message.socket.resetAndDestroy(), 1)
  }
  for (let round = 0; round < 3; round += 1) {
    const user = await signIn(`user-${round}`)
    const answer = await user.api('/api/x')
    t.same([answer.status, answer.text], [200, 'fine'])
  }
  t.equal(asked, 6)
})

// An answer on the gateway's origin could set its cookies, open it to other origins, or wipe it out.
test('headers that speak for the origin, the connection or the machine do not pass', async t => {
  const sent = [
    ['Set-Cookie', '__Host-coatcheck=evil; Path=/; Secure'],
    ['SET-COOKIE', 'a=b; Domain=localhost'],
    ['set-cookie', '__Host-coatcheck-login-x=evil; Path=/; Secure'],
    ['Set-Cookie2', 'a=b'],
    ['Access-Control-Allow-Origin', '*'],
    ['access-control-allow-credentials', 'true'],
    ['Access-Control-Expose-Headers', '*'],
    ['Clear-Site-Data', '"*"'],
    ['Service-Worker-Allowed', '/'],
    ['Strict-Transport-Security', 'max-age=0'],
    ['Server', 'Secret/1.0'],
    ['X-Powered-By', 'Secret'],
    ['Via', '1.1 inside'],
    ['Alt-Svc', 'h3=":443"'],
    ['Refresh', '0; url=//evil.test'],
    ['Report-To', '{}'],
    ['Connection', 'x-nominated'],
    ['X-Nominated', 'secret'],
    ['Keep-Alive', 'timeout=500'],
    ['Proxy-Connection', 'keep-alive'],
    ['Proxy-Authenticate', 'Basic realm="x"'],
    ['WWW-Authenticate', 'Basic realm="login"'],
    ['TE', 'trailers'],
    ['X-Kept', 'yes'],
    ['Content-Type', 'text/plain'],
    ['X-Frame-Options', 'DENY'],
    ['__proto__', 'x'],
    ['constructor', 'y'],
  ]
  api.early = ({ socket }) => {
    const lines = sent.map(([name, value]) => `${name}: ${value}`).join('\r\n')
    socket.end(`HTTP/1.1 403 Forbidden\r\n${lines}\r\nContent-Length: 2\r\n\r\nno`)
  }
  for (const path of ['/api/x', '/open/x']) {
    const answer = await alice.api(path, { headers: { origin: gateway.url } })
    t.same([answer.status, answer.text, answer.rawSetCookie], [403, 'no', []], path)
    t.match(answer.headers, { 'x-kept': 'yes', 'content-type': 'text/plain', 'x-frame-options': 'DENY' })
    const dropped = sent.slice(0, 23).map(([name = '']) => name.toLowerCase())
    for (const name of dropped.filter(name => name !== 'connection' && name !== 'keep-alive'))
      t.notOk(name in answer.headers, name)
    t.notMatch(answer.rawHeaders.join('\n'), /evil|secret|nominated|timeout=500/i)
  }
  t.equal((await alice.api('/bff/user')).status, 200)
})

test("an upstream's own refusals are told apart from ours, and keep the challenges that are of use", async t => {
  for (const status of [401, 403]) {
    api.respond = (_request, response) => {
      response.setHeader('www-authenticate', ['Basic realm="x"', 'Bearer realm="api"'])
      response.writeHead(status, { 'content-type': 'application/json' }).end('{"error":"theirs"}')
    }
    const theirs = await alice.api('/api/x', { method: 'POST' })
    t.same([theirs.status, theirs.text], [status, '{"error":"theirs"}'])
    t.equal(theirs.headers['content-type'], 'application/json')
    t.match(theirs.headers['www-authenticate'], /^Bearer realm="api"$/)
  }
  const ours = await createBrowser({ origin: gateway.url }).api('/api/x')
  t.match(
    [ours.status, ours.headers['content-type'], ours.json()],
    [401, /problem\+json/, { code: 'not_authenticated' }],
  )
  t.equal((await alice.api('/bff/user')).status, 200, 'and the session is as it was')
})

test('a redirect is rewritten, allowed or refused, and never followed', async t => {
  let [status, location, name] = [302, '', 'location']
  api.respond = (_request, response) => void response.writeHead(status, { [name]: location }).end()
  const told = async (path = '/api/items/1') => {
    const answer = await alice.api(path, { method: 'POST' })
    return answer.status === status ? answer.headers[name] : answer.status
  }
  const cases: [location: string, told: string | number][] = [
    [`${api.url}/v1/x?y=1`, '/api/x?y=1'],
    ['/v1/x', '/api/x'],
    ['x', '/api/items/x'],
    [`${orders.url}/7`, '/orders/7'],
    [`${gateway.url}/welcome`, `${gateway.url}/welcome`],
    ['https://downloads.example.com/f', 'https://downloads.example.com/f'],
    [`${evil.url}/`, 502],
    [`//127.0.0.1:${evil.port}/`, 502],
    ['javascript:alert(1)', 502],
    [`http://user:secret@127.0.0.1:${api.port}/v1/x`, 502],
  ]
  for (status of [201, 302, 303, 307, 308])
    for ([location] of cases) {
      const expected = cases.find(([given]) => given === location)?.[1]
      t.equal(await told(), expected, `${status} ${location}`)
    }
  status = 200
  location = `${evil.url}/`
  t.equal(await told(), undefined, 'without a redirect the address is left out')
  name = 'content-location'
  t.equal(await told(), undefined)
  location = `${api.url}/v1/x`
  t.equal(await told(), '/api/x')
  ;[status, name, location] = [302, 'location', 'https://downloads.example.com/f']
  t.equal(await told('/orders/x').catch(() => 0), 200, 'another upstream does not even see this request')
  t.equal(await told('/quick/x'), 502, 'what one upstream may, another may not')
  t.equal(evil.connections, 0)
})

// A shared cache in front knows an answer for one user by Authorization, which it does not see.
test('answers for a session are kept from shared caches, unless the upstream speaks for itself', async t => {
  const guest = createBrowser({ origin: gateway.url })
  const seen = async (browser: typeof alice, path: string) => (await browser.api(path)).headers['cache-control']
  t.equal(await seen(alice, '/api/x'), 'private, no-cache')
  t.equal(await seen(alice, '/maybe/x'), 'private, no-cache')
  t.equal(await seen(guest, '/maybe/x'), undefined)
  t.equal(await seen(alice, '/open/x'), undefined)
  const says = (value: string | string[], connection = 'keep-alive') => {
    api.respond = (_request, response) => {
      response.setHeader('cache-control', value)
      response.setHeader('connection', connection).end()
    }
  }
  says('max-age=60')
  for (const path of ['/api/x', '/maybe/x']) t.equal(await seen(alice, path), 'private, max-age=60', path)
  t.equal(await seen(alice, '/open/x'), 'max-age=60')
  t.equal(await seen(guest, '/maybe/x'), 'max-age=60')
  for (const value of [
    'no-cache',
    'private="x-id"',
    'max-age=60, must-revalidate',
    'x-public',
    'community="private"',
  ]) {
    says(value)
    t.equal(await seen(alice, '/api/x'), `private, ${value}`)
  }
  for (const value of ['private', 'no-store', 'Public, max-age=60', 's-maxage=60,max-age=0', 'max-age=60,PRIVATE']) {
    says(value)
    t.equal(await seen(alice, '/api/x'), value)
  }
  says(['max-age=60', 'public'])
  t.equal(await seen(alice, '/api/x'), 'max-age=60, public')
  says('public', 'close, cache-control')
  t.equal(await seen(alice, '/api/x'), 'private, no-cache', 'what is meant for one connection is not said')
})

/** An https server with this certificate, which says how much was said to it. */
async function startTls(subject: { name: string; until?: string }) {
  const { key, cert } = selfSigned('ec', undefined, subject)
  let heard = 0
  const server = createTlsServer({ key, cert }, socket => {
    socket.on('error', () => undefined)
    socket.on('data', chunk => {
      heard += chunk.length
      socket.end('HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecure')
    })
  })
  server.on('tlsClientError', () => undefined)
  let connections = 0
  server.on('connection', () => {
    connections += 1
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `https://localhost:${(server.address() as AddressInfo).port}`,
    cert,
    heard: () => heard,
    connections: () => connections,
    close: () => new Promise(resolve => server.close(resolve)),
  }
}

// Whoever can take an upstream's place on the network gets each user's access token with the first request.
test('a certificate that is not beyond doubt gets not a byte of a request', async t => {
  const good = await startTls({ name: 'localhost' })
  const unknown = await startTls({ name: 'localhost' })
  const misnamed = await startTls({ name: 'other.test' })
  const expired = await startTls({ name: 'localhost', until: '210101000000Z' })
  const servers = { good, unknown, misnamed, expired }
  const directory = t.testdir(
    Object.fromEntries(Object.entries(servers).map(([name, { cert }]) => [`${name}.pem`, cert])),
  )
  const strict = await startGateway({
    provider,
    upstreams: Object.fromEntries(Object.entries(servers).map(([name, { url }]) => [`/${name}`, url])),
    env: {
      UPSTREAM_U0_CA_FILE: `${directory}/good.pem`,
      UPSTREAM_U2_CA_FILE: `${directory}/misnamed.pem`,
      UPSTREAM_U3_CA_FILE: `${directory}/expired.pem`,
    },
  })
  t.teardown(async () => {
    await strict.close()
    await Promise.all(Object.values(servers).map(server => server.close()))
  })
  const user = createBrowser({ origin: strict.url })
  await login(user, strict.url, provider)
  t.equal((await user.api('/good/x')).text, 'secure')
  const reasons = {
    unknown: /SELF_SIGNED_CERT/,
    misnamed: /ERR_TLS_CERT_ALTNAME_INVALID/,
    expired: /CERT_HAS_EXPIRED/,
  }
  for (const [name, reason] of Object.entries(reasons)) {
    const server = servers[name as keyof typeof reasons]
    for (const method of ['GET', 'POST']) {
      const answer = await user.api(`/${name}/x`, { method })
      t.match([answer.status, answer.json()], [502, { code: 'bad_upstream' }], name)
      t.notMatch(answer.text, /certificate|localhost/i, 'which is nobody’s business outside')
    }
    t.match([server.connections() > 0, server.heard()], [true, 0], name)
    t.ok(
      strict.log.some(line => reason.test(line) && JSON.parse(line).level === 'error'),
      `the log says why: ${name}`,
    )
  }
})

// One answer for two, a cache key that two users share, a connection with something left on it: one sees the other's data.
test('a hundred sessions at once get each its own answer', { timeout: 120_000 }, async t => {
  api.respond = ({ url, headers }, response) => {
    const body = JSON.stringify({ url, token: headers.authorization })
    setTimeout(() => response.end(body), Math.random() * 40)
  }
  type Seen = { url: string; token: string }
  const ask = async (browser: typeof alice, path: string) => (await browser.api(`/api${path}`)).json<Seen>()
  const sessions: { browser: typeof alice; token: string }[] = []
  for (let batch = 0; batch < 10; batch += 1) {
    const users = Array.from({ length: 10 }, (_, index) => `user-${batch}-${index}`)
    for (const browser of await Promise.all(users.map(signIn)))
      sessions.push({ browser, token: (await ask(browser, '/first')).token })
  }
  t.equal(new Set(sessions.map(({ token }) => token)).size, 100)
  const rounds = [0, 1, 2].flatMap(round =>
    sessions.map((session, index) => ({ ...session, path: `/${index}/${round}` })),
  )
  const answers = await Promise.all(rounds.map(({ browser, path }) => ask(browser, path)))
  t.same(
    answers,
    rounds.map(({ token, path }) => ({ url: `/v1${path}`, token })),
  )

  // All on one connection, as from a proxy in front, the slow ones first.
  const few = sessions.slice(0, 8)
  api.respond = ({ url, headers }, response) => {
    const place = Number(url.slice(-1))
    setTimeout(() => response.end(`[${place} ${headers.authorization}]`), (8 - place) * 30)
  }
  const requests = few.map(({ browser }, index) => requestHead(`GET /api/${index}`, sessionOf(browser)))
  const connection = openConnection(gateway.port, requests.join(''))
  t.ok(await connection.receives(/\[7 [^\]]*\]/))
  connection.socket.destroy()
  t.same(
    connection.received().match(/\[\d [^\]]*\]/g),
    few.map(({ token }, index) => `[${index} ${token}]`),
  )
})
