import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import tap, { type Test, test } from 'tap'
import { createBrowser, rawRequest, type TestBrowser } from '../support/browser.ts'
import { freePort } from '../support/free-port.ts'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { login } from '../support/login.ts'
import { startProvider } from '../support/provider.ts'
import { startRedis } from '../support/redis.ts'
import { type StartReverseProxy, startCaddy, startNginx } from '../support/reverse-proxies.ts'
import { sessionCookie } from '../support/stage.ts'
import { startUpstream } from '../support/upstream.ts'

const secret = 'forward-auth-canary-4c5bd7f04f3a'
const adminToken = 'admin-canary-91d40b0d81f2'
const provider = await startProvider()
const redis = await startRedis()
const [api, passedBy] = await Promise.all([startUpstream(), startUpstream()])
const spa = mkdtempSync(join(tmpdir(), 'coatcheck-spa-'))
writeFileSync(join(spa, 'index.html'), '<!doctype html><title>The application</title>')

tap.teardown(async () => {
  await Promise.all([provider.close(), api.close(), passedBy.close(), redis.stop()])
  rmSync(spa, { recursive: true, force: true })
})

tap.beforeEach(() => {
  api.clear()
  // No echo: it would repeat the access token, which is the API's to know and not the browser's.
  api.respond = (_request, res) => void res.writeHead(200, { 'set-cookie': 'api=1' }).end('from the API')
})

for (const [name, start] of [
  ['nginx', startNginx],
  ['Caddy', startCaddy],
] as const)
  test(`behind ${name}, as docs/forward-auth sets it up`, t => fronted(t, start))

async function fronted(t: Test, start: StartReverseProxy): Promise<void> {
  const [port, apiPort] = [await freePort(), api.port]
  const origin = `http://localhost:${port}`
  const gateway = await startGateway({
    provider,
    env: {
      PUBLIC_URL: origin,
      HOST: '127.0.0.1',
      REDIS_URL: redis.url,
      SPA_DIR: spa,
      FORWARD_AUTH_TOKEN: secret,
      ADMIN_TOKEN: adminToken,
      TRUSTED_PROXIES: '127.0.0.1',
      UPSTREAM_API_PATH: '/api',
      // What reaches it has gone through the gateway, and not through the proxy alone.
      UPSTREAM_API_URL: passedBy.url,
      UPSTREAM_API_CLAIMS_HEADERS: 'X-User=sub',
    },
  })
  t.teardown(gateway.close)
  const internalPort = Number(new URL(gateway.internalUrl).port)
  const surroundings = { port, gatewayPort: gateway.port, internalPort, apiPort, secret }
  const proxy = await start(surroundings)
  t.teardown(proxy.stop)

  const visitor = async (user: string) => {
    const browser = createBrowser({ origin })
    await login(browser, origin, provider, { user, returnUrl: '/welcome' })
    return browser
  }
  const newestToken = () => [...provider.issued.accessTokens].at(-1)
  const anna = await visitor('anna')
  const annasToken = newestToken()
  const cookie = `${sessionCookie}=${anna.jar.get(sessionCookie)}`

  await t.test('the application is there, and a login goes through its origin', async t => {
    t.match((await anna.get('/')).text, 'The application')
    const user = await anna.api('/bff/user')
    t.match([user.status, user.json()], [200, { user: { sub: 'anna' } }])
  })

  await t.test('the API gets the token and neither cookie nor secret', async t => {
    for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']) {
      const body =
        method === 'GET' ? {} : { body: `{"n": "${method}"}`, headers: { 'content-type': 'application/json' } }
      const answer = await anna.api('/api/items?x=1&y=%20z', { method, ...body })
      t.same([answer.status, answer.text, answer.rawSetCookie], [200, 'from the API', []], method)
      t.notOk(JSON.stringify(answer.rawHeaders).includes(`${annasToken}`), 'and the browser no token')
      const seen = api.requests.at(-1)
      t.match(seen, { method, url: '/items?x=1&y=%20z' })
      t.match(seen?.headers, { authorization: `Bearer ${annasToken}`, 'x-user': 'anna' })
      t.equal(seen?.body.toString(), body.body ?? '')
    }
    t.equal((await anna.api('/api/items', { method: 'HEAD' })).status, 200)
    t.notMatch(api.rawText(), /cookie|coatcheck|x-csrf|canary/i)
    t.equal(passedBy.requests.length, 0, 'past the gateway')
  })

  await t.test('each session gets its own token, at the same time', async t => {
    const berta = await visitor('berta')
    const bertas = newestToken()
    t.not(bertas, annasToken)
    const asked = Array.from({ length: 20 }, (_, n) => (n % 2 === 0 ? anna : berta).api(`/api/${n % 2}`))
    t.ok((await Promise.all(asked)).every(({ status }) => status === 200))
    for (const { url, headers } of api.requests)
      t.equal(headers.authorization, `Bearer ${url === '/0' ? annasToken : bertas}`)
  })

  // The browser's owner writes the headers by hand: to be somebody else, or to have the gateway's own taken out.
  await t.test('what the browser says of itself does not reach the API', async t => {
    const forged = [
      'Authorization: Bearer forged',
      'X-User: forged',
      'X_User: forged',
      'x-user: forged',
      'X-Forwarded-For: 6.6.6.6',
      'X-Forwarded-Host: forged.test',
      'X-Forwarded-Proto: forged',
      'X-Forwarded-Method: FORGED',
      'X-Original-Method: FORGED',
      'Forwarded: for=6.6.6.6;host=forged.test',
      'Connection: close, Authorization, X-User',
    ]
    const head = [`GET /api/items HTTP/1.1`, `Host: localhost:${port}`, `Cookie: ${cookie}`, 'X-CSRF: 1', ...forged]
    t.match(await rawRequest(port, `${head.join('\r\n')}\r\n\r\n`), /^HTTP\/1.1 200 /)
    t.notMatch(api.rawText(), /forged|6\.6\.6\.6|cookie|canary/i)
    t.match(api.requests[0]?.headers, { authorization: `Bearer ${annasToken}`, 'x-user': 'anna' })
  })

  const refused = async (t: Test, asked: ReturnType<TestBrowser['api']>, expected: object) => {
    const before = api.requests.length
    const answer = await asked
    t.match({ status: answer.status, ...answer.json() }, expected)
    t.match(answer.headers, { 'content-type': /^application\/problem\+json/, 'cache-control': 'no-store' })
    t.same([answer.rawSetCookie, answer.headers.location], [[], undefined])
    t.equal(api.requests.length, before, 'the API heard nothing')
    return answer
  }

  await t.test('a refusal reaches the browser as the problem that it is', async t => {
    const stranger = createBrowser({ origin })
    const login = { status: 401, code: 'not_authenticated', loginUrl: '/bff/login' }
    await refused(t, stranger.api('/api/items'), login)
    await refused(t, stranger.api('/api/items', { method: 'POST', body: 'x'.repeat(100_000) }), login)
    await refused(t, anna.api('/api/items', { cookies: [`${cookie}; ${cookie}`] }), login)
    await refused(t, anna.get('/api/items'), { status: 403, code: 'csrf' })
    const options = anna.api('/api/items', { method: 'OPTIONS' })
    await refused(t, options, { status: 405, code: 'method_not_allowed' })
    await refused(t, anna.api('/api/items', { headers: { origin: 'https://evil.test' } }), {
      status: 403,
      code: 'csrf',
    })
  })

  await t.test('the answers of the API are its own', async t => {
    for (const status of [400, 401, 403, 404, 500, 502, 503]) {
      api.respond = (_request, res) => void res.writeHead(status, { 'x-from': 'api' }).end('no')
      const answer = await anna.api('/api/items')
      t.same([answer.status, answer.headers['x-from'], answer.text], [status, 'api', 'no'])
    }
  })

  // Whoever reads one of the paths of the machinery itself would get tokens, or have others' requests judged.
  await t.test('the browser cannot ask the gateway itself', async t => {
    for (const path of ['/_forward_auth', '/forward-auth/api', '/api/../_forward_auth', '/%5fforward_auth']) {
      const answer = await anna.api(path, { headers: { authorization: `Bearer ${secret}` } })
      t.not(answer.status, 500, path)
      t.same([answer.headers.authorization, answer.headers['x-coatcheck-problem']], [undefined, undefined], path)
      t.notMatch(answer.text, /Bearer|eyJ/, path)
    }
  })

  await t.test(
    'a proxy with a wrong secret, or no gateway to ask, lets nothing through and sends nobody to log in',
    async t => {
      const faults = { secret: 'mistaken', internalPort: await freePort() }
      for (const [fault, value] of Object.entries(faults)) {
        const stray = await freePort()
        const mistaken = await start({ ...surroundings, port: stray, [fault]: value })
        t.teardown(mistaken.stop)
        const answer = await anna.api(`http://localhost:${stray}/api/items`)
        t.equal(answer.status, 502, fault)
        t.notMatch(answer.text, /loginUrl|not_authenticated/)
      }
      t.equal(api.requests.length, 0)
      t.equal(gateway.events('forward_auth_refused').length, 1)
    },
  )

  await t.test('while Redis does not answer it is 503, and the session lives on', async t => {
    redis.pause()
    t.teardown(redis.resume)
    // The session was confirmed a moment ago, which may do for as long.
    await new Promise(resolve => setTimeout(resolve, 1000))
    const answer = await refused(t, anna.api('/api/items'), { status: 503, code: 'store_unavailable' })
    t.match(answer.headers['retry-after'], /^[1-9]\d*$/)
    redis.resume()
    await recovered(anna)
    t.equal((await anna.api('/api/items')).status, 200)
  })

  await t.test('a session that has ended is 401, with the reason', async t => {
    const carl = await visitor('carl')
    t.equal((await carl.api('/api/items')).status, 200)
    await endAll(gateway, 'carl')
    const ended = { status: 401, code: 'session_revoked', reason: 'admin', loginUrl: '/bff/login' }
    await refused(t, carl.api('/api/items'), ended)
    t.equal((await anna.api('/api/items')).status, 200)
    t.equal((await anna.api('/bff/logout', { method: 'POST' })).status, 200)
    await refused(t, anna.api('/api/items', { cookies: [cookie] }), { status: 401, code: 'session_revoked' })
  })

  await t.test('no secret, cookie or token is in a log', async t => {
    for (const [where, log] of Object.entries({ gateway: gateway.log.join(''), proxy: proxy.output() }))
      for (const hidden of [secret, cookie.split('=')[1] ?? '', `${annasToken}`])
        t.notOk(log.includes(hidden), `${where}: ${hidden.slice(0, 12)}…`)
  })
}

async function endAll({ internalUrl }: TestGateway, sub: string): Promise<void> {
  const headers = { authorization: `Bearer ${adminToken}`, 'content-type': 'application/json' }
  await fetch(`${internalUrl}/admin/revoke`, { method: 'POST', headers, body: JSON.stringify({ sub }) })
}

/** Waits until the gateway has found Redis again. */
async function recovered(browser: TestBrowser): Promise<void> {
  const limit = Date.now() + 10_000
  while (Date.now() < limit && (await browser.api('/bff/user?slide=false')).status === 503)
    await new Promise(resolve => setTimeout(resolve, 100))
}
