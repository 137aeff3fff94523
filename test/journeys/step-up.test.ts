import tap, { type Test, test } from 'tap'
import { type EndReason, sessionHandle, sessionIdOf } from '../../src/core/session.ts'
import {
  type BrowserResponse,
  createBrowser,
  createJar,
  type Navigation,
  type TestBrowser,
} from '../support/browser.ts'
import { startFakeApi } from '../support/entra/api.ts'
import { challenges, demands } from '../support/entra/challenges.ts'
import { callbackErrors, errors, policyClaims, startEntra, type TestEntra } from '../support/entra.ts'
import { eventually } from '../support/eventually.ts'
import { login, throughProvider } from '../support/login.ts'
import type { Json } from '../support/provider.ts'
import { type Stage, type StageProvider, sessionCookie, startStageAround } from '../support/stage.ts'

const cp1 = { xms_cc: { values: ['cp1'] } }
const c1 = demands.acrs('c1')
const withCp1 = (claims: Json) => ({ access_token: { ...(claims.access_token as Json), ...cp1 } })

let entra: TestEntra
const keys = { entra: { keys: { verifiers: () => entra.keys.verifiers() } as TestEntra['keys'] } }
// One resource, two upstreams with a token each.
const [orders, billing] = await Promise.all([
  startFakeApi({ ...keys, audience: 'api://a' }),
  startFakeApi({ ...keys, audience: 'api://a' }),
])
tap.teardown(() => Promise.all([orders.close(), billing.close()]))

const stage = await startStageAround(
  tap,
  async clock => {
    const env = {
      OIDC_PROVIDER: 'entra',
      OIDC_SCOPE: 'openid profile offline_access api://a/x',
      OIDC_USERINFO: 'never',
    }
    entra = await startEntra({ env, optionalClaims: ['sid', 'login_hint', 'auth_time'], clock })
    return entra
  },
  {
    env: {
      SESSION_MAX_PER_USER: '1000',
      UPSTREAM_U0_SCOPE: 'api://a/x',
      UPSTREAM_ORDERS_PATH: '/orders',
      UPSTREAM_ORDERS_URL: orders.url,
      UPSTREAM_ORDERS_SCOPE: 'api://a/x',
      UPSTREAM_BILLING_PATH: '/billing',
      UPSTREAM_BILLING_URL: billing.url,
      UPSTREAM_BILLING_SCOPE: 'api://a/y',
    },
  },
)
const { gateway } = stage

const cookieOf = (browser: TestBrowser) => browser.jar.get(sessionCookie) ?? ''
const handleOf = (browser: TestBrowser) => sessionHandle(sessionIdOf(cookieOf(browser)))
/** As the browser, past the stage's rule that no answer is a 502. */
const unwatched = (browser: TestBrowser) => createBrowser({ origin: gateway.url, jar: browser.jar })
const alive = async (browser: TestBrowser) => (await browser.api('/bff/user?slide=false')).status === 200
const loginUrlOf = (answer: BrowserResponse) => answer.json<{ loginUrl: string }>().loginUrl

async function loggedIn<P extends StageProvider>(at: Stage<P>, user = 'alice'): Promise<TestBrowser> {
  const browser = at.browser(createJar())
  await login(browser, at.gateway.url, at.provider, { user, returnUrl: '/welcome' })
  if (cookieOf(browser) === '') throw new Error(`${user} could not log in`)
  return browser
}

/** The answer asks for a stronger login, in words of the gateway alone. */
function asksForMore(t: Test, answer: BrowserResponse, name = 'asks for a stronger login'): string {
  t.match([answer.status, answer.json()], [401, { code: 'step_up_required' }], name)
  t.match(loginUrlOf(answer), /^\/bff\/login\?step_up=[\w-]{43}$/, `${name}: by a handle`)
  t.same([answer.headers.location, answer.rawSetCookie], [undefined, []], `${name}: no redirect, no cookie`)
  t.equal(answer.headers['www-authenticate'], undefined, `${name}: the challenge stays here`)
  t.match(answer.headers['content-type'], /^application\/problem\+json\b/, name)
  t.notMatch(
    answer.text,
    /acrs|access_token|polids|urn:(?!coatcheck)|insufficient|Bearer/,
    `${name}: nothing of the challenge`,
  )
  return loginUrlOf(answer)
}

/** Opens a login address as the SPA does, and goes through the provider. */
async function steppedUp<P extends StageProvider>(
  at: Stage<P>,
  browser: TestBrowser,
  url: string,
  user = 'alice',
): Promise<Navigation> {
  const start = await browser.navigate(`${url}&returnUrl=/welcome`)
  return throughProvider(browser, start, at.provider, user)
}

/** The session went on under a new cookie, and the old one is over. */
async function continued(t: Test, browser: TestBrowser, old: string, at: Pick<Stage, 'browser'> = stage) {
  t.not(cookieOf(browser), old, 'a new cookie')
  t.ok(await alive(browser))
  const before = await at.browser().api('/bff/user', { cookies: [`${sessionCookie}=${old}`] })
  const reason: EndReason = 'replaced'
  t.match([before.status, before.json()], [401, { code: 'session_revoked', reason }], 'the old cookie is over')
}

tap.beforeEach(() => {
  entra.reset()
  entra.clear()
  for (const api of [orders, billing]) {
    api.challenge = undefined
    api.seen.length = 0
  }
  entra.knobs.claimsOnRefresh = 'as-signed-in'
  entra.unconsented.clear()
  stage.clock.advance(61_000)
})

const unlessC1 = (claims: Json) => Array.isArray(claims.acrs) && claims.acrs.includes('c1')

test('a claims challenge that a refresh meets costs the user nothing', async t => {
  entra.knobs.claimsOnRefresh = 'granted'
  for (const name of ['plain', 'base64url', 'shuffled', 'amongOthers', 'joined'] as const) {
    const browser = await loggedIn(stage)
    orders.challenge = { headers: challenges[name](c1), unless: unlessC1 }
    entra.clear()
    orders.seen.length = 0
    const answer = await browser.api('/orders/1')
    t.equal(answer.status, 200, name)
    t.equal(answer.headers['www-authenticate'], undefined)
    t.same(
      orders.seen.map(({ url }) => url),
      ['/1', '/1'],
      'sent twice',
    )
    const [plain, demanding] = entra.refreshes()
    t.same(plain?.claims, { access_token: cp1 })
    t.same(demanding?.claims, withCp1(c1), 'refreshed with what was demanded')
    t.ok(demanding?.scopes.includes('api://a/x'))
    t.equal((await browser.api('/orders/2')).status, 200)
    t.equal(entra.refreshes().length, 2, 'once')
  }
})

// Anybody may answer in an API's place: what is not exactly a challenge must not shape a request to the provider.
test('what only looks like a challenge is an upstream’s 401, and no more', async t => {
  const imitations = ['otherError', 'brokenBase64', 'brokenJson', 'notAnObject', 'foreignMembers'] as const
  for (const [name, headers] of [
    ...imitations.map(name => [name, challenges[name](c1)] as const),
    ['over 4 KB', challenges.huge(4096)] as const,
  ]) {
    const browser = await loggedIn(stage)
    orders.challenge = { headers }
    entra.clear()
    const answer = await browser.api('/orders/1')
    t.equal(answer.status, 401, name)
    t.equal(answer.json().code, undefined, name)
    t.equal(answer.headers['www-authenticate'], undefined, `${name}: not passed on`)
    for (const { claims } of entra.refreshes()) t.same(claims, { access_token: cp1 }, name)
    t.ok(await alive(browser))
  }
  const browser = await loggedIn(stage)
  orders.challenge = { headers: challenges.huge(100_000) }
  const started = Date.now()
  const answer = await unwatched(browser).api('/orders/1')
  t.match([answer.status, answer.json()], [502, { code: 'bad_upstream' }], '100 KB of headers are no answer')
  t.ok(Date.now() - started < 10_000)
  orders.challenge = undefined
  t.equal((await browser.api('/orders/1')).status, 200)
})

test('a claims challenge that takes the user is met by a login that carries it', async t => {
  const browser = await loggedIn(stage)
  const old = cookieOf(browser)
  orders.challenge = { headers: challenges.plain(c1), unless: unlessC1 }
  const url = asksForMore(t, await browser.api('/orders/1'))
  t.ok(await alive(browser), 'the session is kept')
  const refreshed = entra.refreshes().length
  asksForMore(t, await browser.api('/orders/1'), 'a second time')
  t.equal(entra.refreshes().length, refreshed, 'the provider is not asked again and again')
  t.equal((await browser.api('/billing/1')).status, 200, 'other upstreams go on')

  const end = await steppedUp(stage, browser, url)
  t.equal(end.url, `${gateway.url}/welcome`)
  const { claims, params, scopes } = entra.authorizations().at(-1) ?? {}
  t.same(claims, withCp1(c1))
  t.equal(params?.get('login_hint'), entra.directory.hintOf(entra.users.get('alice')))
  t.same(scopes?.toSorted(), ['api://a/x', 'api://a/y', 'offline_access', 'openid', 'profile'])
  t.same([params?.get('max_age'), params?.get('acr_values')], [null, null], 'which Entra ID does not know')
  await continued(t, browser, old)

  orders.seen.length = 0
  const post = await browser.api('/orders/pay', { method: 'POST', body: { amount: 1 } })
  t.equal(post.status, 200, 'what cannot be sent twice is let in the first time')
  t.equal(orders.seen.length, 1)
  t.match(gateway.events('step_up_attempted').at(-1), { upstream: 'orders', attempt: 1 })

  const other = await loggedIn(stage)
  asksForMore(t, await other.api('/orders/1'), 'another session of the same user is not lifted along')
})

test('a request that cannot be sent twice is not, and the next one gets through', async t => {
  entra.knobs.claimsOnRefresh = 'granted'
  const browser = await loggedIn(stage)
  orders.challenge = { headers: challenges.plain(c1), unless: unlessC1 }
  const pay = () => browser.api('/orders/pay', { method: 'POST', body: { amount: 1 } })
  const first = await pay()
  t.match([first.status, first.json()], [401, { error: 'unauthorized' }], 'the answer of the upstream')
  t.equal(first.headers['www-authenticate'], undefined)
  t.equal(orders.seen.length, 1)
  t.equal((await pay()).status, 200)
  t.equal(orders.seen.length, 2)
})

test('a provider that refuses a token until the user has acted is asked with its own claims', async t => {
  const cases = {
    mfa: [errors.mfa(), withCp1(policyClaims())],
    'mfa, older': [errors.mfaOld(), withCp1(policyClaims('polids'))],
    consent: [errors.consent(), { access_token: cp1 }],
    'a foreign member': [errors.mfa({ redirect_uri: 'https://evil.test' }), { access_token: cp1 }],
  } as const
  for (const [name, [refusal, claims]] of Object.entries(cases)) {
    const browser = await loggedIn(stage)
    const old = cookieOf(browser)
    entra.refuse({ grant: 'refresh_token', scope: 'api://a/x' }, refusal)
    const url = asksForMore(t, await browser.api('/orders/1'), name)
    t.equal((await browser.api('/billing/1')).status, 200, `${name}: other upstreams go on`)
    await steppedUp(stage, browser, url)
    t.same(entra.authorizations().at(-1)?.claims, claims, name)
    entra.reset()
    await continued(t, browser, old)
    t.equal((await browser.api('/orders/1')).status, 200, `${name}: the block is gone`)
  }
})

// An address that works twice, or for others, could lift a session that is not the one that was challenged.
test('a handle is good once, and with its own session alone', async t => {
  const [browser, other] = [await loggedIn(stage), await loggedIn(stage)]
  orders.challenge = { headers: challenges.plain(c1), unless: unlessC1 }
  const url = asksForMore(t, await browser.api('/orders/1'))
  const abandoned = asksForMore(t, await browser.api('/orders/1'))
  entra.clear()
  const refused = async (by: TestBrowser, address: string, name: string) => {
    const page = await by.navigate(address)
    t.equal(page.status, 400, name)
    t.match(page.text, 'Sign in</a>', `${name}: a page with a link to a plain login`)
    t.same(
      page.chain.flatMap(({ rawSetCookie }) => rawSetCookie),
      [],
      name,
    )
  }
  await refused(stage.browser(), url, 'without a session')
  await refused(other, url, 'another session of the same user')
  await refused(browser, '/bff/login?step_up=x', 'not of the form')
  await refused(browser, `/bff/login?step_up=${'A'.repeat(43)}`, 'made up')
  await refused(browser, `${url}&step_up=${'A'.repeat(43)}`, 'twice in one address')
  t.same(entra.authorizations(), [], 'none got to the provider')
  t.equal((await browser.navigate(abandoned, { stopBefore: () => true })).status, 302)
  await refused(browser, abandoned, 'a second time')
  t.equal((await steppedUp(stage, browser, url)).url, `${gateway.url}/welcome`, 'and none spent it')
  await refused(browser, url, 'after it was done')
  t.ok(await alive(other))
})

test('what is kept for a step-up is sealed, and for ten minutes', async t => {
  const browser = await loggedIn(stage)
  orders.challenge = { headers: challenges.plain(demands.acrs('canary-in-claims')) }
  asksForMore(t, await browser.api('/orders/1'))
  t.notMatch((await stage.redis.dump()).toString('latin1'), 'canary-in-claims')
  const kept = (await stage.redis.keys()).filter(key => /:step-ups?:/.test(key))
  t.ok(kept.length >= 2)
  for (const key of kept) {
    const lives = await stage.redis.client.pttl(key)
    t.ok(lives > 0 && lives <= 600_000, key.split(':')[1] ?? '')
  }
})

// An API that is never content sends the SPA to the login page for ever: the user sees a screen that flickers.
test('a challenge that no login meets ends after three', async t => {
  for (const [name, headers] of Object.entries({
    'the same': () => challenges.plain(demands.acrs('c9')),
    'another moment each time': () => challenges.plain(demands.newerThan(Math.floor(Math.random() * 1e9))),
  })) {
    const browser = await loggedIn(stage)
    let logins = 0
    for (; logins < 10; logins += 1) {
      orders.challenge = { headers: headers() }
      const answer = await browser.api('/orders/1')
      if (answer.status !== 401) {
        t.match([answer.status, answer.json()], [403, { code: 'forbidden' }], name)
        t.match(answer.json().detail, 'still not allowed')
        t.equal(answer.json().loginUrl, undefined)
        break
      }
      await steppedUp(stage, browser, asksForMore(t, answer, name))
    }
    t.equal(logins, 3, name)
    t.ok(await alive(browser), 'the session is kept')
    t.equal((await browser.api('/billing/1')).status, 200, 'other upstreams go on')
  }
})

// Calls of a page that fail together send the browser to one login after the other, and the last one wins.
test('logins that are left for another do not count', async t => {
  const browser = await loggedIn(stage)
  orders.challenge = { headers: challenges.plain(c1), unless: unlessC1 }
  const answers = await Promise.all(Array.from({ length: 7 }, () => browser.api('/orders/1')))
  const urls = answers.map(loginUrlOf)
  t.equal(new Set(urls).size, 7)
  const last = urls.pop() ?? ''
  for (const url of urls) t.equal((await browser.navigate(url, { stopBefore: () => true })).status, 302)
  t.equal((await steppedUp(stage, browser, last)).url, `${gateway.url}/welcome`)
  t.equal((await browser.api('/orders/1')).status, 200)
})

test('a message for the user is shown once', async t => {
  const browser = await loggedIn(stage)
  entra.refuse({ grant: 'refresh_token', scope: 'api://a/x' }, errors.blocked('message_only'))
  const url = asksForMore(t, await browser.api('/orders/1'))
  await steppedUp(stage, browser, url)
  const answer = await browser.api('/orders/1')
  t.match([answer.status, answer.json()], [403, { code: 'forbidden' }])
  t.ok(await alive(browser))
})

test('a step-up that the provider or its user refuses leaves the session as it was', async t => {
  for (const refusal of ['interactionRequired', 'consentRequired', 'accessDenied'] as const) {
    const browser = await loggedIn(stage)
    const old = cookieOf(browser)
    orders.challenge = { headers: challenges.plain(c1), unless: unlessC1 }
    const url = asksForMore(t, await browser.api('/orders/1'))
    entra.refuseAuthorize({ times: 1 }, callbackErrors[refusal])
    const page = await steppedUp(stage, browser, url)
    t.equal(page.status, 400, refusal)
    t.match(page.text, /cancelled, or the identity provider refused it|The identity provider needs/)
    t.equal(cookieOf(browser), old)
    t.ok(await alive(browser))
    await steppedUp(stage, browser, asksForMore(t, await browser.api('/orders/1'), 'again'))
    t.equal((await browser.api('/orders/1')).status, 200)
  }
})

test('a fault of the provider during a demanded refresh is a 503, and no step-up', async t => {
  const browser = await loggedIn(stage)
  await browser.api('/orders/1')
  orders.challenge = { headers: challenges.plain(c1), unless: unlessC1 }
  entra.refuse({ grant: 'refresh_token' }, errors.unavailable())
  const answer = await browser.api('/orders/1')
  t.match([answer.status, answer.json()], [503, { code: 'provider_unavailable' }])
  t.match(answer.headers['retry-after'], /^\d+$/)
  t.ok(await alive(browser))
  entra.reset()
  stage.clock.advance(61_000)
})

// Somebody else at the same machine signs in when asked to: this must not become the first user's session.
test('a step-up by somebody else is refused, and the session stays its owner’s', async t => {
  const browser = await loggedIn(stage)
  const old = cookieOf(browser)
  orders.challenge = { headers: challenges.plain(c1), unless: unlessC1 }
  const url = asksForMore(t, await browser.api('/orders/1'))
  const page = await throughProvider(
    browser,
    await browser.navigate(`${url}&prompt=login&returnUrl=/welcome`),
    entra,
    'mallory',
  )
  t.equal(page.status, 400)
  t.match(page.text, 'Somebody else signed in')
  t.notMatch(page.text, 'http-equiv', 'a page that stays')
  t.equal(cookieOf(browser), old)
  const user = await browser.api('/bff/user')
  t.match(user.json(), { user: { preferred_username: entra.users.get('alice').preferred_username } })
  t.match(gateway.events('login_rejected').at(-1), { reason: 'another_user' })
})

test('a demand for a fresh login becomes prompt=login at Entra ID, and its age is verified', async t => {
  const browser = await loggedIn(stage)
  const old = cookieOf(browser)
  let challenged = 0
  const once = () => {
    challenged += 1
    return challenged > 1
  }
  orders.challenge = { headers: ['Bearer error="insufficient_user_authentication", max_age="0"'], unless: once }
  const url = asksForMore(t, await browser.api('/orders/1'))
  await steppedUp(stage, browser, url)
  const { params } = entra.authorizations().at(-1) ?? {}
  t.same([params?.get('prompt'), params?.get('max_age')], ['login', null])
  await continued(t, browser, old)

  entra.knobs.optionalClaims = ['sid', 'login_hint']
  t.teardown(() => entra.knobs.optionalClaims.push('auth_time'))
  const again = { headers: ['Bearer error="insufficient_user_authentication", max_age="60"'] }
  orders.challenge = again
  const page = await steppedUp(stage, browser, asksForMore(t, await browser.api('/orders/1')))
  t.equal(page.status, 400, 'without auth_time nothing can be verified')
  t.match(page.text, 'not as strong as was asked for')
})

test('the gateway says that it handles claims challenges, at Entra ID alone', async t => {
  const browser = await loggedIn(stage)
  t.same(entra.authorizations().at(-1)?.claims, { access_token: cp1 })
  const code = entra.tokenCalls('authorization_code').at(-1)
  t.same(JSON.parse(code?.form.get('claims') ?? ''), { access_token: cp1 })
  await browser.api('/orders/1')
  t.match(orders.seen.at(-1)?.claims, { xms_cc: ['cp1'] })
  t.ok(await eventually(() => gateway.events('tokens_refreshed').some(({ session }) => session === handleOf(browser))))
})

// Pages that wait and ask again must not fill the store with addresses that nobody opens.
test('addresses that nobody opens are given out up to a number', async t => {
  const browser = await loggedIn(stage)
  entra.refuse({ grant: 'refresh_token', scope: 'api://a/x' }, errors.mfa())
  for (let count = 0; count < 300; count += 1) await unwatched(browser).api('/orders/1')
  t.match((await browser.api('/orders/1')).json(), { code: 'forbidden' })
  t.ok(await alive(browser))
})
