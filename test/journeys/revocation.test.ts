import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Test, test } from 'tap'
import { sessionHandle, sessionIdOf } from '../../src/core/session.ts'
import { createBrowser, type TestBrowser } from '../support/browser.ts'
import { createClock } from '../support/clock.ts'
import { eventually } from '../support/eventually.ts'
import { type GatewayOptions, startGateway } from '../support/gateway.ts'
import { createPlanter } from '../support/planted.ts'
import { type Answer, type ProviderOptions, startProvider } from '../support/provider.ts'
import { startRedis } from '../support/redis.ts'
import { startReplicas } from '../support/replicas.ts'
import { login, sessionCookie } from '../support/stage.ts'
import { startEvil, startUpstream } from '../support/upstream.ts'

const adminToken = 'admin-token-of-thirty-two-letters'

interface SetUp {
  env?: Record<string, string>
  provider?: ProviderOptions
  limits?: GatewayOptions['providerLimits']
}

/** A gateway that goes by a manual clock, with its sessions in memory. */
async function setUp(t: Test, { env = {}, provider: providerOptions = {}, limits }: SetUp = {}) {
  const clock = createClock()
  const provider = await startProvider({ clock, ...providerOptions })
  const upstream = await startUpstream()
  const gateway = await startGateway({
    provider,
    clock,
    upstreams: { '/api': upstream.url },
    env: { ADMIN_TOKEN: adminToken, ...env },
    ...(limits && { providerLimits: limits }),
  })
  t.teardown(async () => {
    await gateway.close()
    await Promise.all([provider.close(), upstream.close()])
  })

  /** A user who has logged in, and the refresh token that came of it. */
  const user = async (name = 'alice', browser: TestBrowser = createBrowser({ origin: gateway.url })) => {
    const before = new Set(provider.issued.refreshTokens)
    await login(browser, gateway.url, provider, { user: name })
    const cookie = browser.jar.get(sessionCookie) ?? ''
    const [token = ''] = [...provider.issued.refreshTokens].filter(issued => !before.has(issued))
    if (cookie === '' || token === '') throw new Error(`${name} could not log in`)
    const handle = sessionHandle(sessionIdOf(cookie))
    const outcomes = () =>
      gateway
        .events('revocation')
        .filter(event => event.session === handle)
        .map(event => event.outcome)
    return { browser, cookie, token, handle, outcomes }
  }
  /** Lets time pass, with a margin for jitter, and lets the gateway do what became due. */
  const pass = async (ms: number) => {
    clock.advance(ms + 300)
    await sleep(150)
  }
  const asked = (token: string) => provider.revocations().filter(({ form }) => form.get('token') === token).length
  const dead = async (cookie: string) => {
    const cookies = [`${sessionCookie}=${cookie}`]
    const answer = await createBrowser({ origin: gateway.url }).api('/bff/user', { cookies })
    return answer.status === 401
  }
  const admin = async (selector: object) => {
    const response = await fetch(`${gateway.internalUrl}/admin/revoke`, {
      method: 'POST',
      headers: { authorization: `Bearer ${adminToken}`, 'content-type': 'application/json' },
      body: JSON.stringify(selector),
    })
    return (await response.json()) as { ended: number }
  }
  return { clock, provider, gateway, upstream, user, pass, asked, dead, admin }
}

type Journey = Awaited<ReturnType<typeof setUp>>

const logOut = (browser: TestBrowser) => browser.api('/bff/logout', { method: 'POST' })

test('however a session ends, its refresh token is revoked, once, and the record says why', async t => {
  const scene = await setUp(t, {
    env: { SESSION_MAX_PER_USER: '2', SESSION_IDLE_TIMEOUT: '10m', SESSION_ABSOLUTE_TIMEOUT: '20m' },
    provider: { lifetimes: { accessToken: 3600 } },
  })
  const { clock, provider, gateway, user, asked, dead, admin, pass } = scene
  const check = async (reason: string, { token, handle, cookie }: Awaited<ReturnType<Journey['user']>>) => {
    t.ok(await eventually(() => asked(token) === 1), `${reason}: revoked`)
    t.ok(await eventually(() => gateway.events('revocation').some(event => event.session === handle)))
    t.match(
      gateway.events().filter(event => event.session === handle && event.event !== 'login_succeeded'),
      [
        { event: 'session_ended', reason },
        { event: 'revocation', reason, outcome: 'revoked', attempts: 1 },
      ],
    )
    t.ok(await dead(cookie), `${reason}: dead`)
  }
  const byScript = await user('a')
  await logOut(byScript.browser)
  await check('logout', byScript)

  const byLink = await user('b')
  const { session } = (await byLink.browser.api('/bff/user')).json() as { session: { logoutUrl: string } }
  await byLink.browser.navigate(session.logoutUrl, { stopBefore: () => true })
  await check('logout', byLink)

  const [kept, other] = [await user('c'), await user('c')]
  await kept.browser.api('/bff/sessions', { method: 'DELETE' })
  await check('ended_elsewhere', other)
  const third = await user('c')
  await kept.browser.api(`/bff/sessions/${third.handle}`, { method: 'DELETE' })
  await check('ended_elsewhere', third)
  t.equal(asked(kept.token), 0, 'the session that did it is left alone')

  const [first, second, newest] = [await user('d'), await user('d'), await user('d')]
  await check('too_many', first)
  t.same([asked(second.token), asked(newest.token)], [0, 0])

  const ended = await user('e')
  t.same(await admin({ sub: 'e' }), { ended: 1 })
  await check('admin', ended)

  const old = await user('f')
  const replacement = await user('g', old.browser)
  await check('replaced', old)
  t.equal(asked(replacement.token), 0)

  const known = new Set(provider.issued.refreshTokens)
  const visitor = createBrowser({ origin: gateway.url })
  provider.tamper.idToken = draft => draft.sign(draft.header, { ...draft.payload, nonce: 'another' })
  await login(visitor, gateway.url, provider, { user: 'h' })
  provider.reset()
  t.equal(visitor.jar.get(sessionCookie), undefined)
  const [orphan = ''] = [...provider.issued.refreshTokens].filter(token => !known.has(token))
  t.ok(orphan)
  t.ok(await eventually(() => asked(orphan) === 1), 'a login that failed after its code was redeemed')
  t.ok(await eventually(() => gateway.events('revocation').some(event => event.reason === 'login_failed')))

  const [idle, busy] = [await user('i'), await user('j')]
  for (const [minutes, reason, whose] of [
    [9, null, null],
    [2, 'idle', idle],
    [8, null, null],
    [2, 'absolute', busy],
  ] as const) {
    await busy.browser.api('/bff/user')
    clock.advance(minutes * 60_000)
    await pass(0)
    if (reason !== null) await check(reason, whose)
  }
  t.ok(await eventually(() => provider.revocations().length === provider.issued.refreshTokens.size), 'none is left')
  const counts = [...provider.issued.refreshTokens].map(asked)
  t.same(new Set(counts), new Set([1]))
  t.same(provider.errors, [])
})

test('a session whose refresh token is refused is revoked, too', async t => {
  const { clock, provider, user, asked } = await setUp(t)
  const alice = await user()
  clock.advance(300_000)
  const headers = { 'content-type': 'application/json' }
  provider.respond('token', { status: 400, headers, body: '{"error":"invalid_grant"}' })
  t.match((await alice.browser.api('/api/items')).json(), { code: 'session_expired' })
  t.ok(await eventually(() => asked(alice.token) === 1))
})

test('the call is authenticated, names the token type and goes where the metadata says', async t => {
  const { provider, user } = await setUp(t)
  const alice = await user()
  await logOut(alice.browser)
  t.ok(await eventually(() => alice.outcomes().length === 1))
  t.match(provider.revocations(), [{ method: 'POST', path: '/token/revocation', answered: 200 }])
  t.same(Object.fromEntries(provider.revocations()[0]?.form ?? []), {
    token: alice.token,
    token_type_hint: 'refresh_token',
    client_id: provider.clientId,
    client_secret: provider.clientSecret,
  })
  const grant = { grant_type: 'refresh_token', refresh_token: alice.token, client_id: provider.clientId }
  const refresh = await fetch(`${provider.issuer}/token`, {
    method: 'POST',
    body: new URLSearchParams({ ...grant, client_secret: provider.clientSecret }),
  })
  t.match([refresh.status, await refresh.json()], [400, { error: 'invalid_grant' }], 'a thief has nothing of it')
})

// The provider hangs while people go home. A logout that waits for it looks broken and is closed, with the session alive.
test('while the provider hangs, a logout is answered and the cookie dead at once, and the token is revoked later', async t => {
  const { provider, user, dead, asked, pass } = await setUp(t, { limits: { timeoutMs: 3000 } })
  const people: Awaited<ReturnType<Journey['user']>>[] = []
  for (let count = 0; count < 20; count += 1) people.push(await user(`user-${count}`))
  const byLink = people[0] ?? (await user())
  const { session } = (await byLink.browser.api('/bff/user')).json() as { session: { logoutUrl: string } }
  provider.respond('*', 'hang')
  const startedAt = performance.now()
  const answers = await Promise.all(
    people.map(({ browser }, index) => (index === 0 ? browser.api(session.logoutUrl) : logOut(browser))),
  )
  const tookMs = Math.round(performance.now() - startedAt)
  // Had they waited for the provider, the last ones would have done so twice: sixteen calls are made at a time.
  t.ok(tookMs < 5000, `20 logouts took ${tookMs} ms`)
  t.same(
    answers.map(({ status }) => status),
    answers.map((_, index) => (index === 0 ? 302 : 200)),
  )
  for (const { cookie, browser } of people) {
    t.ok(await dead(cookie))
    t.equal(browser.jar.get(sessionCookie), undefined)
  }
  // Sixteen calls at a time, so the last wait for the first to be given up.
  t.ok(
    await eventually(async () => {
      await pass(0)
      return people.every(person => person.outcomes()[0] === 'pending')
    }),
  )
  provider.reset()
  t.ok(
    await eventually(async () => {
      // In small steps: a claim whose call is under way must not run out.
      await pass(700)
      return people.every(person => person.outcomes().at(-1) === 'revoked')
    }),
  )
  for (const person of people) {
    t.same(person.outcomes(), ['pending', 'revoked'])
    t.ok(asked(person.token) >= 2)
  }
})

// An hour after the metadata was read it would be read again, and that call hangs as well.
test('a logout does not wait for metadata that is due to be read again', async t => {
  const { clock, provider, user, dead } = await setUp(t, {
    env: { SESSION_IDLE_TIMEOUT: '3h' },
    limits: { timeoutMs: 6000 },
  })
  const alice = await user()
  clock.advance(2 * 3_600_000)
  provider.respond('*', 'hang')
  const startedAt = performance.now()
  const answer = await logOut(alice.browser)
  const tookMs = Math.round(performance.now() - startedAt)
  t.equal(answer.status, 200)
  t.ok(tookMs < 5000, `it took ${tookMs} ms`)
  t.ok(await dead(alice.cookie))
  provider.reset()
})

// A replica that was started while the provider hangs has never seen its metadata.
test('a logout does not wait for metadata that cannot be read at all', async t => {
  const [provider, redis] = [await startProvider(), await startRedis()]
  const env = { REDIS_URL: redis.url, SESSION_KEYS: randomBytes(32).toString('base64') }
  const first = await startGateway({ provider, env })
  t.teardown(async () => {
    await first.close()
    await Promise.all([provider.close(), redis.stop()])
  })
  const browser = createBrowser({ origin: first.url })
  await login(browser, first.url, provider, { user: 'alice' })
  provider.respond('*', 'hang')
  const late = await startGateway({ provider, env, providerLimits: { timeoutMs: 6000 } })
  t.teardown(async () => {
    provider.reset()
    await late.close()
  })
  const startedAt = performance.now()
  const headers = { 'x-csrf': '1', cookie: `${sessionCookie}=${browser.jar.get(sessionCookie)}` }
  const answer = await fetch(`${late.url}/bff/logout`, { method: 'POST', headers })
  const tookMs = Math.round(performance.now() - startedAt)
  t.equal(answer.status, 200)
  t.ok(tookMs < 5000, `it took ${tookMs} ms`)
  t.equal((await browser.api('/bff/user')).status, 401)
})

test('a provider that is busy is left alone for as long as it asks for', async t => {
  const { provider, user, asked, pass } = await setUp(t)
  const alice = await user()
  provider.respond('revocation', { status: 503, headers: { 'retry-after': '120' } }, { times: 1 })
  await logOut(alice.browser)
  t.ok(await eventually(() => alice.outcomes().length === 1))
  await pass(60_000)
  t.equal(asked(alice.token), 1)
  await pass(59_000)
  t.equal(asked(alice.token), 1, 'not a second early')
  await pass(1000)
  t.ok(await eventually(() => asked(alice.token) === 2))
  t.ok(await eventually(() => alice.outcomes().length === 2))
  t.same(alice.outcomes(), ['pending', 'revoked'])
})

for (const [name, answer] of Object.entries<Answer>({
  'is overloaded': { status: 503 },
  'breaks connections': 'reset',
  'does not know the client': { status: 400, body: { error: 'invalid_client' } },
  'refuses the client': { status: 401, body: { error: 'invalid_client' } },
  'answers nonsense': { status: 418, body: 'no' },
  'limits the rate': { status: 429 },
}))
  test(`a token stays queued while the provider ${name}, and is revoked when it does no longer`, async t => {
    const { provider, user, dead, asked, pass } = await setUp(t)
    const alice = await user()
    const scripted = provider.respond('revocation', answer)
    await logOut(alice.browser)
    t.ok(await dead(alice.cookie))
    t.ok(await eventually(() => asked(alice.token) === 1))
    await sleep(200)
    t.equal(asked(alice.token), 1, 'no second try at once')
    const isAnswered = () => provider.revocations().every(({ answered }) => answered !== undefined)
    for (let step = 0; step < 12; step += 1) {
      await pass(5000)
      t.ok(await eventually(isAnswered))
    }
    const tries = asked(alice.token)
    t.ok(tries >= 4 && tries <= 8, `${tries} tries in the first minute`)
    t.same(alice.outcomes(), ['pending'], 'it is said once that it is still to be done')
    scripted.stop()
    t.ok(
      await eventually(async () => {
        // In small steps: a claim whose call is under way must not run out.
        if (isAnswered()) await pass(5000)
        return alice.outcomes().length === 2
      }),
    )
    t.same(alice.outcomes(), ['pending', 'revoked'])
    const calls = provider.revocations().length
    await pass(86_400_000)
    t.equal(provider.revocations().length, calls, 'and that was that')
  })

test('a client secret that was changed too early delays revocations and loses none', async t => {
  const { provider, user, pass } = await setUp(t)
  const [alice, bob] = [await user('alice'), await user('bob')]
  const clientSecret = provider.clientSecret
  await provider.configureClient({ clientSecret: 'another-one' })
  await Promise.all([logOut(alice.browser), logOut(bob.browser)])
  t.ok(await eventually(() => alice.outcomes().length + bob.outcomes().length === 2))
  t.same(
    provider.revocations().map(({ answered }) => answered),
    [401, 401],
  )
  await provider.configureClient({ clientSecret })
  await pass(5000)
  t.ok(await eventually(() => alice.outcomes().length + bob.outcomes().length === 4))
  t.same(
    [alice.outcomes(), bob.outcomes()],
    [
      ['pending', 'revoked'],
      ['pending', 'revoked'],
    ],
  )
})

test('a provider that does not revoke refresh tokens is asked once a session, and the record says so', async t => {
  const { provider, user, pass, dead } = await setUp(t)
  provider.respond('revocation', { status: 400, body: { error: 'unsupported_token_type' } })
  const [alice, bob] = [await user('alice'), await user('bob')]
  await Promise.all([logOut(alice.browser), logOut(bob.browser)])
  t.ok(await eventually(() => alice.outcomes().length + bob.outcomes().length === 2))
  await pass(86_400_000)
  t.same([alice.outcomes(), bob.outcomes()], [['not_supported'], ['not_supported']])
  t.equal(provider.revocations().length, 2)
  t.ok(await dead(alice.cookie))
})

test('a token that the provider has never heard of, or has revoked itself, counts as revoked', async t => {
  const { provider, user } = await setUp(t)
  const alice = await user()
  const form = { token: alice.token, client_id: provider.clientId, client_secret: provider.clientSecret }
  await fetch(`${provider.issuer}/token/revocation`, { method: 'POST', body: new URLSearchParams(form) })
  await logOut(alice.browser)
  t.ok(await eventually(() => alice.outcomes().length === 1))
  t.same(alice.outcomes(), ['revoked'])
  t.equal(provider.revocations().length, 2)
})

test('after a day without success a token is given up, and the record says so', async t => {
  const { provider, user, pass, asked } = await setUp(t)
  const alice = await user()
  const scripted = provider.respond('revocation', 'reset')
  await logOut(alice.browser)
  t.ok(await eventually(() => alice.outcomes().length === 1))
  await pass(86_400_000)
  t.ok(await eventually(() => alice.outcomes().length === 2))
  t.same(alice.outcomes(), ['pending', 'gave_up'])
  scripted.stop()
  const calls = asked(alice.token)
  await pass(86_400_000)
  t.equal(asked(alice.token), calls)
})

// Whoever can bend an answer of the provider sends the gateway, with its client secret and the token, to his own server.
test('a revocation follows no redirect', async t => {
  const { provider, user, pass } = await setUp(t)
  const evil = await startEvil()
  t.teardown(evil.close)
  const alice = await user()
  const scripted = provider.respond('revocation', { status: 307, headers: { location: `${evil.url}/revoke` } })
  await logOut(alice.browser)
  t.ok(await eventually(() => alice.outcomes().length === 1))
  t.same([alice.outcomes(), evil.connections], [['pending'], 0])
  scripted.stop()
  await pass(5000)
  t.ok(await eventually(() => alice.outcomes().at(-1) === 'revoked'))
  t.equal(evil.connections, 0)
})

// Metadata that was tampered with on its way names an address without TLS.
test('a revocation endpoint without TLS on a foreign host is not believed, nor the metadata that names it', async t => {
  const { provider, gateway } = await setUp(t)
  provider.tamper.discovery = metadata => ({ ...metadata, revocation_endpoint: 'http://revoke.example.test/revoke' })
  const visitor = createBrowser({ origin: gateway.url })
  const answer = await visitor.navigate('/bff/login', { stopBefore: () => true })
  t.equal(answer.status, 503)
  t.equal((await fetch(`${gateway.internalUrl}/readyz`)).status, 503)
})

test('at a provider without revocation sessions end on time, each with one honest record, and nothing piles up', async t => {
  const [provider, redis, sessionKey] = [await startProvider(), await startRedis(), randomBytes(32)]
  provider.tamper.discovery = ({ revocation_endpoint: _, ...metadata }) => metadata
  const gateway = await startGateway({
    provider,
    env: { REDIS_URL: redis.url, SESSION_KEYS: sessionKey.toString('base64'), SESSION_IDLE_TIMEOUT: '3s' },
  })
  const planter = await createPlanter({
    redis,
    provider,
    sessionKey,
    lifetimes: { idleTimeout: 3, absoluteTimeout: 43_200 },
  })
  t.teardown(async () => {
    await Promise.all([gateway.close(), planter.close()])
    await Promise.all([provider.close(), redis.stop()])
  })
  const sessions = await planter.plant(30)
  const ids = sessions.map(({ id }) => id)
  const deadlines = await planter.deadlines(ids)
  t.ok(await eventually(async () => (await planter.whereabouts(ids)).every(({ stored, queued }) => !stored && !queued)))
  t.notOk(deadlines.includes(0), 'they were to come')
  const late = (await planter.endedAt(ids)).map((end, index) => end - (deadlines[index] ?? 0)).sort((a, b) => a - b)
  t.comment(`p90 ${Math.round(late[26] ?? 0)} ms late, at most ${Math.round(late[29] ?? 0)}`)
  t.ok(Number(late[26]) < 1000 && Number(late[29]) < 5000, 'nearly all within a second')
  await sleep(500)
  const records = gateway.events('revocation')
  t.equal(records.length, 30)
  t.same(new Set(records.map(({ session }) => session)), new Set(ids.map(sessionHandle)))
  t.same(new Set(records.map(({ outcome }) => outcome)), new Set(['not_supported']))
  t.equal(provider.revocations().length, 0)
  t.same(
    (await redis.keys()).filter(key => key.includes('outbox')),
    [],
  )
})

// Everything goes down at once while the provider is away: replica, Redis, and with them whatever was only in memory.
test('what waits for a provider that is away survives the death of the replica and of Redis, sealed', async t => {
  const dir = mkdtempSync(join(tmpdir(), 'coatcheck-'))
  const [provider, redis, sessionKey] = [await startProvider(), await startRedis({ dir }), randomBytes(32)]
  const env = { SESSION_KEYS: sessionKey.toString('base64'), SESSION_IDLE_TIMEOUT: '1s' }
  const replicas = await startReplicas(1, { provider, redis, env })
  const planter = await createPlanter({
    redis,
    provider,
    sessionKey,
    lifetimes: { idleTimeout: 1, absoluteTimeout: 43_200 },
  })
  t.teardown(async () => {
    await Promise.all([replicas.stop(), planter.close()])
    await Promise.all([provider.close(), redis.stop()])
    rmSync(dir, { recursive: true })
  })
  const scripted = provider.respond('revocation', { status: 503 })
  const sessions = await planter.plant(10)
  const pending = () => replicas.events('revocation').filter(({ outcome }) => outcome === 'pending').length
  t.ok(await eventually(() => pending() === 10))
  // Mostly settled by then: what is not yet is claimed by the dead for half a minute.
  await sleep(200)
  await replicas.all[0]?.stop('SIGKILL')
  await redis.restart({ crash: true })
  const text = (await redis.dump()).toString('latin1')
  t.same(
    sessions.filter(({ refreshToken }) => text.includes(refreshToken)),
    [],
  )
  t.match(text, /outbox/)
  scripted.stop()
  provider.clear()
  await replicas.restart(0)
  const asked = () => new Set(provider.revocations().map(({ form }) => form.get('token')))
  t.ok(await eventually(() => asked().size === 10, 45_000))
  t.ok(await eventually(async () => (await planter.queueLength()) === 0))
  t.equal(provider.revocations().length, 10, 'each once more')
  t.same(
    new Set(replicas.events('revocation').map(({ outcome }) => outcome)),
    new Set(['revoked']),
    'and that it had been pending is not said again',
  )
})

// An administrator ends all sessions of a stolen account, just as the thief's next login is on its way: what was asked
// for before must not come to life after.
for (const held of ['token', 'userinfo'] as const)
  test(`a login whose ${held} answer was on its way when the user was shut out opens nothing, and its token is revoked`, async t => {
    const [provider, redis] = [await startProvider(), await startRedis()]
    const env = {
      REDIS_URL: redis.url,
      SESSION_KEYS: randomBytes(32).toString('base64'),
      ADMIN_TOKEN: adminToken,
      OIDC_USERINFO: 'always',
    }
    const [gateway, other] = [await startGateway({ provider, env }), await startGateway({ provider, env })]
    t.teardown(async () => {
      await Promise.all([gateway.close(), other.close()])
      await Promise.all([provider.close(), redis.stop()])
    })
    const shutOut = async () => {
      const response = await fetch(`${other.internalUrl}/admin/revoke`, {
        method: 'POST',
        headers: { authorization: `Bearer ${adminToken}`, 'content-type': 'application/json' },
        body: JSON.stringify({ sub: 'alice' }),
      })
      return response.json()
    }
    const present = createBrowser({ origin: gateway.url })
    await login(present, gateway.url, provider, { user: 'alice' })
    const known = new Set(provider.issued.refreshTokens)

    let release = () => {}
    const gate = new Promise<void>(resolve => {
      release = resolve
    })
    const scripted = provider.respond(held, () => gate.then(() => 'pass' as const), { when: 'after' })
    const thief = createBrowser({ origin: gateway.url })
    const entering = login(thief, gateway.url, provider, { user: 'alice' })
    t.ok(await eventually(() => scripted.calls === 1))
    t.same(await shutOut(), { ended: 1 }, 'the session that was there')
    release()
    const page = await entering
    scripted.stop()
    t.equal(thief.jar.get(sessionCookie), undefined)
    t.notMatch(page.chain.flatMap(answer => answer.rawSetCookie).join('\n'), `${sessionCookie}=\\w`)
    t.ok(page.status >= 400 && page.status < 500, `status ${page.status}`)
    t.same(
      (await redis.keys()).filter(key => key.includes(':session:')),
      [],
    )
    const fresh = [...provider.issued.refreshTokens].filter(token => !known.has(token))
    t.equal(fresh.length, 1, 'the login had got its token')
    const asked = () => provider.revocations().map(({ form }) => form.get('token'))
    t.ok(await eventually(() => asked().length === 2))
    t.same(new Set(asked()), new Set([...known, ...fresh]))
    t.equal((await present.api('/bff/user')).status, 401)
    t.equal(gateway.events('login_succeeded').length, 1, 'the first')

    await login(thief, gateway.url, provider, { user: 'alice' })
    t.ok(thief.jar.get(sessionCookie), 'a login that begins afterwards is not affected')
  })
