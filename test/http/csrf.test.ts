import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Test, test } from 'tap'
import type { BrowserResponse, HeaderInput } from '../support/browser.ts'
import { launchChromium } from '../support/chromium.ts'
import { eventually } from '../support/eventually.ts'
import { sessionCookie, startStage } from '../support/stage.ts'

test('the rule for scripts', async t => {
  const stage = await startStage(t)
  const { gateway, upstream, redis } = stage
  const alice = await stage.loggedIn('alice')
  const cookies = [`${sessionCookie}=${alice.jar.get(sessionCookie)}`]

  /** The endpoints that a cookie opens, and what they answer to the application itself. */
  const endpoints = [
    { method: 'GET', path: '/bff/user', status: 200 },
    { method: 'GET', path: '/bff/user?anonymous=200', status: 200 },
    { method: 'GET', path: '/api/items', status: 200 },
    { method: 'HEAD', path: '/api/items', status: 200 },
    { method: 'POST', path: '/api/items', status: 200 },
    { method: 'PUT', path: '/api/items/1', status: 200 },
    { method: 'PATCH', path: '/api/items/1', status: 200 },
    { method: 'DELETE', path: '/api/items/1', status: 200 },
  ]
  /** Looked at, but never used up by a right request. */
  const logout = { method: 'POST', path: '/bff/logout', status: 200 }

  const call = ({ method, path }: { method: string; path: string }, headers: HeaderInput, body?: string) =>
    alice.request(path, { method, headers, cookies, ...(body === undefined ? {} : { body }) })

  const refused = (t: Test, answer: BrowserResponse, label: string) => {
    t.equal(answer.status, 403, label)
    if (answer.text !== '') t.equal(answer.json().code, 'csrf')
    t.equal(answer.headers['access-control-allow-origin'], undefined)
    t.strictSame(answer.rawSetCookie, [])
  }

  /** Runs attacks and proves that none of them got as far as Redis or an API. */
  const withoutEffect = async (t: Test, attacks: () => Promise<void>) => {
    upstream.requests.length = 0
    const monitor = await redis.monitor()
    await attacks()
    t.strictSame(monitor.commands, [], 'Redis was not asked, so that nothing of it counts as activity')
    monitor.stop()
    t.strictSame(upstream.requests, [], 'the API saw nothing')
    t.equal((await alice.api('/bff/user')).status, 200, 'the session is alive')
  }

  t.test('lets the application itself through', async t => {
    for (const endpoint of endpoints) {
      t.equal((await call(endpoint, { 'X-CSRF': '1' })).status, endpoint.status, `${endpoint.method} ${endpoint.path}`)
      const full = { 'X-CSRF': '1', Origin: gateway.url, 'Sec-Fetch-Site': 'same-origin' }
      t.equal((await call(endpoint, full)).status, endpoint.status, 'with all that a browser says')
    }
  })

  // A page elsewhere sends what needs no preflight: the cookie goes along, the header cannot (OAuth 2.0 for BBA §6.1.3.3.2).
  t.test('refuses every request without the header, or with another value, before anything is done', async t => {
    await withoutEffect(t, async () => {
      for (const endpoint of [...endpoints, logout]) {
        for (const value of [undefined, '', '0', '2', '11', 'true', '1,1', '1;', '01', '1.0', '\xb9']) {
          const headers: [string, string][] = value === undefined ? [] : [['X-CSRF', value]]
          refused(t, await call(endpoint, headers), `${endpoint.method} ${endpoint.path} with ${value}`)
        }
        const twice: HeaderInput = [
          ['X-CSRF', '1'],
          ['X-CSRF', '1'],
        ]
        refused(t, await call(endpoint, twice), 'given twice')
        for (const name of ['XCSRF', 'X_CSRF', 'X-CSRF-Token', 'X-XSRF', 'X-Requested-With'])
          refused(t, await call(endpoint, { [name]: '1' }), `under the name ${name}`)
      }
      for (const query of ['X-CSRF=1', 'x-csrf=1', '_csrf=1'])
        refused(t, await call({ method: 'GET', path: `/bff/user?${query}` }, {}), `in the address: ${query}`)
    })
  })

  // Forms and beacons: content types for which no browser asks first (OWASP ASVS 3.5.2).
  t.test('refuses what forms, beacons and pictures send', async t => {
    const bodies: [string | undefined, string | undefined][] = [
      ['text/plain', '{"coat":"mine","x":"="}'],
      ['text/plain;charset=UTF-8', '{"coat":"mine"}'],
      ['application/x-www-form-urlencoded', 'X-CSRF=1&coat=mine'],
      ['multipart/form-data; boundary=x', '--x\r\nContent-Disposition: form-data; name="X-CSRF"\r\n\r\n1\r\n--x--\r\n'],
      ['application/json', '{"X-CSRF":"1"}'],
      [undefined, 'beacon'],
      [undefined, undefined],
    ]
    await withoutEffect(t, async () => {
      for (const path of ['/api/items', '/bff/logout']) {
        for (const [type, body] of bodies) {
          const headers = type === undefined ? {} : { 'Content-Type': type }
          refused(t, await call({ method: 'POST', path }, headers, body), `${path} with ${type}`)
        }
      }
      for (const override of ['X-HTTP-Method-Override', 'X-Method-Override'])
        refused(t, await call({ method: 'POST', path: '/api/items?_method=GET' }, { [override]: 'GET' }), override)
    })
  })

  // A neighbour on the same site gets the cookie sent; only what the browser says of it gives it away (BBA §6.1.3.3.1).
  t.test('holds Origin and Sec-Fetch-Site against the application, whenever they are sent', async t => {
    const { port } = new URL(gateway.url)
    const origins = [
      undefined,
      gateway.url,
      'null',
      '',
      `https://localhost:${port}`,
      'http://localhost',
      'http://localhost:1',
      `http://localhost:${port}0`,
      `http://app.localhost:${port}`,
      `http://evil-localhost:${port}`,
      `http://localhost.evil.test:${port}`,
      `http://localhost:${port}.evil.test`,
      `http://localhost:${port}@evil.test`,
      `http://LOCALHOST:${port}`,
      `http://localhost.:${port}`,
      `http://127.0.0.1:${port}`,
      `${gateway.url}/`,
      `${gateway.url}, ${gateway.url}`,
    ]
    const sites = [
      undefined,
      'same-origin',
      'same-site',
      'cross-site',
      'none',
      'Same-Origin',
      '',
      'same-origin, cross-site',
    ]
    const right = (origin?: string, site?: string) =>
      (origin === undefined || origin === gateway.url) && (site === undefined || site === 'same-origin')
    const sent = (origin?: string, site?: string): HeaderInput => ({
      'X-CSRF': '1',
      ...(origin === undefined ? {} : { Origin: origin }),
      ...(site === undefined ? {} : { 'Sec-Fetch-Site': site }),
    })
    const pairs = origins.flatMap(origin => sites.map(site => [origin, site] as const))
    t.equal(pairs.filter(([origin, site]) => right(origin, site)).length, 4)
    await withoutEffect(t, async () => {
      for (const [origin, site] of pairs.filter(([origin, site]) => !right(origin, site))) {
        for (const endpoint of [...endpoints.slice(0, 5), logout])
          refused(t, await call(endpoint, sent(origin, site)), `${endpoint.path} from ${origin}, ${site}`)
      }
    })
    for (const [origin, site] of pairs.filter(([origin, site]) => right(origin, site)))
      t.equal(
        (await call({ method: 'POST', path: '/api/items' }, sent(origin, site))).status,
        200,
        `${origin}, ${site}`,
      )
  })

  // The browser asks first; a yes would let the header through from anywhere.
  t.test('gives no other origin leave to send the header', async t => {
    for (const origin of ['http://evil.test', 'null', 'http://app.localhost']) {
      for (const path of ['/bff/user', '/bff/logout', '/api/items']) {
        const headers = {
          Origin: origin,
          'Access-Control-Request-Method': 'POST',
          'Access-Control-Request-Headers': 'x-csrf',
        }
        upstream.requests.length = 0
        const answer = await call({ method: 'OPTIONS', path }, headers)
        t.ok([403, 405].includes(answer.status), `${path} from ${origin}: ${answer.status}`)
        t.notOk(Object.keys(answer.headers).some(name => name.startsWith('access-control-')))
        t.strictSame(upstream.requests, [])
      }
    }
  })

  // Whether there is a session is itself worth knowing; without the header nobody is told.
  t.test('comes before the question whether there is a session', async t => {
    const stranger = stage.browser()
    for (const cookie of [[], [`${sessionCookie}=${'A'.repeat(43)}`], cookies]) {
      for (const path of ['/bff/user', '/api/items'])
        refused(t, await stranger.get(path, { cookies: cookie }), `${path} with ${cookie.length} cookies`)
    }
    t.equal((await stranger.api('/bff/user', { cookies: [] })).status, 401)
  })

  // User data as a script of another page: included by its address, with a callback function for it (OWASP ASVS 3.5.7).
  t.test('and the headers of an answer keep user data out of other pages', async t => {
    const headers = { 'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'no-cors', 'Sec-Fetch-Dest': 'script' }
    refused(t, await call({ method: 'GET', path: '/bff/user?callback=steal' }, headers), 'as a script')
    const own = await call({ method: 'GET', path: '/bff/user?callback=steal' }, { 'X-CSRF': '1' })
    t.match(own.headers['content-type'], /^application\/json/)
    t.equal(own.headers['x-content-type-options'], 'nosniff')
    t.equal(own.headers['cross-origin-resource-policy'], 'same-origin')
    t.notMatch(own.text, /steal/)
  })

  // The real thing: another port of the same host is the same site, so the Strict cookie goes along with all of this.
  t.test('stops a page of the same site in a real browser', async t => {
    const chromium = await launchChromium()
    const neighbour = createServer((_request, response) => {
      response.setHeader('content-type', 'text/html').end('<!doctype html><iframe name="sink"></iframe>')
    }).listen(0, '127.0.0.1')
    t.teardown(async () => {
      await chromium.close()
      neighbour.close()
    })
    const context = await chromium.newContext()
    const value = alice.jar.get(sessionCookie) ?? ''
    const attributes = { domain: 'localhost', path: '/', secure: true, httpOnly: true, sameSite: 'Strict' as const }
    await context.addCookies([{ name: sessionCookie, value, ...attributes }])
    const page = await context.newPage()
    const cookiesSent: (string | undefined)[] = []
    const note = ({ headers }: IncomingMessage) => void cookiesSent.push(headers.cookie)
    gateway.app.publicServer.server.on('request', note)
    await page.goto(`http://localhost:${(neighbour.address() as AddressInfo).port}/`)
    upstream.requests.length = 0
    const refusals = gateway.events('csrf_refused').length
    await page.evaluate(`(async home => {
      const quiet = promise => promise.then(() => undefined, () => undefined)
      await quiet(fetch(home + '/api/items', { method: 'POST', mode: 'no-cors', credentials: 'include', body: 'x' }))
      await quiet(fetch(home + '/bff/user', { mode: 'no-cors', credentials: 'include' }))
      await quiet(fetch(home + '/bff/logout', { method: 'POST', mode: 'no-cors', credentials: 'include' }))
      await quiet(fetch(home + '/api/items', { method: 'POST', credentials: 'include', headers: { 'X-CSRF': '1' } }))
      navigator.sendBeacon(home + '/api/items', 'beacon')
      new Image().src = home + '/api/items'
      const form = document.createElement('form')
      Object.assign(form, { action: home + '/api/items', method: 'post', enctype: 'text/plain', target: 'sink' })
      document.body.append(form)
      form.submit()
    })(${JSON.stringify(gateway.url)})`)
    t.ok(await eventually(() => gateway.events('csrf_refused').length - refusals >= 7), 'each was refused')
    gateway.app.publicServer.server.off('request', note)
    t.equal(
      cookiesSent.filter(cookie => cookie?.includes(value)).length,
      6,
      'although all but the preflight had the cookie',
    )
    t.strictSame(upstream.requests, [])
    t.equal((await alice.api('/bff/user')).status, 200)
  })
})
