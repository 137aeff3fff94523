import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Test, test } from 'tap'
import { parseSetCookie, type TestBrowser } from '../support/browser.ts'
import { launchChromium } from '../support/chromium.ts'
import { eventually } from '../support/eventually.ts'
import { formOf } from '../support/page-form.ts'
import { linked, sessionCookie, sessionCookiesSet, startStage, throughProvider } from '../support/stage.ts'

const spa = { 'index.html': '<!doctype html><title>SPA</title><link rel="icon" href="data:,">' }

const logoutUrlOf = async (browser: TestBrowser) =>
  (await browser.api('/bff/user')).json<{ session: { logoutUrl: string } }>().session.logoutUrl

test('a logout', async t => {
  const stage = await startStage(t, { env: { POST_LOGOUT_PATH: '/goodbye', SPA_DIR: t.testdir(spa) } })
  const { gateway, provider, redis } = stage
  const cookieOf = (browser: TestBrowser) => browser.jar.get(sessionCookie) ?? ''
  const statusWith = async (cookie: string) =>
    (await stage.browser().api('/bff/user', { cookies: [`${sessionCookie}=${cookie}`] })).status
  const isAlive = async (t: Test, browser: TestBrowser, label = 'the session is alive') =>
    t.equal((await browser.api('/bff/user')).status, 200, label)
  const endsAtProvider = (location = '') => {
    const { origin, pathname, searchParams } = new URL(location, gateway.url)
    return { at: origin + pathname, back: searchParams.get('post_logout_redirect_uri') }
  }
  const provided = { at: `${provider.issuer}/session/end`, back: `${gateway.url}/goodbye` }
  const clears = (t: Test, lines: string[]) =>
    t.match(lines.map(parseSetCookie), [
      { name: sessionCookie, value: '', maxAge: 0, path: '/', secure: true, httpOnly: true, sameSite: 'strict' },
    ])

  t.test('by a link with the right token ends the session here, revokes, and goes on to the provider', async t => {
    const browser = await stage.loggedIn('alice')
    const elsewhere = await stage.loggedIn('alice')
    const cookie = cookieOf(browser)
    const refreshToken = [...provider.issued.refreshTokens].at(-2)
    const isRevoked = () => provider.revocations().some(({ form }) => form.get('token') === refreshToken)
    const end = await browser.navigate(await logoutUrlOf(browser), { from: gateway.url })
    const [answer] = end.chain
    t.equal(answer?.status, 302)
    t.strictSame(endsAtProvider(answer?.headers.location), provided)
    t.equal(answer?.text, '')
    clears(t, answer?.rawSetCookie ?? [])
    t.equal(await statusWith(cookie), 401, 'a copy of the cookie is worth nothing')
    t.ok(refreshToken && (await eventually(isRevoked)), 'its refresh token is revoked')
    t.match(gateway.events('session_ended').at(-1), { reason: 'logout' })
    const back = await throughProvider(browser, end, provider)
    t.equal(back.url, `${gateway.url}/goodbye`)
    await isAlive(t, elsewhere, "the user's session in another browser goes on")
  })

  // An image or a link elsewhere signs the user out; it cannot know the token (OWASP ASVS 3.5.3).
  t.test('by a link without the right token only asks', async t => {
    const browser = await stage.loggedIn('bob')
    const other = await stage.loggedIn('carol')
    const foreign = (await logoutUrlOf(other)).split('token=')[1] ?? ''
    const own = (await logoutUrlOf(browser)).split('token=')[1] ?? ''
    const cookie = cookieOf(browser)
    const queries = [
      '',
      '?token=',
      `?token=${foreign}`,
      `?token=${own.slice(0, -1)}`,
      `?token=${own}A`,
      `?token=${own.toLowerCase()}`,
      `?token=${'A'.repeat(43)}`,
      `?token=${'ü'.repeat(43)}`,
      `?token=${cookie}`,
      `?token[]=${own}`,
      `?Token=${own}`,
      `?token=x&token=${own}`,
    ]
    for (const query of queries) {
      const page = await browser.navigate(`/bff/logout${query}`)
      t.equal(page.status, 200, query)
      t.equal(page.chain.length, 1)
      t.match(page.headers['content-type'], /^text\/html/)
      t.match(page.headers['content-security-policy'], /frame-ancestors 'none'/, 'it fits in no frame to click in')
      t.notMatch(page.text, /<script|http-equiv="refresh"/, 'nothing goes on by itself')
      t.strictSame(page.rawSetCookie, [])
      await isAlive(t, browser)
    }
    await isAlive(t, other, 'nor has the owner of the other token been logged out')

    const page = await browser.navigate('/bff/logout')
    t.equal(formOf(page.text)?.method, 'GET')
    const left = await browser.submit(page)
    t.strictSame(endsAtProvider(left.chain[0]?.headers.location), provided, 'a click on the button is a logout')
    clears(t, left.chain[0]?.rawSetCookie ?? [])
    t.equal(await statusWith(cookie), 401)
  })

  // The token leaks with the page before it: it must serve one session, once.
  t.test('has a token of its own for each session, which is no other secret', async t => {
    const [one, two] = [await stage.loggedIn('dora'), await stage.loggedIn('dora')]
    const tokens = await Promise.all([one, two].map(logoutUrlOf))
    t.not(tokens[0], tokens[1])
    for (const token of tokens) t.match(token, /^\/bff\/logout\?token=[\w-]{43}$/)
    t.equal(await statusWith(tokens[0]?.split('=')[1] ?? ''), 401, 'it is no cookie')
  })

  // A link elsewhere: the Strict cookie is not with the request, and the answer must not delete it (RFC 6265bis §5.7).
  t.test('by a link on another site leaves the session and its cookie alone', async t => {
    const browser = await stage.loggedIn('erin')
    const answer = await browser.navigate('/bff/logout', { from: stage.evil.url, stopBefore: () => true })
    t.equal(answer.status, 302)
    t.equal(answer.headers.location, '/goodbye')
    t.strictSame(answer.rawSetCookie, [])
    await isAlive(t, browser)
  })

  t.test('without a session goes to the page after logout, and clears only what is there to clear', async t => {
    const stranger = stage.browser()
    const none = await stranger.navigate('/bff/logout?token=x', { stopBefore: () => true })
    t.equal(none.status, 302)
    t.equal(none.headers.location, '/goodbye')
    t.strictSame(none.rawSetCookie, [])
    stranger.jar.set(sessionCookie, 'A'.repeat(43), { secure: true })
    const dead = await stranger.navigate('/bff/logout', { stopBefore: () => true })
    t.equal(dead.headers.location, '/goodbye')
    clears(t, dead.rawSetCookie)

    for (const cookies of [[], [`${sessionCookie}=${'A'.repeat(43)}`]]) {
      const answer = await stranger.api('/bff/logout', { method: 'POST', cookies })
      t.equal(answer.status, 200, 'a second logout is no error')
      t.strictSame(answer.json(), { logoutUrl: '/goodbye' })
    }
  })

  t.test('by a script ends the session, and gives an address that goes on to the provider once', async t => {
    const browser = await stage.loggedIn('frank')
    const cookie = cookieOf(browser)
    const revocations = provider.revocations().length
    const answer = await browser.api('/bff/logout', { method: 'POST' })
    t.equal(answer.status, 200)
    t.match(answer.headers['content-type'], /^application\/json/)
    clears(t, answer.rawSetCookie)
    const { logoutUrl } = answer.json<{ logoutUrl: string }>()
    t.strictSame(Object.keys(answer.json()), ['logoutUrl'])
    t.match(logoutUrl, /^\/bff\/logout\/continue\?handle=[\w-]{43}$/, 'an address of this site')
    t.equal(await statusWith(cookie), 401)
    t.ok(await eventually(() => provider.revocations().length > revocations))

    const first = await browser.navigate(logoutUrl, { from: gateway.url, stopBefore: () => true })
    t.equal(first.status, 302)
    t.strictSame(endsAtProvider(first.headers.location), provided)
    t.equal(first.headers['referrer-policy'], 'no-referrer')
    const second = await browser.navigate(logoutUrl, { from: gateway.url, stopBefore: () => true })
    t.equal(second.headers.location, '/goodbye', 'the second time it only leads home')
  })

  // Two clicks, or somebody who found the address in a log: it must be good for one.
  t.test('continues once, even when the address is opened twenty times at once', async t => {
    const browser = await stage.loggedIn('grace')
    const answer = await browser.api('/bff/logout', { method: 'POST' })
    const keys = (await redis.keys()).filter(key => key.includes(':logout:'))
    const [life] = await Promise.all(keys.map(key => redis.client.pttl(key)))
    t.ok(life !== undefined && life > 290_000 && life <= 300_000, 'it is good for five minutes')
    const { logoutUrl } = answer.json<{ logoutUrl: string }>()
    const opened = await Promise.all(Array.from({ length: 20 }, () => browser.get(logoutUrl)))
    const places = opened.map(({ headers }) => headers.location)
    t.equal(places.filter(place => place?.startsWith(provider.issuer)).length, 1)
    t.equal(places.filter(place => place === '/goodbye').length, 19)
    t.strictSame(
      (await redis.keys()).filter(key => key.includes(':logout:')),
      [],
    )
  })

  // A link to the gateway that leads elsewhere lends the attacker its good name (RFC 9700 §4.11.1).
  t.test('leads nowhere but to the provider or the configured page', async t => {
    const { url } = stage.evil
    const handles = ['', 'A'.repeat(43), url, '//evil.test', '*', '../x', 'a'.repeat(8000), '%00']
    for (const handle of handles) {
      const answer = await stage.browser().get(`/bff/logout/continue?handle=${encodeURIComponent(handle)}`)
      t.equal(answer.status, 302)
      t.equal(answer.headers.location, '/goodbye')
    }
    const names = [
      'returnUrl',
      'post_logout_redirect_uri',
      'redirect_uri',
      'next',
      'state',
      'client_id',
      'id_token_hint',
    ]
    const hostile = new URLSearchParams(names.map(name => `${name}=${encodeURIComponent(url)}`).join('&'))
    t.equal((await stage.browser().get(`/bff/logout?${hostile}`)).headers.location, '/goodbye')
    const browser = await stage.loggedIn('heidi')
    const target = `${await logoutUrlOf(browser)}&${hostile}`
    const left = await browser.navigate(target, { stopBefore: () => true })
    t.strictSame(endsAtProvider(left.headers.location), provided)
    t.notMatch(left.headers.location, new RegExp(`:${stage.evil.port}`))
  })

  // Other methods, and pages that load the address in a frame or ahead of time (OWASP ASVS 7.6.2).
  t.test('is a GET with a token or a POST with the header, and nothing else', async t => {
    const browser = await stage.loggedIn('ivan')
    const target = await logoutUrlOf(browser)
    for (const method of ['HEAD', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
      const answer = await browser.api(target, { method })
      t.equal(answer.status, 405, method)
      t.equal(answer.headers.allow, 'GET, POST')
    }
    for (const headers of [{}, { 'X-CSRF': '0' }, { 'X-CSRF': '1', Origin: 'http://evil.test' }])
      t.equal((await browser.post(target, { headers })).status, 403, 'the token does not stand in for the header')
    const { logoutUrl } = (await (await stage.loggedIn('judy')).api('/bff/logout', { method: 'POST' })).json<{
      logoutUrl: string
    }>()
    const frame = { 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'iframe', 'Sec-Fetch-Site': 'cross-site' }
    t.equal((await browser.get(logoutUrl, { headers: frame })).status, 403)
    const after = await browser.navigate(logoutUrl, { stopBefore: () => true })
    t.strictSame(endsAtProvider(after.headers.location), provided, 'the frame did not use it up')
    await isAlive(t, browser)
  })

  // The provider is slow or down: the session here ends all the same, and the user does not wait.
  t.test('does not depend on the provider', async t => {
    const browsers = [await stage.loggedIn('kim'), await stage.loggedIn('leo')]
    const cookies = browsers.map(cookieOf)
    const [kim, leo] = browsers
    if (!kim || !leo) throw new Error('two browsers')
    const target = await logoutUrlOf(kim)
    provider.respond('revocation', 'hang', { times: 1 })
    provider.respond('revocation', { status: 503 }, { times: 1 })
    const started = performance.now()
    t.equal((await kim.navigate(target, { stopBefore: () => true })).status, 302)
    t.equal((await leo.api('/bff/logout', { method: 'POST' })).status, 200)
    const tookMs = performance.now() - started
    t.comment(`two logouts took ${tookMs.toFixed(0)} ms`)
    t.ok(tookMs < 5000, 'nobody waits for the provider')
    for (const cookie of cookies) t.equal(await statusWith(cookie), 401)
    t.ok(await eventually(() => gateway.events('revocation').some(({ outcome }) => outcome === 'pending')))
    provider.reset()
  })

  // CSP `form-action` holds in Chromium for redirects after the form too: the user would be left on the page.
  t.test('by the button of the page that asks gets through to the provider and back in a real browser', async t => {
    const chromium = await launchChromium()
    const elsewhere = createServer((_request, response) => {
      response.setHeader('content-type', 'text/html').end(`<!doctype html><a href="${gateway.url}/bff/logout">win</a>`)
    }).listen(0, '127.0.0.1')
    t.teardown(async () => {
      await chromium.close()
      elsewhere.close()
    })
    const page = await chromium.newPage()
    const hasCookie = async () => (await page.context().cookies()).some(({ name }) => name === sessionCookie)
    const login = async () => {
      await page.goto(`${gateway.url}/bff/login?returnUrl=/welcome`)
      if (page.url().startsWith(provider.issuer)) {
        await page.fill('input[name=login]', 'mia')
        await page.click('button')
      }
      await page.waitForURL(`${gateway.url}/welcome`)
    }
    await login()
    t.ok(await hasCookie())

    await page.goto(`http://127.0.0.1:${(elsewhere.address() as AddressInfo).port}/`)
    await page.click('a')
    await page.waitForURL(`${gateway.url}/**`)
    t.ok(await hasCookie(), 'a link on another site takes no cookie away')

    await page.goto(`${gateway.url}/bff/logout`)
    t.equal(page.url(), `${gateway.url}/bff/logout`, 'the page asks')
    await page.click('button')
    await page.waitForURL(`${gateway.url}/goodbye`)
    t.notOk(await hasCookie())
    t.ok(provider.of('logout').some(({ path }) => path.endsWith('/confirm')))
    await page.goto(`${gateway.url}/bff/login`)
    t.ok(page.url().startsWith(`${provider.issuer}/login`), 'the provider has forgotten her too')
  })
})

test('a logout without a store', async t => {
  const stage = await startStage(t, { redisDir: t.testdir() })
  const { gateway, provider, redis } = stage

  // "You are logged out" would be a lie: the session is still there for whoever comes next (OWASP ASVS 16.5.3).
  t.test('is a 503 that keeps cookie and session, and works when tried again', async t => {
    const [clicking, scripted] = [await stage.loggedIn('alice'), await stage.loggedIn('bob')]
    const target = await logoutUrlOf(clicking)
    const unused = (await (await stage.loggedIn('carol')).api('/bff/logout', { method: 'POST' })).json<{
      logoutUrl: string
    }>()
    t.ok(await eventually(() => gateway.events('revocation').length === 1))
    const revocations = provider.revocations().length
    await redis.down()
    const answers = [
      await clicking.navigate(target, { stopBefore: () => true }),
      await clicking.navigate('/bff/logout', { stopBefore: () => true }),
      await scripted.api('/bff/logout', { method: 'POST' }),
      await scripted.navigate(unused.logoutUrl, { stopBefore: () => true }),
    ]
    for (const answer of answers) {
      t.equal(answer.status, 503)
      t.match(answer.headers['retry-after'], /^\d+$/)
      t.strictSame(answer.rawSetCookie, [])
      t.equal(answer.headers.location, undefined)
    }
    t.equal(answers[2]?.json().code, 'store_unavailable')
    t.equal(provider.revocations().length, revocations)

    await redis.restart()
    await linked(gateway)
    t.equal((await clicking.api('/bff/user')).status, 200, 'the session is still there')
    t.equal((await clicking.navigate(target, { stopBefore: () => true })).status, 302)
    const out = await scripted.api('/bff/logout', { method: 'POST' })
    t.match(out.json<{ logoutUrl: string }>().logoutUrl, /continue/)
    t.strictSame(await stage.sessions(), [])
    const place = await scripted.navigate(unused.logoutUrl, { stopBefore: () => true })
    t.ok(place.headers.location?.startsWith(provider.issuer), 'the one-time address was not used up')
    t.strictSame(sessionCookiesSet(place), [])
  })
})
