import { randomBytes } from 'node:crypto'
import dns, { type LookupOneOptions } from 'node:dns'
import tap, { type Test, test } from 'tap'
import { type EndReason, sessionHandle, sessionIdOf } from '../../src/core/session.ts'
import {
  type BrowserResponse,
  createBrowser,
  createJar,
  type RequestOptions,
  type TestBrowser,
} from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { claims, type Forgery, header } from '../support/forgeries.ts'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { login } from '../support/login.ts'
import { createSigningKey, type ProviderRequest, type RawAnswer, type Responder } from '../support/provider.ts'
import { startRedis } from '../support/redis.ts'
import { startRedisLink } from '../support/schedule/redis-link.ts'
import { type Stage, type StageOptions, sessionCookie, startStage } from '../support/stage.ts'
import { startUpstream, type TestUpstream } from '../support/upstream.ts'

/** Of access tokens at the provider, in seconds. */
const lifetime = 300
const passive = { headers: { 'X-Activity': 'passive' } }
const sessionKeys = randomBytes(32).toString('base64')

const [orders, billing] = await Promise.all([startUpstream(), startUpstream()])
tap.teardown(() => Promise.all([orders.close(), billing.close()]))
for (const api of [orders, billing]) api.respond = (_request, res) => void res.end('{}')

const stage = await startStage(tap, {
  provider: { accessTokens: 'jwt' },
  env: {
    SESSION_KEYS: sessionKeys,
    SESSION_MAX_PER_USER: '1000',
    UPSTREAM_ORDERS_PATH: '/orders',
    UPSTREAM_ORDERS_URL: orders.url,
    UPSTREAM_ORDERS_SCOPE: 'api:read',
    UPSTREAM_BILLING_PATH: '/billing',
    UPSTREAM_BILLING_URL: billing.url,
    UPSTREAM_BILLING_SCOPE: 'api:write api:read',
  },
})
const { clock, provider, gateway, upstream, redis } = stage
/** The longest that a provider call may take where the provider hangs, so that it need not be waited for long. */
const hastyMs = 2000
const hasty = await startStage(tap, {
  providerLimits: { timeoutMs: hastyMs },
  env: { SESSION_KEYS: sessionKeys, SESSION_MAX_PER_USER: '1000' },
})

/** A login; the provider's own cookies go by the machine's clock, and that of the stage moves on. */
async function loggedIn(at: Stage = stage, user = 'alice'): Promise<TestBrowser> {
  const browser = at.browser(createJar())
  const end = await login(browser, at.gateway.url, at.provider, { user, returnUrl: '/welcome' })
  if (cookieOf(browser) === '') throw new Error(`${user} could not log in: ${end.status} ${end.text}`)
  at.provider.clear()
  return browser
}

const cookieOf = (browser: TestBrowser) => browser.jar.get(sessionCookie) ?? ''
const idOf = (browser: TestBrowser) => sessionIdOf(cookieOf(browser))
const handleOf = (browser: TestBrowser) => sessionHandle(idOf(browser))
const refreshes = (at: Stage = stage) => at.provider.tokenCalls('refresh_token')
const alive = async (browser: TestBrowser) => (await browser.api('/bff/user?slide=false')).status === 200
const tokenSeen = (api: TestUpstream) => api.requests.at(-1)?.headers.authorization?.replace('Bearer ', '')
const newest = (tokens: Set<string>) => [...tokens].at(-1)
/** As the browser, past the stage's rule that no answer is a 502. */
const unwatched = (browser: TestBrowser) => createBrowser({ origin: gateway.url, jar: browser.jar })
const later = (seconds: number, at: Stage = stage) => at.clock.advance(seconds * 1000)
const json = (status: number, body: object): RawAnswer => ({ status, body })
const audits = (name: string, of: TestBrowser, at: TestGateway = gateway) =>
  at.events(name).filter(event => event.session === handleOf(of))

const leaseKeys = async (at: Stage = stage) => (await at.redis.keys()).filter(key => key.includes(':lease:'))
/** No refresh is under way. */
const calm = (at: Stage = stage) => eventually(async () => (await leaseKeys(at)).length === 0, 15_000)

/** Past all that a breaker, a `Retry-After` or a rest may still hold back. */
const settle = (at: Stage = stage) => later(61, at)

/** Past the rest after a refusal, which goes by Redis's own clock. */
const rested = async () => {
  const sessions = (await redis.keys()).filter(key => key.includes(':session:'))
  for (const key of sessions) {
    const refused = (await redis.client.hkeys(key)).filter(field => field.startsWith('refused:'))
    if (refused.length > 0) await redis.client.hdel(key, ...refused)
  }
}

function unavailable(t: Test, answer: BrowserResponse, name: string): void {
  t.match([answer.status, answer.json()], [503, { code: 'provider_unavailable' }], name)
  t.match(answer.headers['retry-after'], /^[1-9]\d*$/, `${name}: tells when to come back`)
  t.same([answer.headers.location, answer.rawSetCookie], [undefined, []], `${name}: no redirect, no cookie`)
}

function ended(t: Test, answer: BrowserResponse, reason: EndReason, name: string): void {
  t.match([answer.status, answer.json()], [401, { code: 'session_expired', reason, loginUrl: '/bff/login' }], name)
  t.same([answer.headers.location, answer.rawSetCookie], [undefined, []], `${name}: no redirect, no cookie`)
}

const isRevoked = (refreshToken: string | undefined) =>
  eventually(() => provider.revocations().some(call => call.form.get('token') === refreshToken))

/** A provider's answer that waits until it is let go. */
function held(at: Stage = stage): { asked(): Promise<boolean>; release(): void } {
  let release = () => {}
  const released = new Promise<void>(resolve => {
    release = resolve
  })
  const scripted = at.provider.respond(
    'token',
    async () => {
      await released
      return 'pass' as const
    },
    { times: 1 },
  )
  return { asked: () => eventually(() => scripted.calls === 1), release }
}

tap.beforeEach(() => {
  provider.reset()
  provider.clear()
  settle()
})

// A client that goes on with a refresh token that was replaced looks like a thief, and the whole family is revoked.
test('an access token that is over is replaced, and so is the refresh token, whatever the provider does with it', async t => {
  const modes: Record<string, { options: StageOptions; dropped?: boolean }> = {
    'rotation without grace': { options: {} },
    'rotation with grace': { options: { provider: { rotation: { graceSeconds: 30 } } } },
    'no rotation': { options: { provider: { rotation: false } } },
    'no rotation, and no refresh token in the answer': { options: { provider: { rotation: false } }, dropped: true },
  }
  for (const [name, { options, dropped = false }] of Object.entries(modes)) {
    const at = await startStage(t, options)
    const browser = await loggedIn(at)
    if (dropped) at.provider.tamper.tokenResponse = ({ refresh_token: _, ...rest }) => rest
    const seen = new Set<string | undefined>()
    for (let cycle = 1; cycle <= 3; cycle += 1) {
      later(lifetime, at)
      t.equal((await browser.api('/api/items')).status, 200, `${name}, cycle ${cycle}`)
      seen.add(tokenSeen(at.upstream))
      t.equal(tokenSeen(at.upstream), newest(at.provider.issued.accessTokens), 'with the new token')
      t.equal(refreshes(at).length, cycle, 'one call')
    }
    t.equal(seen.size, 3)
    t.same(at.provider.replays(), [], `${name}: nothing that was replaced is presented`)
    const presented = new Set(refreshes(at).map(call => call.form.get('refresh_token')))
    t.equal(presented.size, name.startsWith('no') ? 1 : 3)
    t.ok(await alive(browser))
  }
})

test('a token is replaced in the background while it is still good', async t => {
  const browser = await loggedIn()
  await browser.api('/api/items')
  const old = tokenSeen(upstream)
  later(lifetime * 0.69)
  await browser.api('/api/items')
  t.equal(refreshes().length, 0, 'not before 70% of its lifetime')
  later(lifetime * 0.11)
  const answer = held()
  for (let count = 0; count < 5; count += 1) {
    t.equal((await browser.api('/api/items')).status, 200)
    t.equal(tokenSeen(upstream), old, 'at 80% the old one is served at once')
  }
  t.ok(await answer.asked())
  answer.release()
  t.ok(await eventually(() => audits('tokens_refreshed', browser).length === 1))
  t.equal((await browser.api('/api/items')).status, 200)
  t.not(tokenSeen(upstream), old)
  t.equal(refreshes().length, 1, 'and one call was enough')
})

test('a refresh in the background that fails is let rest, and goes unseen', async t => {
  const browser = await loggedIn()
  later(lifetime * 0.8)
  provider.respond('token', { status: 503 })
  for (let count = 0; count < 10; count += 1) {
    t.equal((await browser.api('/api/items')).status, 200)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
  t.ok(await eventually(() => refreshes().length === 1))
  t.ok(await calm())
  t.equal(refreshes().length, 1, 'not one a request')
  later(6)
  await browser.api('/api/items')
  t.ok(await eventually(() => refreshes().length === 2))
  t.ok(await calm())
  provider.reset()
  later(6)
  await browser.api('/api/items')
  t.ok(await eventually(() => audits('tokens_refreshed', browser).length === 1))
})

const html = { 'content-type': 'text/html' }
const page = '<html><title>Sorry</title></html>'
/** What is no definite answer, and whether the token may have been seen, so that it is asked for a second time. */
const transient: Record<string, [responder: Responder, ambiguous?: boolean]> = {
  'a connection that breaks': ['reset', true],
  'no answer in time': ['hang', true],
  'a body that breaks off': [{ status: 200, body: '{"access_token":"x"}', cutAfter: 5 }, true],
  429: [{ status: 429, headers: { 'retry-after': '7' }, body: json(429, { error: 'slow_down' }).body ?? '' }],
  '429 as a page': [{ status: 429, headers: html, body: page }],
  500: [{ status: 500 }, true],
  '502 as a page': [{ status: 502, headers: html, body: page }, true],
  '503 with Retry-After': [{ status: 503, headers: { 'retry-after': '9' } }],
  '504 with a refusal in it': [json(504, { error: 'invalid_grant' }), true],
  '200 with a page': [{ status: 200, headers: html, body: page }, true],
  '400 with a page': [{ status: 400, headers: html, body: page }],
  '403 of a firewall': [json(403, { message: 'blocked' })],
  temporarily_unavailable: [json(400, { error: 'temporarily_unavailable' })],
  server_error: [json(400, { error: 'server_error' })],
  'a redirect': [{ status: 302, headers: { location: 'https://elsewhere.test/' } }],
}
for (const number of [90033, 90006, 90024, 50033, 50087, 90012, 90055, 90090, 50196])
  transient[`invalid_grant that passes, ${number}`] = [json(400, { error: 'invalid_grant', error_codes: [number] })]

// An outage of the provider that is taken for a refusal logs every user out.
test('what is no definite answer keeps the session: the token is served while it is good, then 503', async t => {
  for (const [name, [responder, ambiguous = false]] of Object.entries(transient)) {
    const at = responder === 'hang' ? hasty : stage
    const browser = await loggedIn(at)
    later(lifetime * 0.8, at)
    at.provider.respond('token', responder)
    t.equal((await browser.api('/api/items')).status, 200, `${name}: still good`)
    t.ok(await eventually(() => refreshes(at).length === (ambiguous ? 2 : 1)), `${name}: asked in the background`)
    t.ok(await calm(at))
    // The lease is over in Redis before the gateway has the word of it; that comes ahead of this answer.
    await alive(browser)
    settle(at)
    at.provider.clear()
    unavailable(t, await browser.api('/api/items'), name)
    t.equal(refreshes(at).length, ambiguous ? 2 : 1, `${name}: at most one more try`)
    t.ok(await alive(browser), `${name}: alive`)
    at.provider.reset()
    settle(at)
    t.equal((await browser.api('/api/items')).status, 200, `${name}: recovers without a login`)
    t.same(at.provider.replays(), [])
  }
  for (const at of [stage, hasty]) t.same(at.gateway.events('session_ended'), [])
})

test('a provider that cannot be reached at all keeps the session', async t => {
  const at = await startStage(t)
  const browser = await loggedIn(at)
  later(lifetime, at)
  await at.provider.close()
  unavailable(t, await browser.api('/api/items'), 'refused connection')
  t.ok(await alive(browser))
})

// The name server fails, or somebody has taken the provider's name out of it for a moment.
test('a provider whose name is not found keeps the session, and is asked again when it is', async t => {
  const { lookup } = dns
  const names = { found: true }
  t.teardown(() => {
    dns.lookup = lookup
  })
  dns.lookup = ((name: string, options: LookupOneOptions, done: (...result: unknown[]) => void) => {
    if (name !== 'idp.localhost') return lookup(name, options, done)
    if (!names.found) return done(Object.assign(new Error('getaddrinfo ENOTFOUND'), { code: 'ENOTFOUND' }))
    return lookup('127.0.0.1', options, done)
  }) as typeof lookup
  const at = await startStage(t)
  at.provider.tamper.discovery = metadata => ({
    ...metadata,
    token_endpoint: String(metadata.token_endpoint).replace('127.0.0.1', 'idp.localhost'),
  })
  // Past the hour for which the metadata is good.
  later(3600, at)
  const browser = await loggedIn(at)
  const other = await loggedIn(at, 'bob')
  // Connections that are open would go on working for a while.
  at.provider.respond('token', { status: 503, headers: { connection: 'close' } }, { times: 1 })
  later(lifetime, at)
  unavailable(t, await browser.api('/api/items'), 'closed')
  names.found = false
  for (let count = 0; count < 3; count += 1) {
    settle(at)
    for (const each of [browser, other]) unavailable(t, await each.api('/api/items'), 'not found')
  }
  t.equal(refreshes(at).length, 1, 'nothing got there')
  t.ok(await alive(browser))
  names.found = true
  settle(at)
  for (const each of [browser, other]) t.equal((await each.api('/api/items')).status, 200)
  t.same(at.gateway.events('session_ended'), [])
})

test('what the provider asks to wait is told to callers and kept to', async t => {
  const [browser, other] = [await loggedIn(), await loggedIn(stage, 'bob')]
  later(lifetime)
  provider.respond('token', { status: 503, headers: { 'retry-after': '30' } }, { times: 1 })
  t.equal((await browser.api('/api/items')).headers['retry-after'], '30')
  t.equal((await other.api('/api/items')).headers['retry-after'], '30')
  later(29)
  unavailable(t, await browser.api('/api/items'), 'before its time')
  t.equal(refreshes().length, 1)
  later(1)
  for (const each of [browser, other]) t.equal((await each.api('/api/items')).status, 200)
})

const interactive: Record<string, RawAnswer> = Object.fromEntries(
  [
    { error: 'interaction_required' },
    { error: 'consent_required' },
    { error: 'login_required' },
    { error: 'interaction_required', error_codes: [50076], claims: '{"access_token":{}}' },
    { error: 'invalid_grant', error_codes: [50079], suberror: 'basic_action' },
    { error: 'invalid_grant', suberror: 'additional_action' },
    { error: 'invalid_grant', suberror: 'user_password_expired' },
    { error: 'invalid_grant', suberror: 'message_only' },
    { error: 'invalid_grant', claims: '{"access_token":{"acrs":{"value":"c1"}}}' },
  ].map(body => [JSON.stringify(body), json(400, body)]),
)

test('a provider that wants to see the user keeps the session and says so', async t => {
  for (const [name, responder] of Object.entries(interactive)) {
    const browser = await loggedIn()
    later(lifetime)
    provider.respond('token', responder)
    const answer = await browser.api('/api/items')
    t.match([answer.status, answer.json()], [401, { code: 'step_up_required', loginUrl: '/bff/login' }], name)
    t.equal(answer.json().reason, undefined)
    t.notMatch(answer.text, /acrs|access_token/)
    t.match((await browser.api('/api/items')).json(), { code: 'step_up_required' })
    t.equal(refreshes().length, 1, 'the provider is not asked again and again')
    t.ok(await alive(browser))
    provider.reset()
    await rested()
    t.equal((await browser.api('/api/items')).status, 200, `${name}: recovers`)
  }
})

// A real provider answers so for a refresh token that is over. Twenty users who were away for too long must not be the
// reason why nobody else's token is replaced.
test('an answer that may concern one session alone spares nobody else a refresh', async t => {
  const sick: TestBrowser[] = []
  for (let user = 0; user < 20; user += 1) sick.push(await loggedIn(stage, `sick-${user}`))
  const well = await loggedIn(stage, 'well')
  const tokens = new Set([...provider.issued.refreshTokens].slice(-21, -1))
  later(lifetime)
  for (const answer of [
    { status: 400, body: '' },
    { status: 400, headers: html, body: page },
  ]) {
    const matches = (call: ProviderRequest) => tokens.has(call.form.get('refresh_token') ?? '')
    const dead = provider.respond('token', answer, { matches })
    for (let round = 0; round < 3; round += 1)
      for (const browser of sick) unavailable(t, await browser.api('/api/items'), 'sick')
    t.equal(dead.calls, 20, 'each of them is asked for once')
    t.equal((await well.api('/api/items')).status, 200, 'and everybody else goes on')
    dead.stop()
    later(5)
  }
  for (const browser of sick) t.equal((await browser.api('/api/items')).status, 200, 'they recover without a login')
  t.same(gateway.events('session_ended'), [])
})

// A client secret that ran out would log everybody out, and the login that they are sent to fails as well.
test('a client that is not accepted keeps all sessions, and raises an alarm', async t => {
  for (const [status, error] of [
    [401, 'invalid_client'],
    [400, 'unauthorized_client'],
  ] as const) {
    const browsers = [await loggedIn(), await loggedIn(stage, 'bob')]
    later(lifetime)
    const before = gateway.events('client_refused').length
    provider.respond('token', {
      ...json(status, { error, error_codes: [7000222] }),
      headers: { 'www-authenticate': 'Basic realm="x"' },
    })
    for (const browser of browsers) unavailable(t, await browser.api('/api/items'), error)
    const alarms = gateway.events('client_refused').slice(before)
    t.match(alarms, [{ severity: 'high', detail: `/token: ${error}`, mend: /secret/ }], 'one for all of them')
    provider.reset()
    for (const browser of browsers) t.equal((await browser.api('/api/items')).status, 200, 'all recover')
  }
  t.same(provider.replays(), [])
})

test('a request that is configured wrongly keeps the session, is 502 and is not repeated', async t => {
  for (const error of [
    'invalid_scope',
    'invalid_resource',
    'invalid_request',
    'invalid_target',
    'unsupported_grant_type',
    'something_new',
  ]) {
    const browser = await loggedIn()
    later(lifetime)
    provider.respond('token', json(400, { error }))
    const answer = await unwatched(browser).api('/api/items')
    t.match([answer.status, answer.json()], [502, { code: 'bad_upstream' }], error)
    t.match((await unwatched(browser).api('/api/items')).json(), { code: 'bad_upstream' })
    t.equal(refreshes().length, 1, 'the provider is not asked again and again')
    t.ok(await alive(browser))
    t.match(audits('refresh_failed', browser), [{ outcome: 'misconfigured' }])
    provider.reset()
    await rested()
    t.equal((await browser.api('/api/items')).status, 200, `${error}: recovers`)
  }
})

// A thief used the newest refresh token first: the provider revokes the family, and that must not go unnoticed.
test('a refresh token that is refused ends the session, and is told as a possible theft', async t => {
  const bodies = [{ error: 'invalid_grant' }, { error: 'invalid_grant', error_codes: [50173], suberror: 'bad_token' }]
  for (const body of bodies) {
    const browser = await loggedIn()
    const cookie = cookieOf(browser)
    const refreshToken = newest(provider.issued.refreshTokens)
    const calls = upstream.requests.length
    later(lifetime)
    provider.respond('token', json(400, body))
    ended(t, await browser.api('/api/items'), 'refresh_token_dead', JSON.stringify(body))
    t.equal(upstream.requests.length, calls, 'the upstream hears nothing')
    t.equal(refreshes().length, 1, 'asked once')
    ended(t, await browser.api('/bff/user'), 'refresh_token_dead', 'afterwards')
    t.equal(cookieOf(browser), cookie, 'a script gets no cookie cleared')
    t.match(audits('refresh_token_reuse_suspected', browser), [{ severity: 'high', user: /^[\w-]{16}$/ }])
    t.match(audits('session_ended', browser), [{ reason: 'refresh_token_dead' }])
    t.notOk(
      (await stage.sessions()).some(key => key.endsWith(idOf(browser))),
      'the record is gone',
    )
    t.ok(await isRevoked(refreshToken))
    provider.reset()
  }
})

test('in the background, too, a refused refresh token ends the session', async t => {
  const browser = await loggedIn()
  const stream = await browser.stream('/bff/events')
  later(lifetime * 0.8)
  provider.respond('token', json(400, { error: 'invalid_grant' }))
  t.equal((await browser.api('/api/items')).status, 200)
  await stream.waitFor(/event: ended\ndata: {"reason":"refresh_token_dead"}/)
  ended(t, await browser.api('/api/items'), 'refresh_token_dead', 'the next request')
})

/** Another gateway of the same application, with the same Redis. */
async function neighbour(
  t: Test,
  { provider, clock, upstream, redis, gateway }: Stage = stage,
): Promise<{ gateway: TestGateway; ask(browser: TestBrowser): Promise<BrowserResponse> }> {
  const other = await startGateway({
    provider,
    clock,
    upstreams: { '/api': upstream.url },
    env: { PUBLIC_URL: gateway.url, REDIS_URL: redis.url, SESSION_KEYS: sessionKeys },
  })
  t.teardown(other.close)
  const headers = { origin: gateway.url, 'sec-fetch-site': 'same-origin' }
  return { gateway: other, ask: browser => browser.api(`${other.url}/api/items`, { headers }) }
}

// Two replicas held the same token after one had been cut off: the slower one is refused, and would end the session.
test('a refusal counts for nothing when another replica has refreshed meanwhile', async t => {
  const other = await neighbour(t)
  const browser = await loggedIn()
  later(lifetime)
  provider.respond(
    'token',
    async () => {
      await redis.client.del(await leaseKeys())
      t.equal((await other.ask(browser)).status, 200, 'the other one, for whom the lease had run out')
      return json(400, { error: 'invalid_grant' })
    },
    { times: 1 },
  )
  const answer = await browser.api('/api/items')
  t.equal(answer.status, 200, 'reads again and goes on')
  t.equal(tokenSeen(upstream), newest(provider.issued.accessTokens))
  t.ok(await alive(browser))
  t.same(audits('refresh_token_reuse_suspected', browser), [])
})

// A logout revokes the token that a refresh is just presenting: that is no theft, and the reason is the logout.
test('a refusal after a logout says what ended the session, and suspects nobody', async t => {
  const browser = await loggedIn()
  later(lifetime)
  provider.respond(
    'token',
    async () => {
      await redis.client.ping()
      const out = await stage
        .browser(browser.jar)
        .api('/bff/logout', { method: 'POST', cookies: [`${sessionCookie}=${cookie}`] })
      t.equal(out.status, 200)
      return json(400, { error: 'invalid_grant' })
    },
    { times: 1 },
  )
  const cookie = cookieOf(browser)
  const answer = await browser.api('/api/items', { cookies: [`${sessionCookie}=${cookie}`] })
  t.match([answer.status, answer.json()], [401, { code: 'session_revoked', reason: 'logout' }])
  const handle = sessionHandle(sessionIdOf(cookie))
  t.same(
    gateway.events('refresh_token_reuse_suspected').filter(event => event.session === handle),
    [],
  )
})

// What a refresh brings after the end of its session would live on at the provider, and nobody would know.
test('a refresh that comes back after a logout brings nothing back, and its token is revoked', async t => {
  const browser = await loggedIn()
  const cookie = cookieOf(browser)
  later(lifetime)
  const calls = upstream.requests.length
  provider.respond(
    'token',
    async () => {
      await stage.browser(browser.jar).api('/bff/logout', { method: 'POST' })
      return 'pass' as const
    },
    { times: 1, when: 'after' },
  )
  const answer = await browser.api('/api/items', { cookies: [`${sessionCookie}=${cookie}`] })
  t.match([answer.status, answer.json()], [401, { code: 'session_revoked', reason: 'logout' }])
  t.equal(upstream.requests.length, calls)
  t.ok(await isRevoked(newest(provider.issued.refreshTokens)), 'the newest token')
  t.notOk((await stage.sessions()).some(key => key.endsWith(sessionIdOf(cookie))))
})

// The provider has rotated, and the answer is lost on the way: each further try looks more like a thief.
test('an answer that is lost is asked for once more, and what the provider then says decides', async t => {
  for (const rotation of [true, { graceSeconds: 30 }]) {
    const at = await startStage(t, { provider: { rotation } })
    const browser = await loggedIn(at)
    later(lifetime, at)
    at.provider.respond('token', 'reset', { times: 1, when: 'after' })
    const answer = await browser.api('/api/items')
    t.equal(refreshes(at).length, 2, 'two calls in all')
    if (rotation === true) {
      ended(t, answer, 'rotation_lost', 'without grace')
      t.match(at.gateway.events('rotation_lost'), [{ severity: 'high', session: handleOf(browser) }])
      t.same(at.gateway.events('refresh_token_reuse_suspected'), [], 'nobody is suspected of what we did')
      await browser.api('/api/items')
      t.equal(refreshes(at).length, 2, 'and no more')
    } else {
      t.equal(answer.status, 200, 'with grace')
      t.equal(tokenSeen(at.upstream), newest(at.provider.issued.accessTokens))
    }
  }
})

test('those who wait for a refresh get what it brings, on every gateway', async t => {
  const other = await neighbour(t)
  const browser = await loggedIn()
  later(lifetime)
  provider.respond(
    'token',
    async () => {
      await new Promise(resolve => setTimeout(resolve, 400))
      return 'pass' as const
    },
    { times: 1 },
  )
  const before = upstream.requests.length
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, index) => (index % 2 === 0 ? browser.api('/api/items') : other.ask(browser))),
  )
  t.same(new Set(answers.map(({ status }) => status)), new Set([200]))
  const used = new Set(upstream.requests.slice(before).map(({ headers }) => headers.authorization))
  t.same(used, new Set([`Bearer ${newest(provider.issued.accessTokens)}`]))
  t.equal(refreshes().length, 1)
})

test('those who wait for a provider that hangs are told to come back, and nobody is logged out', async t => {
  const { provider } = hasty
  const other = await neighbour(t, hasty)
  const browser = await loggedIn(hasty)
  later(lifetime, hasty)
  provider.respond('token', 'hang')
  const startedAt = performance.now()
  const answers = await Promise.all(Array.from({ length: 10 }, () => browser.api('/api/items')))
  for (const answer of answers) unavailable(t, answer, 'hangs')
  t.ok(performance.now() - startedAt < 2 * hastyMs + 5000, 'within two calls')
  t.equal(refreshes(hasty).length, 2)
  t.ok(await alive(browser))
  provider.reset()
  settle(hasty)
  t.equal((await other.ask(browser)).status, 200)
  t.equal((await browser.api('/api/items')).status, 200)
  t.same(provider.replays(), [])
})

/** How a real Redis refuses what would change something, while it answers everything else. */
const refusesWrites: Record<string, { start(): Promise<unknown>; end(): Promise<unknown> }> = {
  'no replica is near (NOREPLICAS)': {
    start: () => redis.client.config('SET', 'min-replicas-to-write', '1'),
    end: () => redis.client.config('SET', 'min-replicas-to-write', '0'),
  },
  'it is a replica itself (READONLY)': {
    start: () => redis.client.replicaof('127.0.0.1', '1'),
    end: () => redis.client.replicaof('NO', 'ONE'),
  },
}

// The provider has rotated and Redis takes no writes: the only copy of the new token is in this process.
test('a token that the store does not take is kept, tried again, and used by nobody before it is stored', async t => {
  for (const [name, refusal] of Object.entries(refusesWrites)) {
    const browser = await loggedIn()
    later(lifetime)
    provider.respond(
      'token',
      async () => {
        await refusal.start()
        return 'pass' as const
      },
      { times: 1, when: 'after' },
    )
    const calls = upstream.requests.length
    const answer = await browser.api('/api/items', passive)
    t.equal(answer.status, 503, name)
    t.match(answer.headers['retry-after'], /^[1-9]/)
    t.equal(upstream.requests.length, calls, 'not used')
    await refusal.end()
    t.ok(await eventually(() => audits('tokens_refreshed', browser).length === 1), `${name}: saved afterwards`)
    t.ok(await eventually(async () => (await browser.api('/api/items')).status === 200))
    t.equal(tokenSeen(upstream), newest(provider.issued.accessTokens))
    t.equal(refreshes().length, 1)
    t.same(provider.replays(), [])
  }
})

// Redis has no memory left: what begins anew is refused, but not what a provider has given out already.
test('a store whose memory is full takes the tokens of a refresh under way, and begins no other', async t => {
  const [browser, other] = [await loggedIn(), await loggedIn(stage, 'bob')]
  later(lifetime)
  const full = async () => {
    await redis.client.config('SET', 'maxmemory', '1')
    return 'pass' as const
  }
  provider.respond('token', full, { times: 1, when: 'after' })
  t.equal((await browser.api('/api/items', passive)).status, 200)
  t.equal(tokenSeen(upstream), newest(provider.issued.accessTokens))
  t.match((await other.api('/api/items', passive)).json(), { code: 'store_unavailable' })
  t.equal(refreshes().length, 1, 'the provider is not asked for what could not be stored')
  await redis.client.config('SET', 'maxmemory', '0')
  t.equal((await other.api('/api/items')).status, 200)
  t.same(provider.replays(), [])
})

// A failover makes the Redis that a name stood for a replica. It still answers to those who are connected, and refuses
// what they would store: whoever stays with it is cut off until somebody restarts him.
test('a refresh in the middle of a failover is stored at the new primary', async t => {
  // A replica writes down what it is given, and no other server must find that.
  const dir = t.testdir({ old: {}, young: {} })
  const [old, young] = await Promise.all([startRedis({ dir: `${dir}/old` }), startRedis({ dir: `${dir}/young` })])
  const target = { port: old.port }
  const link = await startRedisLink(target)
  t.teardown(() => Promise.all([link.close(), old.stop(), young.stop()]))
  const at = await startStage(t, { env: { REDIS_URL: link.url } })
  const browser = await loggedIn(at)
  await young.client.replicaof('127.0.0.1', String(old.port))
  // A replica waits some seconds for others before the first copy is made for all.
  const copied = async () => (await young.keys()).some(key => key.endsWith(`:session:${idOf(browser)}`))
  t.ok(await eventually(copied, 30_000))
  later(lifetime, at)
  at.provider.respond(
    'token',
    async () => {
      await young.client.replicaof('NO', 'ONE')
      await old.client.replicaof('127.0.0.1', String(young.port))
      target.port = young.port
      return 'pass' as const
    },
    { times: 1, when: 'after' },
  )
  t.ok([200, 503].includes((await browser.api('/api/items', passive)).status))
  t.ok(await eventually(async () => (await browser.api('/api/items')).status === 200))
  t.equal(tokenSeen(at.upstream), newest(at.provider.issued.accessTokens))
  t.equal(refreshes(at).length, 1)
})

/** The ID token that comes with a refresh: whether the session goes on. */
const identities: Record<string, [forgery: Forgery, lives: boolean]> = {
  'the same login': [({ token }) => token, true],
  'no ID token': [() => undefined, true],
  'no nonce': [claims({ nonce: undefined }), true],
  'another name': [claims({ name: 'Renamed', preferred_username: 'renamed' }), true],
  'no auth_time': [claims({ auth_time: undefined }), true],
  'another sub': [claims({ sub: 'mallory' }), false],
  'another nonce': [claims({ nonce: 'another' }), false],
  'an empty nonce': [claims({ nonce: '' }), false],
  'another issuer': [claims({ iss: 'https://evil.test' }), false],
  'another audience': [claims({ aud: 'another' }), false],
  'an audience too many': [claims({ aud: ['coatcheck', 'another'] }), false],
  'another auth_time': [claims(() => ({ auth_time: 1 })), false],
  'the hash of another access token': [claims({ at_hash: 'AAAAAAAAAAAAAAAAAAAAAA' }), false],
  'no signature': [header({ alg: 'none' }), false],
  'a broken signature': [({ token }) => `${token.slice(0, -8)}AAAAAAAA`, false],
  'no token at all': [() => 'garbage', false],
}

// A refresh that is answered with somebody else's tokens hands one user's cookie the account of another.
test('the ID token of a refresh must be of the same login, or the session ends and its tokens are revoked', async t => {
  for (const [name, [forgery, lives]] of Object.entries(identities)) {
    const browser = await loggedIn()
    later(lifetime)
    const calls = upstream.requests.length
    provider.tamper.idToken = forgery
    const answer = await browser.api('/api/items')
    provider.reset()
    if (lives) {
      t.equal(answer.status, 200, name)
      const { user } = (await browser.api('/bff/user')).json<{ user: Record<string, unknown> }>()
      const shown = name === 'another name' ? 'Renamed' : 'alice'
      t.match(user, { sub: 'alice', name: shown, email: 'alice@example.test', roles: ['user'] }, `${name}: the claims`)
      continue
    }
    ended(t, answer, 'identity_changed', name)
    t.equal(upstream.requests.length, calls, `${name}: its token is not used`)
    t.match(audits('identity_changed', browser), [{ severity: 'high' }])
    t.ok(await isRevoked(newest(provider.issued.refreshTokens)), `${name}: the new token is revoked`)
    t.ok(await isRevoked(refreshes()[0]?.form.get('refresh_token') ?? ''), `${name}: and the old one`)
  }
})

// The provider changes its keys, and its key set is down or slow to follow: nothing of that is the users' doing.
test('keys that cannot be had cost no session and no refresh token', async t => {
  const browsers = [await loggedIn(), await loggedIn(stage, 'bob'), await loggedIn(stage, 'carol')]
  later(lifetime)
  await provider.rotateKeys({ keepOld: false })
  provider.respond('jwks', { status: 500 })
  for (const browser of browsers) t.equal((await browser.api('/api/items')).status, 200)
  provider.reset()
  later(lifetime)
  provider.tamper.idToken = claims({ name: 'Renamed' })
  for (const browser of browsers) {
    t.equal((await browser.api('/api/items')).status, 200)
    t.match((await browser.api('/bff/user')).json(), { user: { name: 'Renamed' } }, 'later they can be had')
  }
  t.same(provider.replays(), [])
})

// An attribute of hundreds of levels would break whoever serialises it; to lose the new refresh token over it is worse.
test('a claim that nests too deep stays as it was, and the tokens that came with it are kept', async t => {
  const browser = await loggedIn()
  let nested: unknown = 'end'
  for (let depth = 0; depth < 100; depth += 1) nested = [nested]
  provider.tamper.idToken = claims({ name: 'Renamed', email: nested })
  later(lifetime)
  t.equal((await browser.api('/api/items')).status, 200)
  const { user } = (await browser.api('/bff/user')).json()
  t.match(user, { name: 'Renamed', email: 'alice@example.test' })
  provider.reset()
  later(lifetime)
  t.equal((await browser.api('/api/items')).status, 200)
  t.same(provider.replays(), [])
})

// A machine whose clock runs behind by more than the leeway would log everybody out, and cry theft.
test('an ID token whose times do not fit ours says nothing, and the tokens that came with it are kept', async t => {
  for (const times of [{ iat: clock.now() / 1000 + 86_400 }, { exp: 1 }, { nbf: clock.now() / 1000 + 86_400 }]) {
    const browser = await loggedIn()
    provider.tamper.idToken = claims({ ...times, name: 'Renamed' })
    later(lifetime)
    t.equal((await browser.api('/api/items')).status, 200, Object.keys(times).join())
    t.match((await browser.api('/bff/user')).json(), { user: { name: 'alice' } }, 'nothing of it is believed')
    provider.reset()
    later(lifetime)
    t.equal((await browser.api('/api/items')).status, 200)
    t.same(audits('identity_changed', browser), [])
  }
  t.same(provider.replays(), [])
})

// Somebody in between signs with a key of his own: what it says is not believed, under whatever name the key goes.
// Keys need no id, and some providers give each the same.
for (const [name, kid] of [
  ['have no id', undefined],
  ['all have the same id', 'main'],
] as const) {
  for (const keepOld of [false, true]) {
    test(`a provider whose keys ${name} may change them${keepOld ? ' and show both for a while' : ''}`, async t => {
      const { provider, clock, loggedIn } = await startStage(t, { provider: { lifetimes: { accessToken: 60 } } })
      const named = ({ kid: _, ...rest }: Record<string, unknown>) => ({ ...rest, ...(kid !== undefined && { kid }) })
      provider.tamper.jwks = ({ keys }) => ({ keys: keys.map(named) })
      provider.tamper.idToken = ({ sign, header, payload }) => sign(named(header), payload)
      const browser = await loggedIn('alice')
      t.equal((await browser.api('/api/x')).status, 200)
      await provider.rotateKeys({ keepOld })
      for (let turn = 0; turn < 3; turn += 1) {
        clock.advance(70_000)
        t.equal((await browser.api('/api/x')).status, 200)
      }
    })
  }
}

test('nothing of an ID token by an unknown key is believed', async t => {
  const stranger = await createSigningKey('RS256')
  const browser = await loggedIn()
  for (const kid of [stranger.kid, undefined]) {
    later(lifetime)
    provider.tamper.idToken = ({ sign, payload }) =>
      sign({ alg: 'RS256', kid }, { ...payload, sub: 'mallory', name: 'Mallory' }, stranger.privateKey)
    await browser.api('/api/items')
    t.notMatch((await browser.api('/bff/user')).text, /mallory/i)
  }
})

test('a lifetime that makes no sense is not trusted, and a token is never sent after it', async t => {
  const week = 7 * 86_400
  const cases: [value: unknown, seconds: number][] = [
    [undefined, 300],
    [0, 300],
    [60, 60],
    ['60', 60],
    [1e18, week],
  ]
  for (const [value, seconds] of cases) {
    const at = await startStage(t)
    const browser = await loggedIn(at)
    later(lifetime, at)
    at.provider.tamper.tokenResponse = response => ({ ...response, expires_in: value })
    t.equal((await browser.api('/api/items')).status, 200)
    const token = tokenSeen(at.upstream)
    later(seconds * 0.69, at)
    await browser.api('/api/items')
    t.equal(tokenSeen(at.upstream), token, `expires_in ${value}: used`)
    t.equal(refreshes(at).length, 1)
    later(seconds * 0.31 - 5, at)
    t.equal((await browser.api('/api/items')).status, 200)
    t.not(tokenSeen(at.upstream), token, `expires_in ${value}: and no longer`)
    t.equal(refreshes(at).length, 2)
  }
})

// An answer that is no use has used the refresh token up all the same: without the new one the session is lost.
test('an answer that cannot be used is 502, and the refresh token in it is kept', async t => {
  const bad: Record<string, object> = {
    'expires_in is no number': { expires_in: 'abc' },
    'expires_in is below zero': { expires_in: -1 },
    'another token_type': { token_type: 'DPoP' },
    'no token_type': { token_type: undefined },
    'no access token': { access_token: undefined },
    'an access token with a line end': { access_token: 'token\r\nX-Admin: 1' },
    'a scope that is no text': { scope: 7 },
  }
  for (const [name, changes] of Object.entries(bad)) {
    const browser = await loggedIn()
    later(lifetime)
    const calls = upstream.requests.length
    provider.tamper.idToken = () => undefined
    provider.tamper.tokenResponse = response => ({ ...response, ...changes })
    for (let count = 1; count <= 2; count += 1) {
      const answer = await unwatched(browser).api('/api/items')
      t.match([answer.status, answer.json()], [502, { code: 'bad_upstream' }], name)
      t.equal(refreshes().length, count)
      await rested()
    }
    t.equal(upstream.requests.length, calls, `${name}: the upstream hears nothing`)
    provider.reset()
    t.equal((await browser.api('/api/items')).status, 200, `${name}: recovers without a login`)
    t.same(provider.replays(), [], `${name}: nothing that was replaced is presented`)
  }
})

test('a narrower or wider scope is recorded, and the session goes on', async t => {
  const browser = await loggedIn()
  later(lifetime)
  provider.tamper.tokenResponse = response => ({ ...response, scope: 'openid' })
  t.equal((await browser.api('/api/items')).status, 200)
  t.match(audits('scope_changed', browser), [{ upstream: 'u0', gained: [], lost: ['profile', 'email'] }])
  later(lifetime)
  provider.tamper.tokenResponse = ({ scope: _, ...response }) => response
  t.equal((await browser.api('/api/items')).status, 200)
  t.equal(audits('scope_changed', browser).length, 1, 'what is not said has not changed (RFC 6749 §5.1)')
  later(lifetime)
  provider.tamper.tokenResponse = response => ({ ...response, scope: 'openid admin' })
  t.equal((await browser.api('/api/items')).status, 200)
  t.match(audits('scope_changed', browser)[1], { gained: ['admin'], lost: [] })
})

/** A stage in memory whose upstream refuses some tokens. */
async function refusing(t: Test, refuses: (token: string) => boolean) {
  const at = await startStage(t, { memory: true, env: { SESSION_IDLE_TIMEOUT: '12h' } })
  at.upstream.respond = (request, res) => {
    const token = request.headers.authorization?.replace('Bearer ', '') ?? ''
    res.writeHead(refuses(token) ? 401 : 200, { 'x-from': 'upstream', 'www-authenticate': 'Bearer' })
    res.end(request.method === 'HEAD' ? undefined : 'from upstream')
  }
  return at
}

test('when an upstream refuses a token, a request that does no harm is sent once more with another', async t => {
  for (const method of ['GET', 'HEAD']) {
    const refused = new Set<string>()
    const at = await refusing(t, token => refused.has(token))
    const browser = await loggedIn(at)
    for (const token of at.provider.issued.accessTokens) refused.add(token)
    const answers = await Promise.all(Array.from({ length: 8 }, () => browser.api('/api/items?x=1', { method })))
    for (const answer of answers) t.same([answer.status, answer.headers['x-from']], [200, 'upstream'], method)
    t.equal(refreshes(at).length, 1, `${method}: one refresh for all`)
    t.ok(at.upstream.requests.every(({ url, method: sent }) => url === '/items?x=1' && sent === method))
    t.ok(at.upstream.requests.length <= 16, 'none more than twice')
    t.equal(answers.filter(answer => answer.rawHeaders.filter(name => name === 'x-from').length !== 1).length, 0)
  }
})

// A write that is repeated is done twice.
test('when an upstream refuses a token, what may have done something is not sent again', async t => {
  const at = await refusing(t, () => true)
  const browser = await loggedIn(at)
  const writes: RequestOptions[] = [
    ...['POST', 'PUT', 'PATCH', 'DELETE'].map(method => ({ method })),
    { method: 'POST', body: '{"a":1}' },
  ]
  for (const options of writes) {
    const before = at.upstream.requests.length
    const answer = await browser.api('/api/items', options)
    t.same(
      [answer.status, answer.text, answer.headers['x-from']],
      [401, 'from upstream', 'upstream'],
      String(options.method),
    )
    t.equal(at.upstream.requests.length - before, 1, `${options.method}: sent once`)
  }
  t.equal(refreshes(at).length, 0)
})

// An API that refuses everything makes the gateway hammer the provider, one refresh a request.
test('an upstream that refuses every token makes a session refresh at most once a minute', async t => {
  const at = await refusing(t, () => true)
  const browser = await loggedIn(at)
  for (let minute = 1; minute <= 3; minute += 1) {
    for (let count = 0; count < 6; count += 1) {
      const answer = await browser.api('/api/items')
      t.same([answer.status, answer.text], [401, 'from upstream'], 'its 401 is passed on')
      later(9, at)
    }
    t.equal(refreshes(at).length, minute)
    later(6, at)
  }
  t.ok(await alive(browser))
  t.same(at.provider.replays(), [])
})

test('a refusal of the provider after an upstream refused leaves the answer to the upstream', async t => {
  const at = await refusing(t, () => true)
  const browser = await loggedIn(at)
  at.provider.respond('token', { status: 500 })
  t.same((await browser.api('/api/items')).text, 'from upstream')
  t.ok(await alive(browser))
})

// A replica died in the middle of a refresh, and the next wish is that of an upstream's 401.
test('a forced refresh after an interrupted one goes through and leaves no lease behind', async t => {
  const browser = await loggedIn()
  const key = (await stage.sessions()).find(name => name.endsWith(idOf(browser))) ?? ''
  await redis.client.hset(key, 'pending', 'a-replica-that-died')
  const old = newest(provider.issued.accessTokens) ?? ''
  const honest = upstream.respond
  t.teardown(() => {
    upstream.respond = honest
  })
  upstream.respond = (request, res) =>
    void res.writeHead(request.headers.authorization?.includes(old) ? 401 : 200).end()
  t.equal((await browser.api('/api/items')).status, 200)
  t.same(await leaseKeys(), [])
  t.equal(refreshes().length, 1)
})

// Refreshing goes on by itself and would keep an abandoned session alive for ever.
test('a refresh never counts as activity: a session ends exactly at its idle deadline', async t => {
  const at = await startStage(t, { memory: true })
  const [first, second] = [await loggedIn(at), await loggedIn(at, 'bob')]
  let seconds = 0
  const pass = (by: number) => {
    seconds += by
    later(by, at)
  }
  while (seconds < 1740) {
    pass(60)
    // One in the background, and for the other at the end of a token.
    t.equal((await first.api('/api/items', passive)).status, 200)
    if (seconds % 300 === 0) t.equal((await second.api('/api/items', passive)).status, 200)
    await eventually(() => at.gateway.events('tokens_refreshed').length === refreshes(at).length)
  }
  t.ok(refreshes(at).length >= 10, `${refreshes(at).length} refreshes`)
  pass(59)
  for (const browser of [first, second]) t.ok(await alive(browser), 'a second before')
  pass(1)
  for (const browser of [first, second])
    t.match((await browser.api('/api/items')).json(), { code: 'session_expired', reason: 'idle' })
})

test('a refresh never moves the absolute deadline', async t => {
  const at = await startStage(t, { memory: true, env: { SESSION_ABSOLUTE_TIMEOUT: '1h' } })
  const browser = await loggedIn(at)
  for (let minutes = 10; minutes < 60; minutes += 10) {
    later(600, at)
    t.equal((await browser.api('/api/items')).status, 200)
  }
  t.equal(refreshes(at).length, 5)
  later(599, at)
  t.ok(await alive(browser))
  later(1, at)
  t.match((await browser.api('/api/items')).json(), { code: 'session_expired', reason: 'absolute' })
})

const scopeOf = (call: ProviderRequest) => call.form.get('scope')

// An API that gets a token meant for another can call that other one in the user's name.
test('each upstream gets a token of its own, when it is first needed, and never another one', async t => {
  const tokens = new Map<string | null, Set<unknown>>()
  const record = (response: Record<string, unknown>, request: ProviderRequest) => {
    const scope = request.form.get('grant_type') === 'refresh_token' ? scopeOf(request) : null
    tokens.set(scope, (tokens.get(scope) ?? new Set()).add(response.access_token))
    return response
  }
  provider.tamper.tokenResponse = record
  const browser = stage.browser(createJar())
  await login(browser, gateway.url, provider, { user: 'alice' })
  const asked = provider.of('authorization').find(({ query }) => query.has('scope'))
  t.same(
    asked?.query.get('scope')?.split(' ').sort(),
    ['api:read', 'api:write', 'email', 'offline_access', 'openid', 'profile'],
    'the login asks for all scopes together',
  )
  provider.clear()
  await browser.api('/api/items')
  t.equal(refreshes().length, 0, "the login's own token needs no refresh")
  const marks = [upstream.requests.length - 1, orders.requests.length, billing.requests.length]
  for (let round = 0; round < 3; round += 1) {
    const paths = ['/api/a', '/orders/a', '/billing/a', '/orders/b', '/api/b', '/billing/b']
    const answers = await Promise.all(paths.map(path => browser.api(path)))
    for (const answer of answers) t.equal(answer.status, 200)
    t.same(
      refreshes().map(scopeOf).sort(),
      round === 0
        ? ['api:read', 'api:write api:read']
        : Array(round)
            .fill(['api:read', 'api:write api:read', null])
            .flat()
            .concat(['api:read', 'api:write api:read'])
            .sort(),
      'one call for each',
    )
    later(lifetime)
  }
  const seen = (api: TestUpstream, mark: number) =>
    new Set(api.requests.slice(mark).map(({ headers }) => headers.authorization?.replace('Bearer ', '')))
  t.same(seen(upstream, marks[0] ?? 0), tokens.get(null))
  t.same(seen(orders, marks[1] ?? 0), tokens.get('api:read'))
  t.same(seen(billing, marks[2] ?? 0), tokens.get('api:write api:read'))
  t.same(provider.replays(), [])
})

test('a provider that gives no token for one upstream leaves the others working', async t => {
  const forOrders = (answer: RawAnswer | 'reset'): Responder => {
    return call => (scopeOf(call) === 'api:read' ? answer : 'pass')
  }
  const cases: [RawAnswer, number, string][] = [
    [json(400, { error: 'invalid_grant', error_codes: [53003] }), 403, 'forbidden'],
    [json(400, { error: 'interaction_required' }), 401, 'step_up_required'],
    [json(400, { error: 'invalid_scope' }), 502, 'bad_upstream'],
    [{ status: 500 }, 503, 'provider_unavailable'],
  ]
  for (const [answer, status, code] of cases) {
    const browser = await loggedIn()
    provider.respond('token', forOrders(answer))
    const calls = orders.requests.length
    const refused = await unwatched(browser).api('/orders/a')
    t.match([refused.status, refused.json()], [status, { code }], code)
    t.equal(orders.requests.length, calls, `${code}: no other token is sent instead`)
    settle()
    for (const path of ['/api/a', '/billing/a']) t.equal((await browser.api(path)).status, 200, `${code}: ${path}`)
    later(lifetime)
    for (const path of ['/api/a', '/billing/a']) t.equal((await browser.api(path)).status, 200, `${code}: ${path}`)
    t.ok(await alive(browser))
    const asked = refreshes().length
    await unwatched(browser).api('/orders/a')
    if (status !== 503) t.equal(refreshes().length, asked, `${code}: is remembered`)
    provider.reset()
    settle()
    await rested()
    t.equal((await browser.api('/orders/a')).status, 200, `${code}: recovers`)
    t.same(provider.replays(), [], code)
  }
})

// A refusal about one API must end the session only when the refresh token itself is dead.
test('a refusal for one upstream is confirmed by the token of the login', async t => {
  const answers: [RawAnswer, number, string | undefined][] = [
    [json(400, { error: 'invalid_grant' }), 401, 'refresh_token_dead'],
    [json(400, { error: 'interaction_required' }), 401, undefined],
    [json(401, { error: 'invalid_client' }), 503, undefined],
  ]
  for (const [confirmation, status, reason] of answers) {
    const browser = await loggedIn()
    provider.respond('token', call =>
      scopeOf(call) === 'api:read' ? json(400, { error: 'invalid_grant' }) : confirmation,
    )
    const answer = await browser.api('/orders/a')
    t.same([answer.status, answer.json().reason], [status, reason])
    t.equal(refreshes().length, 2)
    provider.reset()
    t.equal(await alive(browser), reason === undefined)
  }
})

test('without a refresh token an upstream with a token of its own is refused, and the session goes on', async t => {
  provider.tamper.tokenResponse = ({ refresh_token: _, ...rest }) => rest
  const browser = await loggedIn()
  const answer = await unwatched(browser).api('/orders/a')
  t.match([answer.status, answer.json()], [502, { code: 'bad_upstream' }])
  t.equal((await browser.api('/api/a')).status, 200)
  t.ok(await alive(browser))
})

test('an upstream with a resource of its own gets a token for that resource', async t => {
  const [a, b] = [await startUpstream(), await startUpstream()]
  const resources = { 'https://a.example': 'api:read', 'https://b.example': 'api:read api:write' }
  const env: Record<string, string> = {}
  for (const [name, api] of Object.entries({ a, b })) {
    t.teardown(api.close)
    env[`UPSTREAM_${name.toUpperCase()}_PATH`] = `/${name}`
    env[`UPSTREAM_${name.toUpperCase()}_URL`] = api.url
    env[`UPSTREAM_${name.toUpperCase()}_RESOURCE`] = `https://${name}.example`
    env[`UPSTREAM_${name.toUpperCase()}_SCOPE`] = 'api:read'
    api.respond = (_request, res) => void res.end('{}')
  }
  const at = await startStage(t, { env, provider: { resources } })
  const browser = at.browser(createJar())
  await login(browser, at.gateway.url, at.provider, { user: 'alice' })
  const asked = at.provider.of('authorization').find(({ query }) => query.has('scope'))
  t.same(asked?.query.getAll('resource'), Object.keys(resources), 'the login names all resources')
  at.provider.clear()
  for (const path of ['/a/x', '/b/x', '/a/y']) t.equal((await browser.api(path)).status, 200, path)
  t.same(
    refreshes(at).map(call => call.form.get('resource')),
    Object.keys(resources),
  )
  t.not(tokenSeen(a), tokenSeen(b))
})

// Fifty sessions at once: a map keyed wrongly gives one user the token of another.
test('sessions that refresh side by side never get one another’s tokens', async t => {
  const at = await startStage(t, { provider: { accessTokens: 'jwt' } })
  const { provider, upstream } = at
  const users = Array.from({ length: 50 }, (_, index) => `user-${index}`)
  const browsers: TestBrowser[] = []
  for (const user of users) browsers.push(await loggedIn(at, user))
  later(lifetime, at)
  provider.clear()
  provider.respond('token', async () => {
    await new Promise(resolve => setTimeout(resolve, Math.random() * 200))
    return 'pass' as const
  })
  const before = upstream.requests.length
  const answers = await Promise.all(
    browsers.flatMap((browser, index) => [0, 1, 2].map(() => browser.api(`/api/${users[index]}`))),
  )
  t.same(new Set(answers.map(({ status }) => status)), new Set([200]))
  for (const { url, headers } of upstream.requests.slice(before)) {
    const body = headers.authorization?.split('.')[1] ?? ''
    const { sub } = JSON.parse(Buffer.from(body, 'base64url').toString())
    if (url !== `/${sub}`) t.fail(`${url} went with the token of ${sub}`)
  }
  t.equal(refreshes(at).length, 50)
  t.same(provider.replays(), [])
})

// Tokens come and go by the dozen here; one in an answer, a log line or a record of Redis would be somebody's account.
test('after all this no token is in the log or in Redis', async t => {
  const browser = await loggedIn()
  later(lifetime)
  const answer = await browser.api('/api/items')
  const { accessTokens, refreshTokens, idTokens } = provider.issued
  const tokens = [...accessTokens, ...refreshTokens, ...idTokens].filter(token => token.length >= 16)
  t.ok(refreshTokens.size > 100 && accessTokens.size > 100)
  const places = {
    'an answer': `${answer.rawHeaders}${answer.text}`,
    'the log': gateway.log.join(''),
    Redis: (await redis.dump()).toString('latin1'),
  }
  for (const [place, text] of Object.entries(places))
    t.notOk(
      tokens.some(token => text.includes(token)),
      place,
    )
})
