import { request } from 'node:http'
import tap, { type Test, test } from 'tap'
import { randomToken } from '../../src/core/random.ts'
import { rawRequest, type TestBrowser } from '../support/browser.ts'
import { startGateway } from '../support/gateway.ts'
import { startProvider } from '../support/provider.ts'
import { sessionCookie, startStage } from '../support/stage.ts'

const secret = 'forward-auth-canary-4c5bd7f04f3a'
const upstreamUrl = 'http://127.0.0.1:9'
const stage = await startStage(tap, {
  memory: true,
  env: {
    FORWARD_AUTH_TOKEN: secret,
    TRUSTED_PROXIES: '127.0.0.1',
    UPSTREAM_OPEN_PATH: '/open',
    UPSTREAM_OPEN_URL: upstreamUrl,
    UPSTREAM_OPEN_AUTH: 'optional',
    UPSTREAM_PUBLIC_PATH: '/public',
    UPSTREAM_PUBLIC_URL: upstreamUrl,
    UPSTREAM_PUBLIC_AUTH: 'none',
    UPSTREAM_IMAGES_PATH: '/images',
    UPSTREAM_IMAGES_URL: upstreamUrl,
    UPSTREAM_IMAGES_CSRF: 'fetch-metadata',
    UPSTREAM_FEED_PATH: '/feed',
    UPSTREAM_FEED_URL: upstreamUrl,
    UPSTREAM_FEED_ACTIVITY: 'passive',
    UPSTREAM_ORDERS_PATH: '/orders',
    UPSTREAM_ORDERS_URL: upstreamUrl,
    UPSTREAM_ORDERS_SCOPE: 'orders',
    UPSTREAM_STAFF_PATH: '/staff',
    UPSTREAM_STAFF_URL: upstreamUrl,
    UPSTREAM_STAFF_REQUIRE: 'sub=boss,berta',
    UPSTREAM_STAFF_CLAIMS_HEADERS: 'X-User=sub, X-Mail=email, X-None=nothing',
    RATE_LIMIT_INVALID: '20/m',
  },
})
const { gateway, provider, clock } = stage
const { internalUrl } = gateway
const bearer = { authorization: `Bearer ${secret}` }

/** What another proxy is answered. */
interface Answer {
  status: number
  headers: Record<string, string | string[] | undefined>
  text: string
  json(): Record<string, unknown>
}

type Headers = Record<string, string | string[]>

/** Asks as a proxy does, in any method. */
function send(path: string, headers: Headers, { method = 'GET', body = '', from = internalUrl } = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(from)
    const outgoing = request({ agent: false, hostname, port, path, method, headers }, async response => {
      const chunks: Buffer[] = []
      for await (const chunk of response) chunks.push(chunk)
      const text = Buffer.concat(chunks).toString()
      resolve({ status: response.statusCode ?? 0, headers: response.headers, text, json: () => JSON.parse(text) })
    })
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}

const cookieOf = (browser: TestBrowser) => `${sessionCookie}=${browser.jar.get(sessionCookie)}`

/** Asks about a request of the SPA. */
const ask = (browser: TestBrowser, headers: Headers = {}, upstream = 'u0') =>
  send(`/forward-auth/${upstream}`, { ...bearer, cookie: cookieOf(browser), 'x-csrf': '1', ...headers })

const newestToken = () => `Bearer ${[...provider.issued.accessTokens].at(-1)}`

function admitted(t: Test, answer: Answer, authorization: string | undefined, name = 'admitted'): void {
  t.same([answer.status, answer.text, answer.headers['cache-control']], [200, '', 'no-store'], name)
  t.equal(answer.headers.authorization, authorization, name)
  t.same([answer.headers['set-cookie'], answer.headers['x-coatcheck-problem']], [undefined, undefined], name)
}

/** A refusal of the browser's request: the problem, repeated in a header. */
function refused(t: Test, answer: Answer, status: number, code: string, name = code): void {
  t.match(
    [answer.status, answer.headers['content-type'], answer.headers['cache-control']],
    [status, /^application\/problem\+json/, 'no-store'],
    name,
  )
  t.match(answer.json(), { status, code }, name)
  t.same(JSON.parse(String(answer.headers['x-coatcheck-problem'])), answer.json(), name)
  const { authorization, location, 'set-cookie': cookie, 'www-authenticate': challenge } = answer.headers
  t.same([authorization, location, cookie, challenge], [undefined, undefined, undefined, undefined], name)
}

test('a request of a session is let through with the access token, whatever its method and path', async t => {
  const anna = await stage.loggedIn('anna')
  const token = newestToken()
  const asked = { cookie: cookieOf(anna), 'x-csrf': '1', ...bearer }
  for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE']) {
    admitted(t, await ask(anna, { 'x-forwarded-method': method }), token, `as Traefik and Caddy say ${method}`)
    admitted(t, await ask(anna, { 'x-original-method': method }), token, `as nginx says ${method}`)
    const path = '/forward-auth/u0/api/items/%2e%2e/a%20b?x=1&slide=false'
    admitted(t, await send(path, asked, { method }), token, `as Envoy asks in ${method}`)
  }
})

test('each upstream has its own rules', async t => {
  const berta = await stage.loggedIn('berta')
  const token = newestToken()
  const own = await ask(berta, {}, 'orders')
  admitted(t, own, newestToken(), 'a token of its own')
  t.not(own.headers.authorization, token)
  const anonymous = { ...bearer, 'x-csrf': '1' }
  admitted(t, await send('/forward-auth/open', anonymous), undefined, 'optional, without a session')
  admitted(t, await ask(berta, {}, 'open'), token, 'optional, with one')
  admitted(
    t,
    await send('/forward-auth/open', { ...anonymous, cookie: `${sessionCookie}=dead` }),
    undefined,
    'optional, dead',
  )
  refused(t, await send('/forward-auth/open', bearer), 403, 'csrf', 'optional is not without the rule')
  admitted(t, await send('/forward-auth/public', bearer), undefined, 'none')
  admitted(t, await ask(berta, {}, 'public'), undefined, 'none, never a token')
  const staff = await ask(berta, { 'x-user': 'boss', 'x-none': 'forged' }, 'staff')
  admitted(t, staff, token, 'with claims')
  t.match(staff.headers, { 'x-user': 'berta', 'x-mail': /^berta/, 'x-none': undefined })
  refused(t, await ask(await stage.loggedIn('anton'), {}, 'staff'), 403, 'forbidden')
  const image = { ...bearer, cookie: cookieOf(berta) }
  admitted(t, await send('/forward-auth/images', { ...image, 'sec-fetch-site': 'same-origin' }), token)
  admitted(t, await send('/forward-auth/images', { ...image, origin: gateway.url }), token)
  refused(t, await send('/forward-auth/images', image), 403, 'csrf')
  refused(t, await send('/forward-auth/images', { ...image, 'sec-fetch-site': 'same-site' }), 403, 'csrf')
})

// A page of another site sends the user's cookie along, a stolen one is repeated beside another's, a form needs no script.
test('what the proxy would refuse is refused, with the same problem', async t => {
  const carl = await stage.loggedIn('carl')
  const cookie = cookieOf(carl)
  const noSession: (string | string[])[] = [
    [],
    '',
    `${sessionCookie}=`,
    `${sessionCookie}=wrong`,
    `${sessionCookie}=${'A'.repeat(43)}`,
    `${cookie}; ${cookie}`,
    [cookie, cookie],
    [cookie, `${sessionCookie}=${'A'.repeat(43)}`],
    `x${cookie}`,
    cookie.toLowerCase(),
  ]
  for (const sent of noSession) {
    const answer = await ask(carl, { cookie: sent })
    refused(t, answer, 401, 'not_authenticated', String(sent).slice(0, 40))
    t.equal(answer.json().loginUrl, '/bff/login')
  }
  const audited = gateway.events('csrf_refused').length
  const forged: Headers[] = [
    { 'x-csrf': '0' },
    { 'x-csrf': ['1', '1'] },
    { origin: 'https://evil.test' },
    { origin: 'null' },
    { 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'same-site' },
  ]
  for (const headers of forged) refused(t, await ask(carl, headers), 403, 'csrf', JSON.stringify(headers))
  refused(t, await send('/forward-auth/u0', { ...bearer, cookie }), 403, 'csrf', 'none')
  t.equal(gateway.events('csrf_refused').length - audited, forged.length + 1)
  const direct = await stage.browser().api('/api/items')
  t.same((await ask(carl, { cookie: '' })).json(), direct.json(), 'word for word')
})

test('a method that no upstream takes, and two that differ, are refused', async t => {
  const dora = await stage.loggedIn('dora')
  for (const method of ['OPTIONS', 'TRACE', 'CONNECT', 'PROPFIND', 'get', 'GET, GET', '']) {
    for (const name of ['x-forwarded-method', 'x-original-method']) {
      const answer = await ask(dora, { [name]: method })
      refused(t, answer, 405, 'method_not_allowed', `${name}: ${method}`)
      t.equal(answer.headers.allow, 'GET, HEAD, POST, PUT, PATCH, DELETE')
    }
  }
  // The browser adds the header that its proxy does not set.
  refused(t, await ask(dora, { 'x-forwarded-method': 'GET', 'x-original-method': 'POST' }), 400, 'bad_request')
  refused(t, await ask(dora, { 'x-forwarded-method': ['GET', 'POST'] }), 405, 'method_not_allowed')
  const { hostname, port } = new URL(internalUrl)
  const head = `Host: ${hostname}\r\nAuthorization: Bearer ${secret}\r\nX-CSRF: 1\r\nCookie: ${cookieOf(dora)}\r\nConnection: close`
  for (const method of ['OPTIONS', 'TRACE', 'PROPFIND', 'BREW']) {
    const answer = await rawRequest(Number(port), `${method} /forward-auth/u0 HTTP/1.1\r\n${head}\r\n\r\n`)
    t.match(answer, /^HTTP\/1.1 4\d\d /, method)
    t.notMatch(answer, /authorization: Bearer/i, method)
  }
})

// The secret is guessed, left out, or sent in another way; the browser's own headers reach the gateway too.
test('without the secret every answer is one and the same, and says nothing of sessions', async t => {
  const emma = await stage.loggedIn('emma')
  const cookie = cookieOf(emma)
  const wrong: Headers[] = [
    {},
    { authorization: '' },
    { authorization: 'Bearer' },
    { authorization: secret },
    { authorization: `Bearer ${secret}x` },
    { authorization: `Bearer ${secret.slice(0, -1)}` },
    { authorization: `Bearer  ${secret}` },
    { authorization: `Bearer ${secret}, Bearer ${secret}` },
    { authorization: `Basic ${Buffer.from(`proxy:${secret}`).toString('base64')}` },
    { authorization: newestToken() },
    { 'x-authorization': `Bearer ${secret}` },
    { 'proxy-authorization': `Bearer ${secret}` },
    { 'x-forwarded-authorization': `Bearer ${secret}` },
    { cookie: `${cookie}; authorization=Bearer ${secret}` },
  ]
  const audited = gateway.events('forward_auth_refused').length
  const paths = ['/forward-auth/u0', '/forward-auth/nothing', '/forward-auth/u0/api/items', `/forward-auth/u0?token=x`]
  const answers: Answer[] = []
  for (const headers of wrong) answers.push(await send('/forward-auth/u0', { cookie, 'x-csrf': '1', ...headers }))
  for (const path of paths)
    answers.push(await send(path, { cookie, 'x-csrf': '1' }), await send(path, {}, { method: 'POST' }))
  for (const { status, headers, text, json } of answers) {
    t.match([status, headers['www-authenticate'], headers['cache-control']], [401, 'Bearer', 'no-store'])
    t.match(json(), { code: 'not_authenticated', loginUrl: undefined })
    t.same([headers.authorization, headers['x-coatcheck-problem']], [undefined, undefined])
    t.equal(text, answers[0]?.text, 'the same whatever was wrong')
  }
  t.equal(gateway.events('forward_auth_refused').length - audited, answers.length)
})

test('an upstream that does not exist is 404, which is no refusal of the browser', async t => {
  const frida = await stage.loggedIn('frida')
  const names = [
    'nothing',
    '__proto__',
    'constructor',
    'toString',
    'U0',
    'api',
    'u0%2f',
    'u0%00',
    '..',
    '*',
    ':upstream',
  ]
  for (const name of [...names, 'x'.repeat(90), '']) {
    const answer = await ask(frida, {}, name)
    t.match([answer.status, answer.json()], [404, { code: 'not_found' }], name)
    t.same([answer.headers['x-coatcheck-problem'], answer.headers.authorization], [undefined, undefined], name)
  }
  for (const path of ['/forward-auth', '/forward-auth?u0', '/FORWARD-AUTH/u0', '//forward-auth/u0'])
    t.equal((await send(path, { ...bearer, cookie: cookieOf(frida), 'x-csrf': '1' })).status, 404, path)
  t.equal((await ask(frida, {}, '%')).status, 400)
})

// A proxy that sends the body along must not make the gateway wait for it, read it, or fall over its type.
test('a body is not read, however large and of whatever type', async t => {
  const greta = await stage.loggedIn('greta')
  const token = newestToken()
  const { hostname, port } = new URL(internalUrl)
  const head = [
    'POST /forward-auth/u0 HTTP/1.1',
    `Host: ${hostname}`,
    `Authorization: Bearer ${secret}`,
    `Cookie: ${cookieOf(greta)}`,
    'X-CSRF: 1',
    'Content-Type: application/json',
    'Content-Length: 100000000',
  ]
  t.match(await rawRequest(Number(port), `${head.join('\r\n')}\r\n\r\n{`), `authorization: ${token}`)
  for (const type of ['application/json', 'text/plain', 'nonsense', 'multipart/form-data; boundary=x']) {
    const headers = { ...bearer, cookie: cookieOf(greta), 'x-csrf': '1', 'content-type': type, 'content-length': '1' }
    for (const method of ['GET', 'POST', 'DELETE'])
      admitted(t, await send('/forward-auth/u0', headers, { method, body: '{' }), token, `${method} ${type}`)
  }
})

test('where the provider wants to see the user again, it is 401 with a login that is good once', async t => {
  const jana = await stage.loggedIn('jana')
  clock.advance(301_000)
  const body = JSON.stringify({ error: 'interaction_required' })
  const headers = { 'content-type': 'application/json' }
  const demand = provider.respond('token', { status: 400, headers, body })
  const answer = await ask(jana)
  demand.stop()
  refused(t, answer, 401, 'step_up_required')
  t.match(answer.json().loginUrl, /^\/bff\/login\?step_up=[\w-]{43}$/)
})

test('tokens are refreshed, and an outage of the provider is 503', async t => {
  const ilse = await stage.loggedIn('ilse')
  const first = newestToken()
  clock.advance(301_000)
  const renewed = await ask(ilse)
  admitted(t, renewed, newestToken(), 'refreshed')
  t.not(newestToken(), first)
  clock.advance(301_000)
  const outage = provider.respond('token', { status: 500, body: 'down' })
  const answer = await ask(ilse)
  outage.stop()
  refused(t, answer, 503, 'provider_unavailable')
  t.match(answer.headers['retry-after'], /^[1-9]\d*$/)
})

test('while Redis is away it is 503, and never anonymous', async t => {
  const { redis } = stage
  const env = { REDIS_URL: redis.url, FORWARD_AUTH_TOKEN: secret, UPSTREAM_U0_AUTH: 'optional' }
  const stored = await startGateway({ provider, upstreams: { '/api': upstreamUrl, '/orders': upstreamUrl }, env })
  t.teardown(stored.close)
  await redis.down()
  for (const upstream of ['u0', 'u1']) {
    const headers = { ...bearer, 'x-csrf': '1', cookie: `${sessionCookie}=${'A'.repeat(43)}` }
    const answer = await send(`/forward-auth/${upstream}`, headers, { from: stored.internalUrl })
    refused(t, answer, 503, 'store_unavailable', upstream)
    t.match(answer.headers['retry-after'], /^[1-9]\d*$/)
  }
  await redis.restart()
})

// Cookies are guessed from one address; what the guesser writes into X-Forwarded-For stands left of the proxy's own word.
test('too many cookies that name nothing are 429 for one client of the proxy, and not for the others', async t => {
  const guess = (from: string) =>
    send('/forward-auth/u0', {
      ...bearer,
      'x-csrf': '1',
      cookie: `${sessionCookie}=${randomToken()}`,
      'x-forwarded-for': from,
    })
  for (let n = 0; n < 20; n += 1) refused(t, await guess(`203.0.113.${n}, 198.51.100.7`), 401, 'not_authenticated')
  const answer = await guess('203.0.113.99, 198.51.100.7')
  refused(t, answer, 429, 'too_many_requests')
  t.match(answer.headers['retry-after'], /^[1-9]\d*$/)
  refused(t, await guess('198.51.100.8'), 401, 'not_authenticated')
})

// Everything that a proxy forwards passes by the log.
test('neither the secret nor a cookie nor a token is ever logged', async t => {
  const log = gateway.log.join('')
  t.notMatch(log, secret)
  t.notMatch(log, /__Host-coatcheck=/)
  for (const token of provider.issued.accessTokens) t.notOk(log.includes(token))
})

test('it is not on the public port', async t => {
  const lisa = stage.browser()
  for (const path of ['/forward-auth/u0', '/bff/forward-auth/u0', '/forward%2dauth/u0']) {
    const answer = await lisa.api(path, { headers: bearer })
    t.equal(answer.status, 404, path)
    t.equal(answer.headers.authorization, undefined)
  }
})

// A gateway without a secret must not take an empty or undefined one for right.
test('without FORWARD_AUTH_TOKEN there is nothing to ask', async t => {
  const op = await startProvider()
  const without = await startGateway({ provider: op, upstreams: { '/api': upstreamUrl } })
  t.teardown(() => Promise.all([without.close(), op.close()]))
  for (const authorization of ['', 'Bearer ', 'Bearer undefined', `Bearer ${secret}`]) {
    const answer = await fetch(`${without.internalUrl}/forward-auth/u0`, { headers: { authorization } })
    t.equal(answer.status, 404, authorization)
    t.match(await answer.json(), { code: 'not_found' })
  }
})

test('asking keeps a session alive exactly where a request would', async t => {
  const cases: [name: string, upstream: string, headers: Headers, kept: boolean][] = [
    ['active', 'u0', {}, true],
    ['marked passive', 'u0', { 'x-activity': 'passive' }, false],
    ['a passive upstream', 'feed', {}, false],
    ['refused', 'u0', { origin: 'https://evil.test' }, false],
  ]
  const browsers: TestBrowser[] = []
  for (const [name] of cases) browsers.push(await stage.loggedIn(name))
  clock.advance(29 * 60_000)
  for (const [index, [, upstream, headers]] of cases.entries())
    await ask(browsers[index] ?? stage.browser(), headers, upstream)
  clock.advance(2 * 60_000)
  for (const [index, [name, , , kept]] of cases.entries()) {
    const later = await ask(browsers[index] ?? stage.browser(), { 'x-activity': 'passive' })
    if (kept) t.equal(later.status, 200, name)
    else refused(t, later, 401, 'session_expired', name)
  }
})
