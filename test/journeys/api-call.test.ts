import tap, { test } from 'tap'
import { createBrowser, rawRequest } from '../support/browser.ts'
import { createClock } from '../support/clock.ts'
import { startGateway } from '../support/gateway.ts'
import { login } from '../support/login.ts'
import { startProvider } from '../support/provider.ts'
import { startEvil, startUpstream } from '../support/upstream.ts'

const clock = createClock()
const provider = await startProvider({ clock })
const [api, orders, evil] = await Promise.all([startUpstream(), startUpstream(), startEvil()])
const gateway = await startGateway({
  provider,
  clock,
  upstreams: { '/api': `${api.url}/v1`, '/api/orders': orders.url },
  env: { UPSTREAM_U0_TIMEOUT: '1s' },
})
const browser = createBrowser({ origin: gateway.url })
await login(browser, gateway.url, provider)
const cookie = `__Host-coatcheck=${browser.jar.get('__Host-coatcheck')}`

tap.teardown(async () => {
  await gateway.close()
  await Promise.all([provider.close(), api.close(), orders.close(), evil.close()])
})

tap.beforeEach(() => {
  api.clear()
  orders.clear()
})

test('the cookie becomes the access token, and the path that of the upstream', async t => {
  const answer = await browser.api('/api/items?x=1&x=2&q=a+b%20c')
  t.equal(answer.status, 200)
  const seen = api.requests[0]
  t.equal(seen?.url, '/v1/items?x=1&x=2&q=a+b%20c')
  t.ok(provider.issued.accessTokens.has(seen?.headers.authorization?.replace('Bearer ', '') ?? ''))
  t.notMatch(api.rawText(), /coatcheck|cookie/i)
  t.match(seen?.headers, { 'x-forwarded-for': '127.0.0.1', 'x-forwarded-proto': 'http' })
})

test('the longest path wins, on a segment boundary', async t => {
  await browser.api('/api/orders/7')
  await browser.api('/api/ordersheet')
  t.same(
    [orders.requests.map(request => request.url), api.requests.map(request => request.url)],
    [['/7'], ['/v1/ordersheet']],
  )
  t.equal((await browser.api('/apiary')).status, 404)
})

test('every method and body arrives as it was sent', async t => {
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) {
    const body = `{"a": 1,  "b":"ü"}`
    const headers = { 'content-type': 'application/json; charset=utf-8' }
    t.equal((await browser.api('/api/items', { method, body, headers })).status, 200, method)
    t.match(api.requests.at(-1), { method, headers })
    t.equal(api.requests.at(-1)?.body.toString(), body)
  }
  const text = await browser.api('/api/items', {
    method: 'POST',
    body: 'plain',
    headers: { 'content-type': 'text/plain' },
  })
  t.equal(text.status, 200)
  t.equal(api.requests.at(-1)?.body.toString(), 'plain')
  t.equal((await browser.api('/api/items', { method: 'HEAD' })).text, '')
})

test('without a session the answer is 401 as a problem, and the upstream hears nothing', async t => {
  for (const cookies of [[], ['__Host-coatcheck=wrong'], [`${cookie}; ${cookie}`]]) {
    const answer = await browser.api('/api/items', { cookies })
    t.equal(answer.status, 401)
    t.match(answer.headers, { 'content-type': /^application\/problem\+json/, 'cache-control': 'no-store' })
    t.match(answer.json(), { code: 'not_authenticated', status: 401, loginUrl: '/bff/login' })
    t.same([answer.rawSetCookie, answer.headers.location], [[], undefined])
  }
  t.equal(api.requests.length, 0)
})

// The client asks the gateway to drop, as hop-by-hop, the very headers that the gateway adds.
test('what Connection nominates is dropped, and cannot take away what the gateway says', async t => {
  const lines = [
    'GET /api/items HTTP/1.1',
    `Host: localhost:${gateway.port}`,
    `Cookie: ${cookie}`,
    'X-CSRF: 1',
    'Connection: close, authorization, x-forwarded-for, x-secret, cookie',
    'X-Secret: hop',
    'Authorization: Bearer attacker',
    'X_User_Id: admin',
    'X-Forwarded-For: 1.2.3.4',
  ]
  const answer = await rawRequest(gateway.port, `${lines.join('\r\n')}\r\n\r\n`)
  t.match(answer, /^HTTP\/1.1 200/)
  t.match(api.rawText(), /authorization: Bearer /i)
  t.match(api.rawText(), /x-forwarded-for: 127\.0\.0\.1/i)
  t.notMatch(api.rawText(), /attacker|x-secret|1\.2\.3\.4|user.id|cookie/i)
})

// Node hands an absolute-form target to handlers as it is; a proxy that believes it carries the token abroad.
test('a target that names a host goes nowhere', async t => {
  const targets = [`${evil.url}/`, `${evil.url}/api/items`, `//127.0.0.1:${evil.port}/`, '/\\evil.test/', '*']
  for (const target of targets) {
    const head = `GET ${target} HTTP/1.1\r\nHost: localhost:${gateway.port}\r\nCookie: ${cookie}\r\nX-CSRF: 1`
    t.match(await rawRequest(gateway.port, `${head}\r\nConnection: close\r\n\r\n`), /^HTTP\/1.1 400/, target)
  }
  t.equal(evil.connections, 0)
  t.equal(api.requests.length, 0)
})

test('an upstream that fails is 502, one that is slow 504, and its own 503 is passed on once', async t => {
  const honest = api.respond
  t.teardown(() => {
    api.respond = honest
  })
  api.respond = (_request, response) => void response.socket?.destroy()
  const broken = await browser.api('/api/items')
  t.match([broken.status, broken.json()], [502, { code: 'bad_upstream' }])
  api.respond = () => {}
  const slow = await browser.api('/api/items')
  t.match([slow.status, slow.json()], [504, { code: 'upstream_timeout' }])
  api.clear()
  api.respond = (_request, response) => void response.writeHead(503, { 'retry-after': '7' }).end('busy')
  const busy = await browser.api('/api/items')
  t.match([busy.status, busy.text, busy.headers['retry-after'], api.requests.length], [503, 'busy', '7', 1])
})

test('an upstream sets no cookie, and its own 401 is told apart from ours', async t => {
  const honest = api.respond
  t.teardown(() => {
    api.respond = honest
  })
  api.respond = (_request, response) => void response.writeHead(401, { 'set-cookie': '__Host-coatcheck=x' }).end('no')
  const answer = await browser.api('/api/items')
  t.same([answer.status, answer.text, answer.rawSetCookie], [401, 'no', []])
})

test('a plain http request that a TLS terminator passed on is refused for an https origin', async t => {
  const secure = await startGateway({
    provider,
    upstreams: { '/api': api.url },
    env: { PUBLIC_URL: 'https://app.test' },
  })
  t.teardown(secure.close)
  for (const target of ['/api/items', '/bff/login', '/bff/user']) {
    const url = `http://localhost:${secure.port}${target}`
    const answer = await browser.request(url, { headers: { 'x-csrf': '1', 'x-forwarded-proto': 'http' } })
    t.same([answer.status, answer.rawSetCookie, answer.headers.location], [400, [], undefined], target)
  }
})

test('a token is not sent after its expiry: another is obtained first', async t => {
  const guest = createBrowser({ origin: gateway.url })
  await login(guest, gateway.url, provider, { user: 'bob' })
  provider.clear()
  const tokenOf = async () => {
    t.equal((await guest.api('/api/items')).status, 200)
    return api.requests.at(-1)?.headers.authorization
  }
  const first = await tokenOf()
  clock.advance(200_000)
  t.equal(await tokenOf(), first, 'while it is young')
  clock.advance(100_000)
  t.not(await tokenOf(), first, 'after its end')
  t.equal(provider.tokenCalls('refresh_token').length, 1)
})
