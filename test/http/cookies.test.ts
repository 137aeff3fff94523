import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'tap'
import { randomToken } from '../../src/core/random.ts'
import { openSession } from '../../src/core/session.ts'
import { parseSetCookie, rawRequest, type TestBrowser } from '../support/browser.ts'
import { launchChromium } from '../support/chromium.ts'
import { freePort } from '../support/free-port.ts'
import { startGateway } from '../support/gateway.ts'
import {
  bindingPrefix,
  hopOf,
  linked,
  login,
  type Stage,
  sessionCookie,
  sessionCookiesSet,
  startStage,
  throughProvider,
} from '../support/stage.ts'

const cookieOf = (browser: TestBrowser) => browser.jar.get(sessionCookie) ?? ''

const identity = {
  issuer: 'https://login.example',
  subject: 'alice',
  providerSessionId: undefined,
  claims: {},
  nonce: 'nonce',
  authTime: undefined,
}

test('the cookies of a login', async t => {
  const stage = await startStage(t)
  const { gateway, provider } = stage

  // A cookie without one of its attributes can be read by script, sent over http or set by a neighbour (RFC 6265bis §4.1.3.2).
  t.test('have a __Host- name and every attribute that keeps others away from them', async t => {
    const browser = stage.browser()
    const end = await login(browser, gateway.url, provider, { user: 'alice' })
    const lines = end.chain.flatMap(({ url, rawSetCookie }) => (url.startsWith(gateway.url) ? rawSetCookie : []))
    t.equal(lines.length, 3, 'the binding cookie set, the binding cookie cleared, the session cookie set')
    const [bound, cleared, session] = lines.map(parseSetCookie)
    for (const cookie of [bound, cleared, session]) {
      t.match(cookie, { path: '/', domain: undefined, secure: true, httpOnly: true })
      t.ok(cookie?.name.startsWith('__Host-'))
    }
    t.match(session, { name: sessionCookie, sameSite: 'strict', maxAge: undefined, expires: undefined })
    t.match(bound, { sameSite: 'lax', maxAge: 600 })
    t.match(cleared, { name: bound?.name, sameSite: 'lax', value: '', maxAge: 0, expires: new Date(0) })
    t.notOk(
      browser.jar.seen.some(({ refused }) => refused),
      'a browser takes all of them',
    )

    const { session: shown } = (await browser.api('/bff/user')).json<{ session: { logoutUrl: string } }>()
    const left = await browser.navigate(shown.logoutUrl)
    const [ended] = left.chain[0]?.rawSetCookie.map(parseSetCookie) ?? []
    t.match(ended, { name: sessionCookie, value: '', maxAge: 0, path: '/', domain: undefined })
    t.match(ended, { secure: true, httpOnly: true, sameSite: 'strict' }, 'cleared with the attributes it was set with')
  })

  t.test('end with a login that fails, and leave the session cookie alone', async t => {
    const browser = await stage.loggedIn('bob')
    const callback = await stage.pendingCallback(browser, 'bob')
    const bound = browser.jar.list().find(({ name }) => name.startsWith(bindingPrefix))
    callback.searchParams.set('iss', 'http://evil.test')
    const failed = await stage.open(browser, callback)
    t.equal(failed.status, 400)
    const [cleared, ...others] = failed.rawSetCookie.map(parseSetCookie)
    t.strictSame(others, [])
    t.match(cleared, { name: bound?.name, value: '', maxAge: 0, path: '/', domain: undefined })
    t.match(cleared, { secure: true, httpOnly: true, sameSite: 'lax' })
    await browser.navigate(hopOf(failed) ?? '', { from: gateway.url })
    t.equal((await browser.api('/bff/user')).status, 200)
  })

  // A cookie that can be guessed or computed is a session that can be taken over (OWASP ASVS 7.2.3).
  t.test('are random, of one length and without structure', async t => {
    const names = Array.from({ length: 60 }, (_, index) => `someone${index}`)
    const browsers = []
    for (const name of names) browsers.push(await stage.loggedIn(name))
    const served = browsers.map(cookieOf)
    const made = Array.from({ length: 10_000 }, () => openSession(identity, { userAgent: '', address: '' }, 0).cookie)
    const all = [...served, ...made]
    t.equal(new Set(all).size, all.length, 'none occurs twice')
    t.ok(
      all.every(value => /^[\w-]{43}$/.test(value)),
      'each is 256 bits long',
    )
    const text = Buffer.concat(all.map(value => Buffer.from(value, 'base64url')))
    const ones = text.reduce((sum, byte) => sum + byte.toString(2).replaceAll('0', '').length, 0)
    t.ok(Math.abs(ones / (text.length * 8) - 0.5) < 0.005, 'as many ones as zeros')
    for (let position = 0; position < 42; position += 1)
      t.equal(new Set(all.map(value => value[position])).size, 64, `any character may be at ${position}`)
  })

  // A cookie over 4096 bytes is dropped by the browser, and the login can never end (RFC 6265bis §5.6).
  t.test('stay small, whatever is asked for and whatever the provider says of the user', async t => {
    provider.users.set('huge', { name: 'ü'.repeat(60_000), roles: Array.from({ length: 2000 }, (_, i) => `role-${i}`) })
    const browser = stage.browser()
    const returnUrl = `/${'a'.repeat(2040)}`
    const end = await login(browser, gateway.url, provider, { user: 'huge', returnUrl })
    t.equal(new URL(end.url).pathname, returnUrl)
    const own = browser.jar.seen.filter(({ name }) => name.startsWith('__Host-'))
    t.ok(own.length >= 3)
    for (const { name, value } of own) t.ok(name.length + value.length <= 128, `${name} is ${value.length} long`)
    t.equal((await browser.api('/bff/user')).status, 200)
  })

  // A shared cache or the back button shows one user's answer to the next (OWASP ASVS 14.3.2).
  t.test('come with answers that are not stored, and with no others', async t => {
    const stranger = stage.browser()
    for (const path of ['/', '/api/items', '/api/', '/bff/user', '/bff/nothing', '/nothing.js', '/bff/login/failed']) {
      for (const answer of [await stranger.api(path), await stranger.navigate(path), await stranger.get(path)]) {
        t.strictSame(answer.rawSetCookie, [], `${path} sets no cookie`)
        t.notMatch(answer.headers['cache-control'], /public|max-age=[1-9]/)
      }
    }
    const dead = { cookies: [`${sessionCookie}=${'A'.repeat(43)}`] }
    for (const path of ['/api/items', '/bff/user']) {
      const answer = await stranger.api(path, dead)
      t.equal(answer.status, 401)
      t.equal(answer.headers.location, undefined)
      t.equal(answer.headers['cache-control'], 'no-store')
      t.strictSame(answer.rawSetCookie, [], 'a 401 must not delete what a login in another tab just set')
    }
    const user = await (await stage.loggedIn('carol')).api('/bff/user')
    t.equal(user.headers['cache-control'], 'no-store')
    t.strictSame(user.rawSetCookie, [])
  })
})

test('a session cookie', async t => {
  const stage = await startStage(t)
  const { gateway, provider, upstream, redis } = stage
  const alice = await stage.loggedIn('alice')
  const bob = await stage.loggedIn('bob')
  const good = cookieOf(alice)
  const stranger = stage.browser()
  /** Status and user, as a script gets them with these Cookie lines. */
  const who = async (...cookies: string[]) => {
    const answer = await stranger.api('/bff/user', { cookies })
    return answer.status === 200 ? answer.json<{ user: { sub: string } }>().user.sub : answer.status
  }

  // A session id in an address or a header of its own leaks into logs and Referers (OWASP ASVS 14.2.1).
  t.test('counts only as a cookie, not in an address, a body or another header', async t => {
    upstream.requests.length = 0
    const places: [string, Record<string, string>][] = [
      [`?${sessionCookie}=${good}`, {}],
      [`?session=${good}&sid=${good}&token=${good}`, {}],
      ['', { 'X-Session-Id': good }],
      ['', { Authorization: `Bearer ${good}` }],
      ['', { Authorization: `Basic ${Buffer.from(`x:${good}`).toString('base64')}` }],
      ['', { Cookie2: `${sessionCookie}=${good}` }],
      ['', { 'X-Forwarded-Cookie': `${sessionCookie}=${good}` }],
      ['', { [sessionCookie]: good }],
    ]
    for (const [suffix, headers] of places) {
      for (const path of ['/bff/user', '/api/items']) {
        const answer = await stranger.api(path + suffix, { headers })
        t.ok(
          [401, 404].includes(answer.status),
          `${path}${suffix.slice(0, 12)} ${Object.keys(headers)}: ${answer.status}`,
        )
      }
    }
    for (const body of [{ [sessionCookie]: good }, new URLSearchParams({ [sessionCookie]: good })]) {
      t.equal((await stranger.api('/api/items', { method: 'POST', body })).status, 401)
    }
    t.strictSame(upstream.requests, [])
    t.equal(await who(`${sessionCookie}=${good}`), 'alice')
  })

  // Whoever reads Redis, or a backup of it, tries what stands there as a cookie.
  t.test('cannot be had from Redis, neither from keys nor from values', async t => {
    const keys = await redis.keys()
    const dump = (await redis.dump()).toString('latin1')
    t.notOk(dump.includes(good))
    t.notOk(dump.includes(Buffer.from(good, 'base64url').toString('latin1')))
    const found = [...new Set(dump.match(/[\w-]{43}/g))]
    t.ok(found.length > 0, 'the ids in Redis have the form of a cookie')
    for (const value of [...found, ...keys]) t.equal(await who(`${sessionCookie}=${value}`), 401)
  })

  // A server that trims or folds names takes `\\xa0__Host-x`, which a neighbour may set, for `__Host-x` (RFC 6265bis §5.7).
  t.test('is known by its exact name alone', async t => {
    const names = [
      sessionCookie.toLowerCase(),
      sessionCookie.toUpperCase(),
      sessionCookie.replace('__Host-', ''),
      sessionCookie.replace('__Host-', '__Secure-'),
      `${sessionCookie} `,
      `${sessionCookie}\t`,
      `"${sessionCookie}"`,
      `x${sessionCookie}`,
      `${sessionCookie}x`,
      `\xa0${sessionCookie}`,
      `\x85${sessionCookie}`,
      `\xe2\x80\x80${sessionCookie}`,
      `\xef\xbb\xbf${sessionCookie}`,
      encodeURIComponent(`${sessionCookie}=`).slice(0, -3).replace('_', '%5F'),
      `$Version=1, ${sessionCookie}`,
      `=${sessionCookie}`,
    ]
    for (const name of names) {
      t.equal(await who(`${name}=${good}`), 401, JSON.stringify(name))
      t.equal(await who(`a=b; ${name}=${good}; c=d`), 401, `${JSON.stringify(name)} among others`)
      t.equal(await who(`${name}=${cookieOf(bob)}; ${sessionCookie}=${good}`), 'alice', 'and does not stand in the way')
    }
    t.equal(await who(`a=b; \t${sessionCookie}=${good}`), 401, 'a tab is not the blank between two cookies')
  })

  // A second cookie of the name is tossed in; which one counts must not depend on order or parser (RFC 6265bis §8.6).
  t.test('that comes twice counts as none, in whatever order and on however many lines', async t => {
    const [a, b] = [`${sessionCookie}=${good}`, `${sessionCookie}=${cookieOf(bob)}`]
    const bad = `${sessionCookie}=${'A'.repeat(43)}`
    for (const [first, second] of [
      [a, b],
      [b, a],
      [a, bad],
      [bad, a],
      [a, a],
      [a, `${sessionCookie}=`],
      [`${sessionCookie}=`, a],
    ]) {
      t.equal(await who(`${first}; ${second}`), 401)
      t.equal(await who(`${first};${second}`), 401)
      t.equal(await who(`x=1; ${first}; y=2; ${second}; z=3`), 401)
      t.equal(await who(first ?? '', second ?? ''), 401, 'on two lines')
    }
    t.equal(await who('x=1', a, 'y=2'), 'alice', 'several lines of different cookies are one header')
  })

  // A flood of nonsense must cost neither Redis nor the regular expressions a thing.
  t.test('that cannot be one is refused without a Redis command', async t => {
    const nonsense = [
      '',
      good.slice(1),
      `${good}A`,
      `${good} ; x=y`,
      `"${good}"`,
      `${good},x`,
      '%00',
      `${good}%00`,
      `%${good.slice(1)}`,
      '*',
      '{}',
      '[]',
      '{b000}:session:*',
      '%0d%0aX: y',
      '\xfc'.repeat(43),
      '__proto__',
      'constructor',
      'null',
      `${good.slice(0, 42)}=`,
      `${good.slice(0, 42)}+`,
      `${good.slice(0, 42)}.`,
      `j:${good}`,
      `s:${good}.sig`,
      'a'.repeat(8192),
    ]
    const monitor = await redis.monitor()
    for (const value of nonsense) {
      for (const path of ['/bff/user', '/api/items']) {
        const answer = await stranger.api(path, { cookies: [`${sessionCookie}=${value}`] })
        t.equal(answer.status, 401, JSON.stringify(value.slice(0, 50)))
        t.equal(answer.json().code, 'not_authenticated')
      }
    }
    t.strictSame(monitor.commands, [], 'Redis was not asked')
    await stranger.api('/bff/user', { cookies: [`${sessionCookie}=${randomToken()}`] })
    t.not(monitor.commands.length, 0, 'for a cookie of the right form it is')
    monitor.stop()
    for (const value of ['\0', '\r\nX: y', '\x7f']) {
      const bytes = `GET /bff/user HTTP/1.1\r\nHost: x\r\nX-CSRF: 1\r\nCookie: ${sessionCookie}=${value}${good}\r\nConnection: close\r\n\r\n`
      t.match(await rawRequest(gateway.port, bytes), /^HTTP\/1\.1 40[01] /, JSON.stringify(value))
    }
  })

  // Every way of writing a Cookie header: only the one cookie, once, by name and value, is the session.
  t.test('is found in a header of any shape if and only if it is there once and whole', async t => {
    const names: Record<string, string> = {
      exact: sessionCookie,
      'in other case': sessionCookie.toLowerCase(),
      prefixed: `x${sessionCookie}`,
    }
    const values: Record<string, string> = {
      valid: good,
      truncated: good.slice(0, -1),
      'one longer': `${good}A`,
      '8 KB': 'a'.repeat(8192),
      'with %00': `${good}%00`,
      quoted: `"${good}"`,
      'with a semicolon': `${good.slice(0, 20)};${good.slice(20)}`,
      'with a comma': `${good},`,
      'not ASCII': `\xe9${good.slice(1)}`,
      __proto__: '__proto__',
      'of nobody': 'A'.repeat(43),
    }
    const others = Array.from({ length: 199 }, (_, index) => `c${index}=${index}`)
    for (const [nameKind, name] of Object.entries(names)) {
      for (const [valueKind, value] of Object.entries(values)) {
        const cookie = `${name}=${value}`
        const expected = nameKind === 'exact' && valueKind === 'valid' ? 'alice' : 401
        const label = `${nameKind}, ${valueKind}`
        t.equal(await who(cookie), expected, label)
        t.equal(await who(`first=1; ${cookie}`), expected, `${label}, the second of two`)
        t.equal(await who([...others, cookie].join('; ')), expected, `${label}, the last of 200`)
        t.equal(await who([cookie, ...others].join('; ')), expected, `${label}, the first of 200`)
        t.equal(await who(cookie, 'second=2'), expected, `${label}, on the first of two lines`)
        t.equal(await who('first=1', cookie), expected, `${label}, on the second of two lines`)
        const doubled = nameKind === 'exact' ? 401 : 'alice'
        t.equal(await who(`${cookie}; ${sessionCookie}=${good}`), doubled, `${label}, before the good one`)
        t.equal(await who(`${sessionCookie}=${good}; ${cookie}`), doubled, `${label}, after the good one`)
      }
    }
  })

  // A proxy that forgot to redirect: cookies and data would go over the wire in the clear (OWASP ASVS 12.2.1).
  t.test('is neither taken nor given over plain http when the application is on https', async t => {
    const secure = await startGateway({
      provider,
      clock: stage.clock,
      upstreams: { '/api': upstream.url },
      env: { PUBLIC_URL: 'https://app.example.test', REDIS_URL: redis.url },
    })
    t.teardown(() => secure.close())
    await linked(secure)
    const over = (proto: string) => ({
      headers: { 'X-CSRF': '1', 'X-Forwarded-Proto': proto },
      cookies: [`${sessionCookie}=${good}`],
    })
    for (const path of ['/api/items', '/bff/user', '/bff/login', '/bff/callback', '/bff/logout', '/']) {
      const answer = await stranger.get(`${secure.url}${path}`, over('http'))
      t.equal(answer.status, 400, path)
      t.equal(answer.headers.location, undefined, 'no redirect: the cookie went over the wire already')
      t.strictSame(answer.rawSetCookie, [])
    }
    const begun = await stranger.get(`${secure.url}/bff/login`, over('https'))
    t.equal(begun.status, 302)
    const { searchParams } = new URL(begun.headers.location ?? '')
    t.equal(searchParams.get('redirect_uri'), 'https://app.example.test/bff/callback')
  })

  // A neighbour under the same domain sets cookies for all of it (RFC 6265bis §8.6).
  t.test('that a neighbour set for the whole domain, in a real browser, changes nothing', async t => {
    const port = await freePort()
    const home = `http://gw.app.localhost:${port}`
    const spa = t.testdir({ 'index.html': '<!doctype html><title>SPA</title><link rel="icon" href="data:,">' })
    const shop = await startGateway({
      provider,
      clock: stage.clock,
      env: { PUBLIC_URL: home, PORT: String(port), HOST: '127.0.0.1', REDIS_URL: redis.url, SPA_DIR: spa },
    })
    const planted = [
      `${sessionCookie}=${good}; Domain=app.localhost; Path=/; Secure`,
      `${sessionCookie}=${good}; Domain=app.localhost; Path=/bff; Secure`,
      `=${sessionCookie}=${good}; Domain=app.localhost; Path=/`,
      `${sessionCookie.toUpperCase()}=${good}; Domain=app.localhost; Path=/; Secure`,
      `${sessionCookie.slice('__Host-'.length)}=${good}; Domain=app.localhost; Path=/`,
      `\xa0${sessionCookie}=${good}; Domain=app.localhost; Path=/`,
      `\xc2\xa0${sessionCookie}=${good}; Domain=app.localhost; Path=/`,
      `x${bindingPrefix}aaaaaaaaaaaa=${good}; Domain=app.localhost; Path=/`,
    ]
    const neighbour = createServer((_request, response) => {
      response.setHeader('set-cookie', planted).setHeader('content-type', 'text/html').end('<!doctype html>planted')
    }).listen(0, '127.0.0.1')
    const chromium = await launchChromium()
    t.teardown(async () => {
      await chromium.close()
      neighbour.close()
      await shop.close()
    })
    const page = await chromium.newPage()
    const fetchUser = `fetch('/bff/user', { headers: { 'X-CSRF': '1' } }).then(async answer =>
      answer.status + ' ' + (await answer.json()).user?.sub)`
    const plant = async () => {
      await page.goto(`http://evil.app.localhost:${(neighbour.address() as AddressInfo).port}/`)
      await page.goto(`${home}/welcome`)
    }
    await plant()
    const sent = await page.context().cookies(home)
    t.ok(sent.length > 0, 'some of them are sent to the gateway')
    t.equal(await page.evaluate(fetchUser), '401 undefined', "nobody is in the attacker's session")
    await page.goto(`${home}/bff/login?returnUrl=/welcome`)
    await page.fill('input[name=login]', 'dora')
    await page.click('button')
    await page.waitForURL(`${home}/welcome`)
    t.equal(await page.evaluate(fetchUser), '200 dora', 'the login went through')
    await plant()
    t.equal(await page.evaluate(fetchUser), '200 dora', 'the session is the same afterwards')
  })
})

// The browser's copy lives on: an edited expiry or a saved cookie must not outlive the session (OWASP ASVS 7.4.1).
test('a session cookie that a browser keeps past the deadline is worth nothing', async t => {
  const stage = await startStage(t, { memory: true })
  const visit = async (stage: Stage) => {
    const browser = await stage.loggedIn('alice')
    browser.jar.set(sessionCookie, cookieOf(browser), { secure: true, maxAge: 30 * 86_400 })
    return browser
  }

  await t.test('after half an hour without a request', async t => {
    const browser = await visit(stage)
    stage.clock.advance(1_799_000)
    t.equal((await browser.api('/bff/user')).status, 200)
    stage.clock.advance(1_800_000)
    const answer = await browser.api('/bff/user')
    t.equal(answer.status, 401)
    t.equal(answer.json().code, 'session_expired')
    t.strictSame(answer.rawSetCookie, [], 'a script is told, its cookie is left alone')
    t.equal((await browser.api('/bff/user')).status, 401)
  })

  await t.test('after twelve hours, however busy', async t => {
    const browser = await visit(stage)
    for (let quarter = 0; quarter < 47; quarter += 1) {
      stage.clock.advance(15 * 60_000)
      t.equal((await browser.api('/bff/user')).status, 200)
    }
    stage.clock.advance(15 * 60_000)
    t.equal((await browser.api('/bff/user')).status, 401)
    const end = await throughProvider(browser, await browser.navigate('/bff/login'), stage.provider)
    t.equal(sessionCookiesSet(...end.chain).length, 1, 'a login opens a new one')
  })
})
