import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import tap, { test } from 'tap'
import type { HeaderInput } from '../support/browser.ts'
import { launchChromium } from '../support/chromium.ts'
import { login, sessionCookie, startStage } from '../support/stage.ts'

/** The SPA on another port: another origin, and the same site. */
const pages = createServer((_request, response) => {
  response
    .setHeader('content-type', 'text/html')
    .end('<!doctype html><link rel="icon" href="data:,"><title>SPA</title>')
}).listen(0, '127.0.0.1')
await new Promise(resolve => pages.once('listening', resolve))
const spa = `http://localhost:${(pages.address() as AddressInfo).port}`
const stage = await startStage(tap, { env: { CORS_ORIGINS: spa } })
const { gateway, upstream, redis } = stage
tap.teardown(() => pages.close())

const fromSpa = { Origin: spa, 'Sec-Fetch-Site': 'same-site', 'Sec-Fetch-Mode': 'cors', 'X-CSRF': '1' }
const preflight = (origin: string, method = 'PUT'): HeaderInput => ({
  Origin: origin,
  'Access-Control-Request-Method': method,
  'Access-Control-Request-Headers': 'content-type,x-activity,x-csrf',
})
const corsHeaders = (headers: Record<string, unknown>) =>
  Object.keys(headers).filter(name => name.startsWith('access-control-'))

test('an SPA on an allowed origin calls with the cookie, and reads every answer', async t => {
  const browser = await stage.loggedIn('alice')
  const expected: [string, string, number][] = [
    ['GET', '/bff/user', 200],
    ['GET', '/api/items', 200],
    ['POST', '/api/items', 200],
    ['GET', '/bff/sessions', 200],
    ['DELETE', '/bff/sessions/AAAAAAAAAAAAAAAA', 404],
    ['PUT', '/bff/user', 405],
    ['GET', '/bff/nothing', 404],
    ['GET', '/%zz', 400],
  ]
  for (const [method, path, status] of expected) {
    const { headers, ...answer } = await browser.request(path, { method, headers: fromSpa })
    t.equal(answer.status, status, `${method} ${path}`)
    t.match(headers, { 'access-control-allow-origin': spa, 'access-control-allow-credentials': 'true' }, path)
    t.match(headers.vary, /Origin/, path)
  }
  const anonymous = await stage.browser().request('/bff/user', { headers: fromSpa })
  t.match(anonymous.headers, { 'access-control-allow-origin': spa, vary: /Origin/ })
  t.match(anonymous.json(), { code: 'not_authenticated', loginUrl: `${gateway.url}/bff/login` })
})

// What an API says of origins it says of itself, and not of the gateway whose cookie goes along.
test('an upstream neither opens nor closes anything', async t => {
  const browser = await stage.loggedIn('alice')
  const honest = upstream.respond
  t.teardown(() => {
    upstream.respond = honest
  })
  upstream.respond = ({ headers }, response) => {
    const open = { 'access-control-allow-origin': headers.origin ?? '*', 'access-control-allow-credentials': 'true' }
    response.writeHead(200, { ...open, vary: 'Accept-Encoding', 'x-total': '7' }).end('{}')
  }
  const allowed = await browser.request('/api/items', { headers: fromSpa })
  t.match(allowed.headers, { 'access-control-allow-origin': spa, vary: 'Accept-Encoding, Origin' })
  t.match(allowed.headers['access-control-expose-headers'], /x-total/)
  const own = await browser.api('/api/items')
  t.equal(own.status, 200)
  t.strictSame(corsHeaders(own.headers), [])
  t.match(own.headers.vary, /Origin/)
})

test('preflights are answered here: no upstream and no Redis hears of them', async t => {
  const browser = await stage.loggedIn('alice')
  upstream.requests.length = 0
  const monitor = await redis.monitor()
  for (const path of ['/bff/user', '/bff/logout', '/bff/nothing', '/api/items']) {
    const answer = await browser.request(path, { method: 'OPTIONS', headers: preflight(spa) })
    t.same([answer.status, answer.text], [204, ''], path)
    t.match(answer.headers, {
      'access-control-allow-origin': spa,
      'access-control-allow-credentials': 'true',
      'access-control-allow-methods': /PUT/,
      'access-control-allow-headers': 'content-type,x-activity,x-csrf',
      'access-control-max-age': '600',
    })
    const neighbour = spa.replace('localhost', 'app.localhost')
    for (const origin of [
      'null',
      'http://evil.test',
      `${spa}0`,
      spa.replace('http', 'https'),
      neighbour,
      gateway.url,
    ]) {
      const refused = await browser.request(path, { method: 'OPTIONS', headers: preflight(origin) })
      // The application itself asks nobody's leave.
      const own = origin === gateway.url && refused.status === 204
      t.ok(own || (refused.status >= 400 && refused.status < 500), `${path} from ${origin}: ${refused.status}`)
      t.strictSame(corsHeaders(refused.headers), [], origin)
      t.match(refused.headers.vary, /Origin/)
    }
  }
  t.strictSame(monitor.commands, [])
  monitor.stop()
  t.strictSame(upstream.requests, [])
})

test('an event stream may be read, too', async t => {
  const browser = await stage.loggedIn('alice')
  const own = [
    ['Sec-Fetch-Site', 'same-site'],
    ['Origin', spa],
  ] as [string, string][]
  const cookies = [`${sessionCookie}=${browser.jar.get(sessionCookie)}`]
  const stream = await stage.browser().stream('/bff/events', { headers: own, cookies })
  t.match([stream.status, stream.headers], [200, { 'access-control-allow-origin': spa, vary: 'Origin' }])
  stream.close()
})

test('a login returns to the SPA, and addresses for it are absolute', async t => {
  const browser = stage.browser()
  const end = await login(browser, gateway.url, stage.provider, { user: 'bob', returnUrl: `${spa}/deep/link?x=1#top` })
  const back = end.chain.find(answer => new URL(answer.url).pathname === '/bff/callback')
  const set = end.chain.map(({ rawSetCookie }) => rawSetCookie)
  for (const lines of set) t.equal(new Set(lines).size, lines.length, 'no cookie is set twice')
  t.ok(set.flat().length > 1)
  t.equal(back?.headers.location, `${spa}/deep/link?x=1#top`)
  const user = await browser.request('/bff/user', { headers: fromSpa })
  const { session } = user.json<{ session: { logoutUrl: string } }>()
  t.match(session.logoutUrl, `${gateway.url}/bff/logout?token=`)
  const out = await browser.request('/bff/logout', { method: 'POST', headers: fromSpa })
  const { logoutUrl } = out.json<{ logoutUrl: string }>()
  t.match(logoutUrl, `${gateway.url}/bff/logout/continue?handle=`)
  const again = await browser.request('/bff/logout', { method: 'POST', headers: fromSpa })
  t.equal(again.json().logoutUrl, `${gateway.url}/`)
})

// An open redirect behind the real login, since one absolute address is allowed now.
test('a login returns nowhere else', async t => {
  const { host } = new URL(spa)
  const users = [`http://${host}@evil.test/`, `http://x@${host}/`, `${spa}@evil.test/`]
  for (const returnUrl of [
    ...users,
    `${spa}.evil.test/`,
    `${spa}0/`,
    `//${host}/`,
    `https://${host}/`,
    `${spa}\\@evil.test`,
  ]) {
    const answer = await stage.browser().navigate(`${gateway.url}/bff/login?returnUrl=${encodeURIComponent(returnUrl)}`)
    t.equal(answer.status, 400, returnUrl)
  }
})

// Cross-Origin-Resource-Policy holds for requests without CORS only (Fetch Standard, HTTP fetch): `same-origin` may stay.
test('a real browser lets the SPA in, and a neighbour on the same site out', async t => {
  const chromium = await launchChromium()
  const neighbour = createServer((_request, response) => {
    response.setHeader('content-type', 'text/html').end('<!doctype html><link rel="icon" href="data:,">')
  }).listen(0, '127.0.0.1')
  t.teardown(async () => {
    await chromium.close()
    neighbour.close()
  })
  const alice = await stage.loggedIn('alice')
  const context = await chromium.newContext()
  const value = alice.jar.get(sessionCookie) ?? ''
  const attributes = { domain: 'localhost', path: '/', secure: true, httpOnly: true, sameSite: 'Strict' as const }
  await context.addCookies([{ name: sessionCookie, value, ...attributes }])
  const page = await context.newPage()
  const calls = `(async home => {
    const options = { credentials: 'include', headers: { 'X-CSRF': '1' } }
    const call = (path, more) => fetch(home + path, { ...options, ...more }).then(
      async answer => [answer.status, (await answer.json()).user?.sub ?? answer.headers.get('content-type')],
      error => error.name,
    )
    const stream = new EventSource(home + '/bff/events', { withCredentials: true })
    const opened = await new Promise(resolve => {
      stream.onopen = () => resolve('open')
      stream.onerror = () => resolve('refused')
    })
    stream.close()
    return [await call('/bff/user'), await call('/api/items', { method: 'PUT' }), opened]
  })(${JSON.stringify(gateway.url)})`
  await page.goto(`${spa}/`)
  t.strictSame(await page.evaluate(calls), [[200, 'alice'], [200, 'application/json'], 'open'])
  await page.goto(`http://localhost:${(neighbour.address() as AddressInfo).port}/`)
  t.strictSame(await page.evaluate(calls), ['TypeError', 'TypeError', 'refused'])
})
