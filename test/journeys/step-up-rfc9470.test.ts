import type { ServerResponse } from 'node:http'
import tap, { type Test, test } from 'tap'
import { sessionHandle, sessionIdOf } from '../../src/core/session.ts'
import { type BrowserResponse, createJar, type TestBrowser } from '../support/browser.ts'
import { launchChromium } from '../support/chromium.ts'
import { eventually } from '../support/eventually.ts'
import { login, throughProvider } from '../support/login.ts'
import { type Stage, sessionCookie, startStage } from '../support/stage.ts'
import type { UpstreamRequest } from '../support/upstream.ts'

const hour = 3600
const spa = { 'index.html': '<!doctype html><title>SPA</title><link rel="icon" href="data:,">' }
const options = { provider: { accessTokens: 'jwt' as const }, env: { SESSION_MAX_PER_USER: '1000' } }
const stage = await startStage(tap, { ...options, env: { ...options.env, SPA_DIR: tap.testdir(spa) } })
const { provider, gateway } = stage

const cookieOf = (browser: TestBrowser) => browser.jar.get(sessionCookie) ?? ''
const loginUrlOf = (answer: BrowserResponse) => answer.json<{ loginUrl: string }>().loginUrl
const refreshes = () => provider.tokenCalls('refresh_token')
const asked = (at: Stage = stage) =>
  at.provider
    .of('authorization')
    .filter(({ query }) => query.has('state'))
    .at(-1)?.query
const alive = async (browser: TestBrowser) => (await browser.api('/bff/user?slide=false')).status === 200

async function loggedIn(at: Stage = stage, user = 'alice'): Promise<TestBrowser> {
  const browser = at.browser(createJar())
  await login(browser, at.gateway.url, at.provider, { user, returnUrl: '/welcome' })
  if (cookieOf(browser) === '') throw new Error(`${user} could not log in`)
  return browser
}

/** The upstream demands this of all requests but those for which something holds. */
function demands(parameters: string, unless: (request: UpstreamRequest) => boolean, at: Stage = stage): void {
  at.upstream.respond = (request, res: ServerResponse) => {
    if (unless(request)) return void res.end('{}')
    const challenge = `Bearer error="insufficient_user_authentication", error_description="more, please", ${parameters}`
    res.writeHead(401, { 'www-authenticate': challenge })
    res.end('{}')
  }
}

/** Requests with another token than that of this moment. */
function withAnotherToken(at: Stage = stage): (request: UpstreamRequest) => boolean {
  const old = new Set(at.provider.issued.accessTokens)
  return ({ headers }) => !old.has(headers.authorization?.replace('Bearer ', '') ?? '')
}

function asksForMore(t: Test, answer: BrowserResponse): string {
  t.match([answer.status, answer.json()], [401, { code: 'step_up_required' }])
  t.equal(answer.headers['www-authenticate'], undefined)
  t.notMatch(answer.text, /urn:gold|insufficient|max_age/)
  return loginUrlOf(answer)
}

const steppedUp = async (browser: TestBrowser, url: string, at: Stage = stage, user = 'alice') =>
  throughProvider(browser, await browser.navigate(`${url}&returnUrl=/welcome`), at.provider, user)

const honestly = provider.authenticate
tap.beforeEach(() => {
  provider.reset()
  provider.clear()
  provider.authenticate = honestly
  stage.clock.advance(61_000)
})

test('a demand for a stronger login is met by one, and by no refresh', async t => {
  const browser = await loggedIn()
  const old = cookieOf(browser)
  t.notOk(asked()?.has('claims'), 'such providers hear nothing of claims challenges')
  demands('acr_values="urn:gold urn:silver"', withAnotherToken())
  const url = asksForMore(t, await browser.api('/api/items'))
  t.equal(refreshes().length, 0)
  t.equal((await steppedUp(browser, url)).url, `${gateway.url}/welcome`)
  t.equal(asked()?.get('acr_values'), 'urn:gold urn:silver')
  t.equal(asked()?.get('login_hint'), provider.users.get('alice').preferred_username)
  t.notOk(asked()?.has('max_age'))
  t.not(cookieOf(browser), old)
  t.equal((await browser.api('/api/items')).status, 200)
  const before = await stage.browser().api('/bff/user', { cookies: [`${sessionCookie}=${old}`] })
  t.match(before.json(), { code: 'session_revoked', reason: 'replaced' })

  demands('acr_values="urn:gold"', () => false)
  const post = await browser.api('/api/items', { method: 'POST', body: {} })
  asksForMore(t, post)
})

test('a demand for a fresh login sends the user through one', async t => {
  const browser = await loggedIn()
  demands('max_age="0"', withAnotherToken())
  const url = asksForMore(t, await browser.api('/api/items'))
  const end = await steppedUp(browser, url)
  t.equal(asked()?.get('max_age'), '0')
  t.ok(
    end.chain.some(({ text }) => text.includes('login-form')),
    'the provider showed its form',
  )
  t.equal((await browser.api('/api/items')).status, 200)
})

// A provider may ignore what it was asked (OpenID Connect Core §3.1.2.1): the gateway would vouch for a login that never was.
test('a login that is not as strong as was asked for changes nothing', async t => {
  const cases: Record<string, [parameters: string, weaken: () => void]> = {
    'another acr': [
      'acr_values="urn:gold"',
      () => (provider.authenticate = () => ({ acr: 'urn:bronze', amr: ['pwd'] })),
    ],
    'no acr': ['acr_values="urn:gold"', () => without('acr')],
    'no auth_time': ['max_age="60"', () => without('auth_time')],
    'an old auth_time': ['max_age="60"', () => aged(91)],
  }
  const without = (name: string) => {
    provider.tamper.idToken = ({ header, payload, sign }) => sign(header, { ...payload, [name]: undefined })
  }
  const aged = (seconds: number) => {
    provider.tamper.idToken = ({ header, payload, sign }) =>
      sign(header, { ...payload, auth_time: Math.floor(stage.clock.now() / 1000) - seconds })
  }
  for (const [name, [parameters, weaken]] of Object.entries(cases)) {
    const browser = await loggedIn()
    const old = cookieOf(browser)
    demands(parameters, withAnotherToken())
    const url = asksForMore(t, await browser.api('/api/items'))
    weaken()
    provider.clear()
    const known = new Set(provider.issued.refreshTokens)
    const page = await steppedUp(browser, url)
    t.equal(page.status, 400, name)
    t.match(page.text, 'not as strong as was asked for', name)
    t.notMatch(page.text, 'http-equiv', `${name}: a page that stays`)
    t.same([cookieOf(browser), await alive(browser)], [old, true], `${name}: the old session is as it was`)
    asksForMore(t, await browser.api('/api/items'))
    const [fresh] = [...provider.issued.refreshTokens].filter(token => !known.has(token))
    const outboxes = (await stage.redis.keys()).filter(key => key.endsWith(':outbox'))
    const waiting = await Promise.all(
      outboxes.map(key => stage.redis.client.zcount(key, Date.now() + 3600_000, '+inf')),
    )
    t.ok(
      waiting.some(count => count > 0),
      `${name}: its refresh token waits to be revoked`,
    )
    t.notOk(
      provider.revocations().some(({ form }) => form.get('token') === fresh),
      `${name}: until it cannot take the old session's along`,
    )
    t.match(gateway.events('login_rejected').at(-1), { reason: 'too_weak' })
    provider.reset()
    provider.authenticate = honestly
  }
  t.equal((await stage.sessions()).length > 0, true)
})

test('somebody else cannot do it', async t => {
  const browser = await loggedIn()
  const old = cookieOf(browser)
  demands('max_age="0"', withAnotherToken())
  const url = asksForMore(t, await browser.api('/api/items'))
  const page = await steppedUp(browser, url, stage, 'mallory')
  t.match([page.status, page.text], [400, 'Somebody else signed in'])
  t.same([cookieOf(browser), await alive(browser)], [old, true])
  const mallorys = [...provider.issued.refreshTokens].at(-1)
  t.ok(await eventually(() => provider.revocations().some(({ form }) => form.get('token') === mallorys)))
})

// The provider's own session may answer for the user: an API that asks for more would keep a session alive for ever.
test('a step-up that nobody had to sign in for leaves the end of the session where it was', async t => {
  const at = await startStage(t, { ...options, memory: true, env: { SESSION_IDLE_TIMEOUT: '12h' } })
  const left = async (browser: TestBrowser) =>
    (await browser.api('/bff/user')).json<{ session: { absoluteExpiresIn: number } }>().session.absoluteExpiresIn
  at.provider.authenticate = () => ({ acr: 'urn:gold', amr: ['pwd'] })
  const browser = await loggedIn(at)
  at.clock.advance(2 * hour * 1000)
  t.equal((await browser.api('/api/items')).status, 200, 'with a token that is fresh')
  demands('acr_values="urn:gold"', withAnotherToken(at), at)
  const silent = await steppedUp(browser, asksForMore(t, await browser.api('/api/items')), at)
  t.notOk(
    silent.chain.some(({ text }) => text.includes('login-form')),
    'nobody was asked',
  )
  const atFirst = await left(browser)
  t.ok(atFirst <= 10 * hour && atFirst > 10 * hour - 60, `${atFirst} s`)
  t.equal((await browser.api('/api/items')).status, 200)

  at.clock.advance(hour * 1000)
  t.equal((await browser.api('/api/items')).status, 200)
  // The provider tells times in whole seconds of the machine's clock.
  await new Promise(resolve => setTimeout(resolve, 1100))
  demands('max_age="0"', withAnotherToken(at), at)
  await steppedUp(browser, asksForMore(t, await browser.api('/api/items')), at)
  t.ok((await left(browser)) > 12 * hour - 60, 'who signs in anew has the whole time again')
})

test('a session that took over a deadline ends by it, in Redis too', async t => {
  const at = await startStage(t, { ...options, env: { SESSION_ABSOLUTE_TIMEOUT: '8s', SESSION_IDLE_TIMEOUT: '8s' } })
  at.provider.authenticate = () => ({ acr: 'urn:gold', amr: ['pwd'] })
  const started = Date.now()
  const browser = await loggedIn(at)
  await new Promise(resolve => setTimeout(resolve, 2000))
  const again = Date.now()
  at.clock.set(again)
  demands('acr_values="urn:gold"', withAnotherToken(at), at)
  await steppedUp(browser, asksForMore(t, await browser.api('/api/items')), at)
  const session = sessionHandle(sessionIdOf(cookieOf(browser)))
  const isOver = () => {
    // Redis goes by the machine's clock, and so must the sweep.
    at.clock.set(Date.now())
    return at.gateway.events('session_ended').some(event => event.session === session && event.reason === 'absolute')
  }
  t.ok(await eventually(isOver, 15_000), 'with no request')
  const over = Date.now()
  t.ok(over - started > 7900, `${over - started} ms after the first login began`)
  t.ok(over - again < 8000, `${over - again} ms after the step-up began, which would have had more time of its own`)
})

test('a chain of step-ups is bounded, whatever the session is called by then', async t => {
  const browser = await loggedIn()
  demands('acr_values="urn:never"', () => false)
  let logins = 0
  for (; logins < 10; logins += 1) {
    const answer = await browser.api('/api/items')
    if (answer.status === 403) break
    await steppedUp(browser, asksForMore(t, answer))
  }
  t.equal(logins, 3)
  const fresh = await loggedIn()
  asksForMore(t, await fresh.api('/api/items'))
})

test('only what stands in the handle shapes the login', async t => {
  const browser = await loggedIn()
  await browser.navigate('/bff/login?acr_values=x&max_age=0&claims={}&scope=admin', { stopBefore: () => true })
  for (const name of ['acr_values', 'max_age', 'claims']) t.notOk(asked()?.has(name), name)
})

test('a real browser goes through a step-up and ends where it was', async t => {
  const chromium = await launchChromium()
  t.teardown(() => chromium.close())
  const page = await chromium.newPage()
  const signIn = async () => {
    await page.waitForURL(/\/login\/|\/welcome/)
    if (!page.url().startsWith(provider.issuer)) return
    await page.fill('input[name=login]', 'mia')
    await page.click('button')
    await page.waitForURL(`${gateway.url}/welcome`)
  }
  await page.goto(`${gateway.url}/bff/login?returnUrl=/welcome`)
  await signIn()
  const cookie = async () => (await page.context().cookies()).find(({ name }) => name === sessionCookie)?.value
  const old = await cookie()
  demands('max_age="0"', withAnotherToken())
  const call = () =>
    page.evaluate(async () => {
      const answer = await fetch('/api/items', { headers: { 'X-CSRF': '1' } })
      return { status: answer.status, problem: (await answer.json()) as { loginUrl?: string; code?: string } }
    })
  const { status, problem } = await call()
  t.match([status, problem.code], [401, 'step_up_required'])
  await page.evaluate(url => {
    const to = globalThis as unknown as { location: { href: string } }
    to.location.href = `${url}&returnUrl=/welcome`
  }, problem.loginUrl)
  await page.waitForURL(`${provider.issuer}/login/**`)
  await signIn()
  t.not(await cookie(), old)
  t.equal((await call()).status, 200)
})

// An administrator throws a user out in the middle of a step-up: what comes of it must not bring the session back.
test('a step-up for a session that somebody has ended opens nothing', async t => {
  const at = await startStage(t, { ...options, env: { ADMIN_TOKEN: 'the-administrators-own-secret' } })
  const browser = await loggedIn(at)
  demands('max_age="60"', withAnotherToken(at), at)
  const url = asksForMore(t, await browser.api('/api/items'))
  const callback = await at.pendingCallback(
    browser,
    'alice',
    Object.fromEntries(new URL(url, at.gateway.url).searchParams),
  )
  const revoked = await fetch(`${at.gateway.internalUrl}/admin/revoke`, {
    method: 'POST',
    headers: { authorization: 'Bearer the-administrators-own-secret', 'content-type': 'application/json' },
    body: JSON.stringify({ session: sessionHandle(sessionIdOf(cookieOf(browser))) }),
  })
  t.same(await revoked.json(), { ended: 1 })
  t.equal((await at.open(browser, callback)).status, 400)
  t.match(at.gateway.events('login_rejected').at(-1), { reason: 'stale' })
  t.notOk(await alive(browser))
  t.same(await at.sessions(), [])
})
