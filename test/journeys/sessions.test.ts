import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import tap, { type Test, test } from 'tap'
import { randomToken } from '../../src/core/random.ts'
import { type EndReason, endReasons, expired, sessionHandle, sessionIdOf, userIndex } from '../../src/core/session.ts'
import { confirmedForMs } from '../../src/store/session-cache.ts'
import { type BrowserResponse, createJar, type TestBrowser } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { claims } from '../support/forgeries.ts'
import { startGateway } from '../support/gateway.ts'
import { login } from '../support/login.ts'
import { startProvider, type TestProvider } from '../support/provider.ts'
import { lastIdToken, sendLogoutToken } from '../support/provider-logout.ts'
import { startRedis } from '../support/redis.ts'
import { type Replica, startReplicas } from '../support/replicas.ts'
import { bindingPrefix, type Stage, sessionCookie, startStage } from '../support/stage.ts'
import { untilRefused } from '../support/until-refused.ts'

interface SessionView {
  id: string
  createdAt: string
  lastActiveAt: string
  userAgent: string
  address: string
  current: boolean
}

const adminToken = 'the-administrators-own-secret'
const sealingKey = Buffer.from(Array.from({ length: 32 }, (_, index) => index * 7)).toString('base64')
const redisDir = mkdtempSync(join(tmpdir(), 'sessions-'))
const stage = await startStage(tap, {
  redisDir,
  env: { ADMIN_TOKEN: adminToken, SESSION_MAX_PER_USER: '3', SESSION_KEYS: sealingKey },
})
tap.teardown(() => rmSync(redisDir, { recursive: true, force: true }))
const { gateway, provider, redis, upstream } = stage

const post = (browser: TestBrowser, path: string, headers: Record<string, string> = {}) =>
  browser.api(path, { method: 'POST', headers })
const remove = (browser: TestBrowser, path: string, headers: Record<string, string> = {}) =>
  browser.api(path, { method: 'DELETE', headers })
const cookieOf = (browser: TestBrowser) => browser.jar.get(sessionCookie) ?? ''
const handleOf = (browser: TestBrowser) => sessionHandle(sessionIdOf(cookieOf(browser)))
const withCookie = (value: string) => ({ cookies: [`${sessionCookie}=${value}`] })
const alive = async (browser: TestBrowser) => (await browser.api('/bff/user?slide=false')).status === 200

function admin(at: { internalUrl: string }, selector: object): Promise<Response> {
  const headers = { authorization: `Bearer ${adminToken}`, 'content-type': 'application/json' }
  return fetch(`${at.internalUrl}/admin/revoke`, { method: 'POST', headers, body: JSON.stringify(selector) })
}

/** A login, and the refresh token that it brought. */
async function loggedIn(at: Stage, user: string): Promise<{ browser: TestBrowser; refreshToken: string }> {
  const before = new Set(at.provider.issued.refreshTokens)
  const browser = await at.loggedIn(user)
  const [refreshToken = ''] = [...at.provider.issued.refreshTokens].filter(token => !before.has(token))
  return { browser, refreshToken }
}

/** A login at a stage whose clock has moved on: the provider's cookies go by the machine's. */
async function loggedInLater(at: Stage, user: string): Promise<TestBrowser> {
  const browser = at.browser(createJar())
  await login(browser, at.gateway.url, at.provider, { user, returnUrl: '/welcome' })
  if (cookieOf(browser) === '') throw new Error(`${user} could not log in`)
  return browser
}

const isRevoked = (at: TestProvider, refreshToken: string) =>
  eventually(() => at.revocations().some(call => call.form.get('token') === refreshToken && call.answered === 200))

async function list(browser: TestBrowser): Promise<SessionView[]> {
  return (await browser.api('/bff/sessions')).json<{ sessions: SessionView[] }>().sessions
}

/** A refusal as scripts get it: a problem, not to be stored, that leads nowhere and touches no cookie. */
function refused(t: Test, answer: BrowserResponse, status: number, code: string, name = code): void {
  t.match(
    [answer.status, answer.headers['content-type'], answer.headers['cache-control']],
    [status, /^application\/problem\+json/, 'no-store'],
    name,
  )
  t.match(answer.json(), { status, code }, name)
  t.same([answer.headers.location, answer.rawSetCookie], [undefined, []], `${name}: no redirect, no cookie`)
  t.equal(
    answer.json().loginUrl,
    status === 401 ? '/bff/login' : undefined,
    `${name}: a login is offered where it helps`,
  )
}

function ended(t: Test, answer: BrowserResponse, reason: EndReason, name: string = reason): void {
  refused(t, answer, 401, expired(reason) ? 'session_expired' : 'session_revoked', name)
  t.equal(answer.json().reason, reason, `${name}: the reason`)
}

// Session fixation: the attacker plants a value that he knows in the victim's browser and waits for the victim to log in.
test('a cookie planted before the login is worth nothing after it', async t => {
  const attacker = await stage.loggedIn('mallory')
  const lure = stage.browser()
  await lure.navigate('/bff/login', { stopBefore: () => true })
  const [binding] = lure.jar.list().filter(cookie => cookie.name.startsWith(bindingPrefix))
  const planted = {
    'an unknown value': randomToken(),
    'the value of a pre-login cookie': binding?.value ?? '',
    "the attacker's own live session": cookieOf(attacker),
    'no token at all': 'planted',
  }
  for (const [name, value] of Object.entries(planted)) {
    const victim = stage.browser()
    victim.jar.set(sessionCookie, value, { secure: true, httpOnly: true, sameSite: 'strict' })
    await login(victim, gateway.url, provider, { user: 'victim', returnUrl: '/welcome' })
    t.not(cookieOf(victim), value, `${name}: a new value`)
    t.match((await victim.api('/bff/user')).json(), { user: { sub: 'victim' } }, name)
    const afterwards = await stage.browser().api('/bff/user', withCookie(value))
    t.equal(afterwards.status, 401, `${name}: opens nothing`)
    t.notMatch(afterwards.text, /victim/)
  }
})

// A server that takes over whatever id it is shown lets the attacker choose the id of the victim's session.
test('an id that the gateway did not issue is never adopted', async t => {
  const owner = await stage.loggedIn('owner')
  const foreign = [randomToken(), sessionIdOf(cookieOf(owner)), handleOf(owner).padEnd(43, 'A')]
  const before = await redis.keys()
  for (const value of foreign) {
    const browser = stage.browser()
    const look = (path: string, method = 'GET') => browser.api(path, { method, ...withCookie(value) })
    refused(t, await look('/api/items'), 401, 'not_authenticated')
    refused(t, await look('/bff/user'), 401, 'not_authenticated')
    refused(t, await look('/bff/sessions'), 401, 'not_authenticated')
    refused(t, await look('/bff/sessions', 'DELETE'), 401, 'not_authenticated')
    refused(t, await look(`/bff/sessions/${handleOf(owner)}`, 'DELETE'), 401, 'not_authenticated')
    refused(t, await look('/bff/activity', 'POST'), 401, 'not_authenticated')
    refused(t, await look('/bff/events'), 401, 'not_authenticated')
    t.same((await look('/bff/logout', 'POST')).json(), { logoutUrl: '/' })
    const started = await browser.request('/bff/login', withCookie(value))
    t.equal(started.status, 302)
    t.equal(started.rawSetCookie.filter(line => line.startsWith(`${sessionCookie}=`)).length, 0)
  }
  const created = (await redis.keys()).filter(key => !before.includes(key))
  t.same(
    created.filter(key => !/^coatcheck:transaction:/.test(key)),
    [],
    'nothing but the transactions of the logins is new',
  )
  t.ok(await alive(owner), 'and the owner of the id is still there')
  t.equal(upstream.requests.length, 0)
})

// Two people share a machine: what belonged to the first must not be seen, used or kept alive by the second.
test("a login as somebody else carries nothing of the first user's over", async t => {
  const { browser, refreshToken } = await loggedIn(stage, 'anna')
  const annas = cookieOf(browser)
  const first = await browser.api('/bff/user')
  await browser.api('/api/items')
  await browser.navigate('/bff/login?returnUrl=/only-for-anna', { stopBefore: () => true })
  for (const { name, host } of browser.jar.list()) if (host === '127.0.0.1') browser.jar.delete(name, host)
  const arrived = await login(browser, gateway.url, provider, { user: 'bert', returnUrl: '/for-bert' })
  t.equal(new URL(arrived.url).pathname, '/for-bert')
  const second = await browser.api('/bff/user')
  t.match(second.json(), { user: { sub: 'bert', email: 'bert@example.test' } })
  t.notMatch(second.text, /anna/)
  const logoutUrlOf = (answer: BrowserResponse) => answer.json<{ session: { logoutUrl: string } }>().session.logoutUrl
  t.not(logoutUrlOf(second), logoutUrlOf(first))
  await browser.api('/api/items')
  const authorization = upstream.requests.at(-1)?.headers.authorization ?? ''
  const whose = await fetch(`${provider.issuer}/me`, { headers: { authorization } })
  t.match(await whose.json(), { sub: 'bert' }, 'the access token is that of the second')
  ended(t, await stage.browser().api('/bff/user', withCookie(annas)), 'replaced')
  const token = new URL(logoutUrlOf(first), gateway.url).searchParams.get('token') ?? ''
  t.match((await browser.navigate(`/bff/logout?token=${token}`)).text, /Sign out\?/, 'the old logout link asks first')
  t.ok(await isRevoked(provider, refreshToken), "the first user's refresh token is revoked")
  t.same(
    (await list(browser)).map(({ current }) => current),
    [true],
    'and the list has one session',
  )
})

test('signing out ends the session first, clears the cookie as it was set, and is no error when repeated', async t => {
  const { browser, refreshToken } = await loggedIn(stage, 'lola')
  const cookie = cookieOf(browser)
  const [set] = browser.jar.seen.filter(({ name, value }) => name === sessionCookie && value === cookie)
  const answer = await post(browser, '/bff/logout')
  t.equal(answer.status, 200)
  const [cleared] = browser.jar.seen.filter(({ name, value }) => name === sessionCookie && value === '')
  const attributes = ['path', 'domain', 'secure', 'httpOnly', 'sameSite'] as const
  for (const attribute of attributes) t.equal(cleared?.[attribute], set?.[attribute], attribute)
  t.ok((cleared?.expires?.getTime() ?? 1) <= 0 || cleared?.maxAge === 0, 'it is over at once')
  t.equal(cookieOf(browser), '')
  const replay = stage.browser()
  for (const path of ['/bff/user', '/api/items', '/bff/sessions', '/bff/events'])
    ended(t, await replay.api(path, withCookie(cookie)), 'logout', path)
  t.ok(await isRevoked(provider, refreshToken))

  const again = await replay.api('/bff/logout', { method: 'POST', ...withCookie(cookie) })
  const without = await replay.api('/bff/logout', { method: 'POST' })
  for (const repeated of [again, without]) t.same([repeated.status, repeated.json()], [200, { logoutUrl: '/' }])
})

// The provider's page that ends its session is told too little (it asks the user, or returns anywhere) or too much.
test('the way on to the provider names the client and the registered return address, and no other token', async t => {
  const browser = await stage.loggedIn('paula')
  const { logoutUrl } = (await post(browser, '/bff/logout')).json<{ logoutUrl: string }>()
  t.match(logoutUrl, /^\/bff\/logout\/continue\?handle=[\w-]{43}$/, 'script sees a local address')
  const hop = await browser.navigate(logoutUrl, { stopBefore: () => true })
  const target = new URL(hop.headers.location ?? '')
  t.equal(target.origin + target.pathname, `${provider.issuer}/session/end`)
  t.equal(target.searchParams.get('client_id'), provider.clientId)
  t.equal(target.searchParams.get('post_logout_redirect_uri'), `${gateway.url}/`)
  const [idToken] = [...provider.issued.idTokens].slice(-1)
  t.equal(target.searchParams.get('id_token_hint'), idToken, 'and whose login it was (§2)')
  for (const handle of [new URL(logoutUrl, gateway.url).searchParams.get('handle') ?? '', randomToken(), '', 'x'])
    t.equal(
      (await browser.navigate(`/bff/logout/continue?handle=${handle}`, { stopBefore: () => true })).headers.location,
      '/',
      'spent or made up, it leads home',
    )
  const returned = await browser.request('/?state=tampered&error=%3Cscript%3E')
  t.notMatch(returned.text, /tampered|<script/, 'what comes back with the return is not believed')
})

// A provider that hangs must not keep a user signed in who wants to leave, not even on a replica that never met it.
test('signing out takes less than 2 seconds while the provider hangs', async t => {
  const env = { REDIS_URL: redis.url, SESSION_KEYS: sealingKey }
  const fresh = await startGateway({ provider, env, providerLimits: { timeoutMs: 6000 } })
  t.teardown(fresh.close)
  t.teardown(provider.reset)
  const browsers = [await stage.loggedIn('hanna'), await stage.loggedIn('hans')]
  const hanging = provider.respond('*', 'hang')
  for (const [index, at] of [gateway, fresh].entries()) {
    const cookie = cookieOf(browsers[index] as TestBrowser)
    const startedAt = performance.now()
    const headers = { Origin: at.url, 'Sec-Fetch-Site': 'same-origin' }
    const answer = await stage.browser().api(`${at.url}/bff/logout`, { method: 'POST', headers, ...withCookie(cookie) })
    const took = performance.now() - startedAt
    t.comment(`signing out ${index === 0 ? 'with' : 'without'} metadata took ${took.toFixed(0)} ms`)
    t.equal(answer.status, 200)
    t.ok(took < 5000, `${took.toFixed(0)} ms`)
    ended(t, await stage.browser().api('/bff/user', withCookie(cookie)), 'logout')
  }
  hanging.stop()
})

/** Every endpoint that looks for a session, with a request that would succeed. */
const asked: Record<string, (browser: TestBrowser, other: TestBrowser) => Promise<BrowserResponse>> = {
  'GET /user': browser => browser.api('/bff/user'),
  'GET /user?slide=false': browser => browser.api('/bff/user?slide=false'),
  'GET /user?anonymous=200': browser => browser.api('/bff/user?anonymous=200'),
  'POST /activity': browser => post(browser, '/bff/activity'),
  'GET /sessions': browser => browser.api('/bff/sessions'),
  'DELETE /sessions': browser => remove(browser, '/bff/sessions'),
  'DELETE /sessions/{id}': (browser, other) => remove(browser, `/bff/sessions/${handleOf(other)}`),
  'GET /events': browser => browser.api('/bff/events'),
  'POST /logout': browser => post(browser, '/bff/logout'),
  'GET /api': browser => browser.api('/api/items'),
}

// An outage of the store that is taken for "no session" logs everybody out, or clears cookies of sessions that live on.
test('while the store is hanging or down every answer is 503, and the sessions are kept', async t => {
  const [browser, other] = [await stage.loggedIn('olga'), await stage.loggedIn('olga')]
  const selectors = [
    { session: handleOf(browser) },
    { sub: 'olga', iss: provider.issuer },
    { sid: 'any', iss: provider.issuer },
  ]
  const faults: Record<string, [() => unknown, () => unknown]> = {
    hanging: [redis.pause, redis.resume],
    down: [redis.down, redis.restart],
  }
  for (const [name, [fail, mend]] of Object.entries(faults)) {
    // What the store said a moment ago holds for a while.
    await sleep(confirmedForMs)
    await fail()
    const answers = Object.entries(asked).map(async ([endpoint, ask]) => [endpoint, await ask(browser, other)] as const)
    const revocations = selectors.map(selector => admin(gateway, selector))
    for (const [endpoint, answer] of await Promise.all(answers)) {
      refused(t, answer, 503, 'store_unavailable', `${name}: ${endpoint}`)
      t.match(answer.headers['retry-after'], /^\d+$/)
    }
    for (const answer of await Promise.all(revocations)) {
      t.match([answer.status, answer.headers.get('retry-after')], [503, /^\d+$/], `${name}: admin`)
      t.match(await answer.json(), { code: 'store_unavailable' })
    }
    await mend()
    t.ok(await eventually(() => alive(browser)), `${name}: the session is there when the store is back`)
    t.ok(await alive(other), `${name}: and so is the other one`)
  }
})

// The store can be read but not written: a logout that only clears the cookie leaves a live session behind.
test('what cannot be ended is not said to be ended, and a retry succeeds', async t => {
  const [browser, other, third] = [
    await stage.loggedIn('rita'),
    await stage.loggedIn('rita'),
    await stage.loggedIn('rita'),
  ]
  const cookie = cookieOf(browser)
  const { logoutUrl } = (await browser.api('/bff/user?slide=false')).json<{ session: { logoutUrl: string } }>().session
  await redis.client.config('SET', 'min-replicas-to-write', '1')
  // Activity would be written by the look at the session, and fail there already.
  const passive = { 'X-Activity': 'passive' }
  refused(t, await remove(browser, '/bff/sessions', passive), 503, 'store_unavailable', 'DELETE /sessions')
  const one = await remove(browser, `/bff/sessions/${handleOf(other)}`, passive)
  refused(t, one, 503, 'store_unavailable', 'DELETE /sessions/{id}')
  refused(t, await post(browser, '/bff/logout', passive), 503, 'store_unavailable', 'POST /logout')
  const page = await browser.navigate(logoutUrl)
  t.same([page.status, page.rawSetCookie, page.headers.location], [503, [], undefined], 'GET /logout')
  t.equal((await admin(gateway, { sub: 'rita' })).status, 503)
  await redis.client.config('SET', 'min-replicas-to-write', '0')
  t.equal(cookieOf(browser), cookie, 'the cookie was kept')
  for (const each of [browser, other, third]) t.ok(await alive(each))
  t.equal((await asked['DELETE /sessions/{id}']?.(browser, other))?.status, 204)
  t.same((await asked['DELETE /sessions']?.(browser, other))?.json(), { ended: 1 })
  t.equal((await asked['POST /logout']?.(browser, other))?.status, 200)
  for (const each of [browser, other, third]) t.notOk(await alive(each))
})

test('a user sees all sessions of his own, and what each is', async t => {
  const [here, there] = [await stage.loggedIn('lisa'), stage.browser()]
  const stranger = await stage.loggedIn('stranger')
  await login(there, gateway.url, provider, { user: 'lisa' })
  const views = await list(here)
  t.same(
    views.map(({ id, current }) => [id, current]),
    [
      [handleOf(here), true],
      [handleOf(there), false],
    ],
    'oldest first, and the one that asks is marked',
  )
  for (const view of views) {
    t.same(Object.keys(view).sort(), ['address', 'createdAt', 'current', 'id', 'lastActiveAt', 'userAgent'])
    for (const time of [view.createdAt, view.lastActiveAt]) t.equal(new Date(time).toISOString(), time)
    t.equal(view.address, '127.0.0.1')
  }
  t.same(
    (await list(stranger)).map(({ id }) => id),
    [handleOf(stranger)],
  )
})

// The handle is shown to script: it must not be the cookie, lead to it, or name the record in the store.
test('the handle of a session opens nothing, and names no key of the store', async t => {
  const browser = await stage.loggedIn('henry')
  const answer = await browser.api('/bff/sessions')
  const [view] = answer.json<{ sessions: SessionView[] }>().sessions
  const id = view?.id ?? ''
  const cookie = cookieOf(browser)
  t.notMatch(answer.text, cookie)
  t.notMatch(answer.text, sessionIdOf(cookie))
  const sids = [...provider.issued.idTokens].map(token => {
    const claims = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())
    return String(claims.sid)
  })
  for (const sid of sids) t.notMatch(answer.text, sid, "the provider's session is not told")
  const records = await stage.sessions()
  t.same(
    records.filter(key => key.includes(id)),
    [],
  )
  for (const value of [id, id.padEnd(43, 'A'), `${id}${id}${id}`.slice(0, 43)])
    refused(t, await stage.browser().api('/bff/user', withCookie(value)), 401, 'not_authenticated')
  const own = records.find(key => key.endsWith(sessionIdOf(cookie))) ?? ''
  t.not(own, '', 'the record was found')
  const names = [sessionIdOf(cookie), own, 'session', '..', '*', `${id}x`, id.toUpperCase(), ' ']
  for (const name of names)
    refused(
      t,
      await remove(browser, `/bff/sessions/${encodeURIComponent(name)}`),
      404,
      'not_found',
      `${name} is no handle`,
    )
  refused(t, await remove(browser, '/bff/sessions/'), 404, 'not_found', 'no name')
  const hidden = `/bff/sessions/${id}%2500`
  refused(t, await remove(browser, hidden), 400, 'bad_request', 'a control character behind it')
  t.ok(await alive(browser))
})

// Whoever has the cookie itself, from a log or a screen, tries it where a handle belongs.
test('a cookie is no handle of its session', async t => {
  // The address of a request is in the access log, and here the cookie is in the address.
  const still = await startStage(t, { memory: true, env: { ACCESS_LOG: 'false' } })
  const browser = await still.loggedIn('carla')
  refused(t, await remove(browser, `/bff/sessions/${cookieOf(browser)}`), 404, 'not_found')
  refused(t, await remove(browser, `/bff/sessions/${sessionIdOf(cookieOf(browser))}`), 404, 'not_found')
  t.ok(await alive(browser))
})

// Broken access control on an object id: a user ends, or probes for, the sessions of another by their handles.
test('the handle of another user is 404, and theirs lives on', async t => {
  const [attacker, victim] = [await stage.loggedIn('eve'), await stage.loggedIn('vera')]
  const foreign = await remove(attacker, `/bff/sessions/${handleOf(victim)}`)
  const madeUp = await remove(attacker, `/bff/sessions/${'A'.repeat(16)}`)
  refused(t, foreign, 404, 'not_found')
  t.equal(foreign.text, madeUp.text, 'the answer does not tell whether there is such a session')
  t.same((await remove(attacker, '/bff/sessions')).json(), { ended: 0 })
  t.ok(await alive(victim))
  t.ok(await alive(attacker))
})

test('a user ends one of his sessions, and it is revoked', async t => {
  const [here, there] = [await loggedIn(stage, 'otto'), await loggedIn(stage, 'otto')]
  const path = `/bff/sessions/${handleOf(there.browser)}`
  const done = await remove(here.browser, path)
  t.same([done.status, done.text, done.rawSetCookie], [204, '', []])
  ended(t, await there.browser.api('/bff/user'), 'ended_elsewhere')
  ended(t, await there.browser.api('/api/items'), 'ended_elsewhere')
  t.ok(await isRevoked(provider, there.refreshToken))
  refused(t, await remove(here.browser, path), 404, 'not_found', 'a second time')
  t.ok(await alive(here.browser))
  t.equal((await remove(here.browser, `/bff/sessions/${handleOf(here.browser)}`)).status, 204, 'his own as well')
  ended(t, await here.browser.api('/bff/user'), 'ended_elsewhere')
  t.ok(await isRevoked(provider, here.refreshToken))
})

test('a user ends all sessions but the one that asks, and they are revoked', async t => {
  const [own, second, third] = [
    await loggedIn(stage, 'tina'),
    await loggedIn(stage, 'tina'),
    await loggedIn(stage, 'tina'),
  ]
  const stranger = await stage.loggedIn('tom')
  t.equal((await remove(own.browser, '/bff/sessions', { 'X-CSRF': '0' })).status, 403)
  for (const { browser } of [second, third]) t.ok(await alive(browser), 'a refused request ends nothing')
  t.same((await remove(own.browser, '/bff/sessions')).json(), { ended: 2 })
  for (const { browser, refreshToken } of [second, third]) {
    ended(t, await browser.api('/bff/user'), 'ended_elsewhere')
    t.ok(await isRevoked(provider, refreshToken))
  }
  t.ok(await alive(own.browser))
  t.ok(await alive(stranger))
  t.notOk(provider.revocations().some(call => call.form.get('token') === own.refreshToken))
  t.same((await remove(own.browser, '/bff/sessions')).json(), { ended: 0 })
})

// A script that got in must find no token in what the page can read, and an anonymous caller must learn nothing.
test('the answer about the user holds the claims allowed and nothing else', async t => {
  const browser = await stage.loggedIn('clara')
  const answer = await browser.api('/bff/user?slide=false')
  const body = answer.json<{ user: object; session: { logoutUrl: string } }>()
  t.same(Object.keys(body).sort(), ['session', 'user'])
  t.same(Object.keys(body.user).sort(), ['email', 'name', 'preferred_username', 'roles', 'sub'])
  t.same(Object.keys(body.session).sort(), ['absoluteExpiresIn', 'idleExpiresIn', 'logoutUrl'])
  t.match(body.session.logoutUrl, /^\/bff\/logout\?token=[\w-]{43}$/)
  for (const secret of [cookieOf(browser), sessionIdOf(cookieOf(browser)), handleOf(browser)])
    t.notMatch(answer.text, secret)
  const strangers = [
    {},
    withCookie(randomToken()),
    withCookie('x'),
    withCookie(''),
    { cookies: [`${sessionCookie}=${cookieOf(browser)}; ${sessionCookie}=${randomToken()}`] },
  ]
  const constant = await stage.browser().api('/bff/user')
  for (const options of strangers) {
    const anonymous = await stage.browser().api('/bff/user', options)
    refused(t, anonymous, 401, 'not_authenticated')
    t.equal(anonymous.text, constant.text)
    t.equal((await stage.browser().api('/bff/user?anonymous=200', options)).text, '{"user":null}')
  }
})

// An attacker with a stolen password opens sessions without end; or a user cannot get in because of old ones.
test('with one session too many the oldest is ended and revoked, and nobody else is touched', async t => {
  const stranger = await stage.loggedIn('uwe')
  const first = await loggedIn(stage, 'max')
  const later = [await loggedIn(stage, 'max'), await loggedIn(stage, 'max')]
  for (const { browser } of [first, ...later]) t.ok(await alive(browser), 'three are allowed')
  const fourth = await loggedIn(stage, 'max')
  ended(t, await first.browser.api('/bff/user'), 'too_many')
  t.ok(await isRevoked(provider, first.refreshToken))
  for (const { browser } of [...later, fourth]) t.ok(await alive(browser))
  t.equal((await list(fourth.browser)).length, 3)
  t.ok(await alive(stranger))
  await login(fourth.browser, gateway.url, provider, { user: 'max' })
  for (const { browser } of later) t.ok(await alive(browser), 'a new login in the same browser replaces its own')
})

// Logins that run side by side each count before the others are there, and the cap is passed; or all end one another.
test('parallel logins at the cap leave exactly as many sessions as are allowed', async t => {
  const old = [await stage.loggedIn('pia'), await stage.loggedIn('pia'), await stage.loggedIn('pia')]
  const browsers = Array.from({ length: 5 }, () => stage.browser())
  const callbacks: URL[] = []
  for (const browser of browsers) callbacks.push(await stage.pendingCallback(browser, 'pia'))
  const answers = await Promise.all(browsers.map((browser, index) => stage.open(browser, callbacks[index] ?? '')))
  for (const answer of answers) t.equal(answer.status, 303)
  const living = async (of: TestBrowser[]) => (await Promise.all(of.map(alive))).filter(Boolean).length
  t.same([await living(old), await living(browsers)], [0, 3])
  const index = userIndex({ issuer: provider.issuer, subject: 'pia' })
  const members = () => redis.client.zcard(`coatcheck:{${index}}:members`)
  t.ok(await eventually(async () => (await members()) === 3), 'and the index holds no more')
})

/** Index keys of Redis that have members, of those that begin so. */
async function indexKeys(beginning: string): Promise<string[]> {
  return (await redis.keys()).filter(key => key.startsWith(`coatcheck:{${beginning}`) && key.endsWith(':members'))
}

// Entries that stay behind grow without bound, and tell who was here long after all sessions have ended.
test('the indexes follow the sessions, and are empty after the last one', async t => {
  t.equal((await admin(gateway, { sub: 'nobody' })).status, 200)
  const everybody = (await redis.keys()).filter(key => key.includes(':session:'))
  const handles = await indexKeys('handle-')
  t.equal(handles.length, everybody.length, 'one handle a live session')
  const keep = async () => ({
    handles: (await indexKeys('handle-')).length,
    users: (await indexKeys('user-')).length,
    sids: (await indexKeys('sid-')).length,
  })
  const before = await keep()
  const [first, second] = [await stage.loggedIn('ida'), await stage.loggedIn('ida')]
  const during = { handles: before.handles + 2, users: before.users + 1, sids: before.sids + 2 }
  t.same(await keep(), during)
  await post(second, '/bff/logout')
  t.ok(await eventually(async () => (await keep()).handles === before.handles + 1))
  t.same(await (await admin(gateway, { iss: provider.issuer, sub: 'ida' })).json(), { ended: 1 })
  ended(t, await first.api('/bff/user'), 'admin')
  t.ok(await eventually(async () => JSON.stringify(await keep()) === JSON.stringify(before)), 'as it was before')
  for (const user of ['victim', 'mallory', 'owner', 'bert', 'olga', 'lisa', 'stranger', 'henry', 'eve', 'vera', 'tina'])
    await admin(gateway, { sub: user })
  for (const user of ['tom', 'clara', 'uwe', 'max', 'pia']) await admin(gateway, { sub: user })
  t.ok(await eventually(async () => (await stage.sessions()).length === 0), `all have ended: ${await stage.sessions()}`)
  const members = async () => (await redis.keys()).filter(key => key.endsWith(':members'))
  t.ok(await eventually(async () => (await members()).length === 0), `no index has members: ${await members()}`)
  const tombstones = (await redis.keys()).filter(key => key.includes(':ended:'))
  t.ok(tombstones.length > 10)
  for (const key of tombstones) t.ok((await redis.client.pttl(key)) <= 86_400_000, 'and it is forgotten in a day')
})

test('what counts as activity moves the idle deadline, and what does not leaves it', async t => {
  const still = await startStage(t, { memory: true, env: { SESSION_MAX_PER_USER: '100' } })
  const idle = 1800
  const leftOf = async (browser: TestBrowser) => {
    const answer = await browser.api('/bff/user?slide=false')
    return answer.json<{ session: { idleExpiresIn: number } }>().session.idleExpiresIn
  }
  const passive = { 'X-Activity': 'passive' }
  const slides: Record<string, (browser: TestBrowser) => Promise<BrowserResponse>> = {
    'POST /activity': browser => post(browser, '/bff/activity'),
    'GET /user': browser => browser.api('/bff/user'),
    'GET /user?slide=true': browser => browser.api('/bff/user?slide=true'),
    'DELETE /sessions': browser => remove(browser, '/bff/sessions'),
    'DELETE /sessions/{unknown}': browser => remove(browser, '/bff/sessions/AAAAAAAAAAAAAAAA'),
    'GET /api': browser => browser.api('/api/items'),
  }
  const stays: Record<string, (browser: TestBrowser) => Promise<unknown>> = {
    'GET /user?slide=false': browser => browser.api('/bff/user?slide=false'),
    'GET /sessions': browser => browser.api('/bff/sessions'),
    'GET /events': async browser => (await browser.stream('/bff/events')).close(),
    'POST /activity, passive': browser => post(browser, '/bff/activity', passive),
    'GET /user, passive': browser => browser.api('/bff/user', { headers: passive }),
    'DELETE /sessions, passive': browser => remove(browser, '/bff/sessions', passive),
    'GET /api, passive': browser => browser.api('/api/items', { headers: passive }),
    'POST /activity without X-CSRF': browser => post(browser, '/bff/activity', { 'X-CSRF': '' }),
    'GET /user from another site': browser => browser.api('/bff/user', { headers: { 'Sec-Fetch-Site': 'same-site' } }),
    'GET /api without X-CSRF': browser => browser.api('/api/items', { headers: { 'X-CSRF': '' } }),
    'GET /activity': browser => browser.api('/bff/activity'),
    'HEAD /user': browser => browser.api('/bff/user', { method: 'HEAD' }),
    'OPTIONS /user': browser => browser.api('/bff/user', { method: 'OPTIONS' }),
    'GET /logout': browser => browser.navigate('/bff/logout'),
    'GET /login': browser => browser.navigate('/bff/login', { stopBefore: () => true }),
  }
  const user = (index: number) => `user-${index}`
  for (const [index, [name, ask]] of Object.entries(slides).entries()) {
    const browser = await loggedInLater(still, user(index))
    still.clock.advance(200_000)
    t.equal(await leftOf(browser), idle - 200, `${name}: before`)
    await ask(browser)
    t.equal(await leftOf(browser), idle, name)
  }
  for (const [index, [name, ask]] of Object.entries(stays).entries()) {
    const browser = await loggedInLater(still, user(100 + index))
    still.clock.advance(200_000)
    await ask(browser)
    t.equal(await leftOf(browser), idle - 200, name)
  }
  const activity = await post(await loggedInLater(still, 'last'), '/bff/activity')
  t.same([activity.status, activity.text, activity.rawSetCookie], [204, '', []])
})

// A page that polls in the background, or an attacker's refused requests, keep an abandoned session alive.
test('a session that is only looked at ends at its idle deadline, and its token is revoked', async t => {
  const still = await startStage(t, { memory: true })
  const { browser, refreshToken } = await loggedIn(still, 'ines')
  for (let minutes = 0; minutes < 29; minutes += 1) {
    still.clock.advance(60_000)
    t.equal((await browser.api('/bff/user?slide=false')).status, 200, `after ${minutes + 1} minutes`)
    await browser.api('/bff/sessions')
    await post(browser, '/bff/activity', { 'X-CSRF': '' })
  }
  still.clock.advance(61_000)
  ended(t, await browser.api('/bff/user'), 'idle')
  t.ok(await isRevoked(still.provider, refreshToken))
})

/** A provider that gives no refresh token, as one does without `offline_access`. */
const withoutRefreshToken = (at: TestProvider) => {
  at.tamper.tokenResponse = ({ refresh_token: _, ...rest }) => rest
}

// A session whose tokens cannot be renewed would go on as a login that no API accepts.
test('without a refresh token a session lasts exactly as long as its access token', async t => {
  const still = await startStage(t, { memory: true, provider: { lifetimes: { accessToken: 120 } } })
  withoutRefreshToken(still.provider)
  const browser = await still.loggedIn('gina')
  const stream = await browser.stream('/bff/events')
  still.clock.advance(114_000)
  for (let count = 0; count < 3; count += 1) {
    t.equal((await browser.api('/api/items')).status, 200, 'a second before')
    t.ok(await alive(browser))
  }
  const calls = still.upstream.requests.length
  still.clock.advance(1000)
  ended(t, await browser.api('/api/items'), 'tokens_expired')
  t.equal(still.upstream.requests.length, calls, 'the upstream hears nothing')
  ended(t, await browser.api('/bff/user'), 'tokens_expired')
  await stream.waitFor(/event: ended\ndata: {"reason":"tokens_expired"}/)
  t.equal(still.provider.tokenCalls('refresh_token').length, 0)
})

test('for a day an ended session is told from one that never was, with the reason', async t => {
  const still = await startStage(t, { memory: true, env: { ADMIN_TOKEN: adminToken, SESSION_MAX_PER_USER: '2' } })
  const pass = async (browser: TestBrowser, hours: number) => {
    for (let quarters = 0; quarters < hours * 4; quarters += 1) {
      t.equal((await post(browser, '/bff/activity')).status, 204)
      still.clock.advance(900_000)
    }
  }
  const callLater = (browser: TestBrowser) => {
    still.clock.advance(300_000)
    return browser.api('/api/items')
  }
  const endings: Record<EndReason, (browser: TestBrowser, user: string) => Promise<unknown>> = {
    idle: async () => still.clock.advance(1_800_000),
    absolute: browser => pass(browser, 12),
    tokens_expired: browser => callLater(browser),
    refresh_token_dead: async browser => {
      still.provider.respond('token', { status: 400, body: { error: 'invalid_grant' } })
      await callLater(browser)
    },
    rotation_lost: async browser => {
      still.provider.respond('token', 'reset', { when: 'after', times: 1 })
      await callLater(browser)
    },
    identity_changed: async browser => {
      still.provider.tamper.idToken = claims({ sub: 'somebody-else' })
      await callLater(browser)
    },
    logout: browser => post(browser, '/bff/logout'),
    ended_elsewhere: async (_browser, user) => remove(await loggedInLater(still, user), '/bff/sessions'),
    too_many: async (_browser, user) => [await loggedInLater(still, user), await loggedInLater(still, user)],
    replaced: (browser, user) => login(browser, still.gateway.url, still.provider, { user }),
    admin: (_browser, user) => admin(still.gateway, { sub: user }),
    backchannel_logout: (browser, user) => {
      still.clock.advance(2000)
      return sendLogoutToken(browser, still.provider.logoutToken({ sub: user }))
    },
    frontchannel_logout: browser => {
      const { iss, sid } = lastIdToken(still.provider)
      return browser.get(`/bff/frontchannel?${new URLSearchParams({ iss: String(iss), sid: String(sid) })}`)
    },
  }
  t.same(Object.keys(endings).sort(), [...endReasons].sort(), 'every reason there is')
  const sentences = new Set<unknown>()
  for (const reason of endReasons) {
    if (reason === 'tokens_expired') withoutRefreshToken(still.provider)
    const browser = await loggedInLater(still, `ended-${reason}`)
    const cookie = cookieOf(browser)
    t.ok(await alive(browser))
    await endings[reason](browser, `ended-${reason}`)
    still.provider.reset()
    const replay = still.browser()
    const ask = (path: string) => replay.api(path, withCookie(cookie))
    for (const path of ['/bff/user', '/bff/sessions', '/bff/events', '/api/items']) ended(t, await ask(path), reason)
    t.same((await ask('/bff/user?anonymous=200')).json(), { user: null })
    sentences.add((await ask('/bff/user')).json().detail)
    still.clock.advance(86_400_000 - 1)
    ended(t, await ask('/bff/user'), reason, `${reason}: a day later`)
    still.clock.advance(2)
    const forgotten = await ask('/bff/user')
    refused(t, forgotten, 401, 'not_authenticated', `${reason}: after a day`)
    t.equal(forgotten.json().reason, undefined)
    const random = await replay.api('/bff/user', withCookie(randomToken()))
    refused(t, random, 401, 'not_authenticated', 'a cookie that never was')
    t.equal(random.text, forgotten.text)
  }
  t.equal(sentences.size, endReasons.length, 'a sentence for each')
})

// A user signs out on one machine while another replica goes on serving the stolen cookie from its own memory.
test('a session that has ended is refused by every replica within a second', async t => {
  const [op, server] = await Promise.all([startProvider(), startRedis()])
  const env = { ADMIN_TOKEN: adminToken, SESSION_MAX_PER_USER: '2' }
  const replicas = await startReplicas(3, { provider: op, redis: server, env })
  const side = await startStage(t, { memory: true })
  t.teardown(async () => {
    await replicas.stop()
    await Promise.all([op.close(), server.stop()])
  })
  const [first, second, third] = replicas.all as [Replica, Replica, Replica]
  const enter = async (user: string, browser = side.browser()) => {
    await login(browser, first.url, op, { user })
    return browser
  }
  const at = (replica: Replica, browser: TestBrowser, method: string, path: string, cookie = cookieOf(browser)) => {
    const headers = { Origin: first.url, 'Sec-Fetch-Site': 'same-origin' }
    return browser.api(`${replica.url}/bff/${path}`, { method, headers, ...withCookie(cookie) })
  }
  const endings: Partial<Record<EndReason, (browser: TestBrowser, user: string) => Promise<unknown>>> = {
    logout: browser => at(second, browser, 'POST', 'logout'),
    ended_elsewhere: async (_browser, user) => {
      const other = await enter(user)
      return () => at(third, other, 'DELETE', 'sessions')
    },
    admin: () => admin(second, { sub: 'cut-admin' }),
    replaced: (browser, user) => enter(user, browser),
    too_many: async (_browser, user) => {
      await enter(user)
      return () => enter(user)
    },
  }
  for (const [reason, end] of Object.entries(endings) as [EndReason, NonNullable<(typeof endings)[EndReason]>][]) {
    const user = `cut-${reason}`
    const browser = await enter(user)
    const cookie = cookieOf(browser)
    const refreshToken = [...op.issued.refreshTokens].at(-1) ?? ''
    for (const replica of replicas.all)
      t.equal((await at(replica, browser, 'GET', 'user')).status, 200, 'every replica has served it')
    let startedAt = performance.now()
    const prepared = await end(browser, user)
    if (typeof prepared === 'function') {
      startedAt = performance.now()
      await prepared()
    }
    const endedAt = performance.now()
    const looks = replicas.all.map(async replica => {
      const look = () => at(replica, side.browser(), 'GET', 'user?slide=false', cookie)
      const { answer, lastServedMs } = await untilRefused(look)
      ended(t, answer, reason, `${reason} at ${replica.url}`)
      return lastServedMs
    })
    const delays = await Promise.all(looks)
    t.comment(
      `${reason}: ended in ${(endedAt - startedAt).toFixed(0)} ms, served for ${delays.map(ms => ms.toFixed(0)).join(', ')} ms more`,
    )
    for (const delay of delays) t.ok(delay < 1000)
    t.ok(await isRevoked(op, refreshToken), `${reason}: revoked`)
    const session = sessionHandle(sessionIdOf(cookie))
    const audits = () => replicas.events('session_ended').filter(event => event.session === session)
    t.ok(await eventually(() => audits().length > 0))
    t.match(audits(), [{ reason }], `${reason}: one audit record in all`)
    t.equal(audits().length, 1)
  }
})
