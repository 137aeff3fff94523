import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { decodeJwt, decodeProtectedHeader, SignJWT } from 'jose'
import { type Test, test } from 'tap'
import { createBrowser, type TestBrowser } from '../support/browser.ts'
import { type ClientKeyPair, createClientKeys, createSecretFiles } from '../support/client-keys.ts'
import { eventually } from '../support/eventually.ts'
import type { ProviderRequest } from '../support/provider.ts'
import { login, type Stage, type StageOptions, sessionCookie, startStage } from '../support/stage.ts'
import { startUpstream } from '../support/upstream.ts'

/** Of access tokens at the provider, in seconds. */
const lifetime = 300

/** A stage whose client authenticates as this environment says, with an API that needs a token of its own. */
async function setUp(t: Test, env: Record<string, string>, provider: StageOptions['provider'] = {}) {
  const orders = await startUpstream()
  orders.respond = (_request, res) => void res.end('{}')
  t.teardown(() => orders.close())
  const stage = await startStage(t, {
    provider,
    env: {
      UPSTREAM_ORDERS_PATH: '/orders',
      UPSTREAM_ORDERS_URL: orders.url,
      UPSTREAM_ORDERS_SCOPE: 'api:read',
      ...env,
    },
  })
  const readiness = async () => (await createBrowser().get(`${stage.gateway.internalUrl}/readyz`)).status
  return { ...stage, readiness, later: (seconds: number) => stage.clock.advance(seconds * 1000) }
}

const authenticated = ({ provider }: Stage) => [...provider.tokenCalls(), ...provider.revocations()]
const assertionOf = (call: ProviderRequest | undefined) => call?.form.get('client_assertion') ?? ''

/** Login, refresh and logout; before each call of the provider there is a moment to change something. */
async function liveThrough(t: Test, stage: Stage, before: () => unknown = () => {}) {
  const { provider, gateway } = stage
  // The provider goes by the machine's clock, also for assertions.
  const next = async () => {
    stage.clock.set(Math.max(Date.now(), stage.clock.now() + 1000))
    await before()
  }
  await next()
  const browser = await stage.loggedIn('alice')
  await next()
  t.equal((await browser.api('/orders/a')).status, 200, 'a token of its own is had by a refresh')
  await next()
  t.equal((await browser.api('/bff/logout', { method: 'POST' })).status, 200)
  t.ok(await eventually(() => gateway.events('revocation').some(({ outcome }) => outcome === 'revoked')))
  const calls = authenticated(stage)
  t.same(
    calls.map(({ path, answered }) => [path, answered]),
    [
      ['/token', 200],
      ['/token', 200],
      ['/token/revocation', 200],
    ],
  )
  // Entra ID takes a request with an Origin for one of a browser, which has no secret (AADSTS9002326).
  t.same(
    calls.filter(({ headers }) => headers.origin !== undefined),
    [],
  )
  t.same(provider.replays(), [])
  return calls
}

/** A log or a dump that holds a key or an assertion is as good as a secret. */
async function holdsNone(t: Test, { gateway, redis }: Stage, secrets: readonly string[]) {
  const dump = (await redis.dump()).toString('latin1')
  const log = gateway.log.join('')
  t.ok(
    secrets.every(secret => secret.length >= 16),
    'the canaries are at hand',
  )
  for (const text of [log, dump]) t.same(secrets.filter(secret => text.includes(secret)).length, 0)
}

const withKey = (...keys: ClientKeyPair[]) => ({
  client: {
    token_endpoint_auth_method: 'private_key_jwt' as const,
    jwks: { keys: keys.map((key, index) => key.jwk(`k${index + 1}`)) },
  },
})
const linesOf = ({ pem }: ClientKeyPair) => pem.split('\n').filter(line => line.length >= 16 && !line.startsWith('-'))
const noSecret = { OIDC_CLIENT_SECRET: '' }

test('a secret in the form or in the header opens, refreshes and revokes', async t => {
  const clientSecret = `a secret of ~ awkward + signs % ${randomUUID()}`
  for (const method of ['client_secret_post', 'client_secret_basic'] as const) {
    const client = { token_endpoint_auth_method: method }
    const stage = await setUp(t, { OIDC_CLIENT_AUTH: method }, { clientSecret, client })
    for (const call of await liveThrough(t, stage)) {
      t.equal(call.form.get('client_secret'), method === 'client_secret_post' ? clientSecret : null)
      t.equal(call.headers.authorization?.startsWith('Basic '), method === 'client_secret_post' ? undefined : true)
    }
  }
})

test('a key opens, refreshes and revokes, by its kid', async t => {
  for (const kind of ['rsa', 'P-256', 'ed25519'] as const) {
    const key = createClientKeys(kind)
    const keyFile = createSecretFiles().write('key.pem', key.pem)
    const env = { ...noSecret, OIDC_CLIENT_KEY_FILE: keyFile, OIDC_CLIENT_KEY_ID: 'k1' }
    const stage = await setUp(t, env, withKey(key))
    const assertions = (await liveThrough(t, stage)).map(assertionOf)
    for (const assertion of assertions) {
      t.match(decodeProtectedHeader(assertion), { kid: 'k1', typ: 'JWT' }, kind)
      t.equal(decodeJwt(assertion).aud, stage.provider.issuer, 'one audience, as a string')
    }
    await holdsNone(t, stage, [...assertions, ...linesOf(key)])
  }
})

test('a certificate is told by its thumbprint in every assertion, and no kid is relied on', async t => {
  const key = createClientKeys()
  const files = createSecretFiles()
  const env = {
    ...noSecret,
    OIDC_CLIENT_KEY_FILE: files.write('key.pem', key.pem),
    OIDC_CLIENT_CERT_FILE: files.write('cert.pem', key.certificate),
  }
  const stage = await setUp(t, env, withKey(key))
  for (const call of await liveThrough(t, stage))
    t.match(decodeProtectedHeader(assertionOf(call)), {
      alg: 'PS256',
      typ: 'JWT',
      'x5t#S256': /^[\w-]{43}$/,
      kid: undefined,
    })
})

test('a new key takes over without a restart', async t => {
  const [first, second] = [createClientKeys('P-256'), createClientKeys('P-256')]
  const files = createSecretFiles()
  const env = { ...noSecret, OIDC_CLIENT_KEY_FILE: files.write('key.pem', first.pem) }
  // The provider no longer knows the first; at the login nobody has told the gateway yet.
  const stage = await setUp(t, env, withKey(second))
  const { provider, gateway, clock } = stage
  clock.set(Date.now())
  t.equal((await login(stage.browser(), gateway.url, provider)).status, 503)
  files.replace('key.pem', 'half a ke')
  t.equal((await login(stage.browser(), gateway.url, provider)).status, 503)
  files.replace('key.pem', second.pem)
  provider.clear()
  await stage.loggedIn('alice')
  t.same(
    provider.tokenCalls().map(({ answered }) => answered),
    [401, 200],
    'in time for the login that needed it',
  )
  const warnings = gateway.log.map(line => JSON.parse(line)).filter(({ level, problem }) => level === 'warn' && problem)
  t.match(warnings, [{ problem: /no private key/ }])
  await holdsNone(t, stage, [...linesOf(first), ...linesOf(second)])
})

test('an assertion of the platform opens, refreshes and revokes, as it is renewed in its file', async t => {
  const platform = createClientKeys()
  const files = createSecretFiles()
  const renew = async () => {
    const now = Math.floor(Date.now() / 1000)
    const jwt = await new SignJWT({ aud: stage.provider.issuer, iss: 'coatcheck', sub: 'coatcheck', jti: randomUUID() })
      .setProtectedHeader({ alg: 'RS256', kid: 'k1' })
      .setExpirationTime(now + 600)
      .sign(platform.privateKey)
    files.replace('token', `${jwt}\n`)
  }
  const env = { ...noSecret, AZURE_FEDERATED_TOKEN_FILE: files.write('token', 'not.yet.there') }
  const stage = await setUp(t, env, withKey(platform))
  const assertions = (await liveThrough(t, stage, renew)).map(assertionOf)
  t.equal(new Set(assertions).size, 3)
  await holdsNone(t, stage, assertions)
})

// Client authentication fails before the code is looked at (RFC 6749 §5.2); were it otherwise, every login would fail once.
test('a login goes on with the second secret, with the same code', async t => {
  const wrong = 'wrong-secret-of-the-test'
  const clientSecret = 'right-secret-of-the-test'
  const env = { OIDC_CLIENT_SECRET: wrong, OIDC_CLIENT_SECRET_2: clientSecret }
  const stage = await setUp(t, env, { clientSecret })
  await stage.loggedIn('alice')
  const calls = stage.provider.tokenCalls('authorization_code')
  t.same(
    calls.map(({ answered }) => answered),
    [401, 200],
  )
  t.equal(new Set(calls.map(({ form }) => form.get('code'))).size, 1)
  await stage.loggedIn('bob')
  t.equal(stage.provider.tokenCalls('authorization_code').length, 3, 'and then it goes first')
  await holdsNone(t, stage, [wrong, clientSecret])
})

// A secret that runs out at night must not have logged everybody out by the morning.
test('a client that is refused ends no session, makes the gateway unready, and is well again as soon as it is mended', async t => {
  const stage = await setUp(t, {})
  const { provider, gateway, later, readiness } = stage
  const [alice, bob, carol] = [
    await stage.loggedIn('alice'),
    await stage.loggedIn('bob'),
    await stage.loggedIn('carol'),
  ]
  t.equal(await readiness(), 200)
  later(lifetime)
  await provider.configureClient({ clientSecret: 'the provider has another one' })

  for (const browser of [alice, bob]) {
    const answer = await browser.api('/api/items')
    t.match([answer.status, answer.json()], [503, { code: 'provider_unavailable' }])
    t.match(answer.headers['retry-after'], /^\d+$/)
  }
  const page = await login(stage.browser(), gateway.url, provider, { user: 'dora' })
  t.equal(page.status, 503, 'a login is not possible, and that is no fault of who logs in')
  const cookie = alice.jar.get(sessionCookie)
  t.equal((await login(alice, gateway.url, provider)).status, 503)
  t.equal(alice.jar.get(sessionCookie), cookie, 'the session at hand is kept')
  t.equal((await carol.api('/bff/logout', { method: 'POST' })).status, 200)
  t.ok(await eventually(() => gateway.events('revocation').length === 1))
  t.match(gateway.events('revocation'), [{ outcome: 'pending' }], 'to be tried again')

  t.equal(await readiness(), 503)
  t.match(gateway.events('client_refused'), [{ severity: 'high', cause: /wrong or expired/, mend: /new secret/ }])
  for (const browser of [alice, bob]) t.equal((await browser.api('/bff/user?slide=false')).status, 200)

  await provider.configureClient({ clientSecret: provider.clientSecret })
  later(10)
  t.ok(
    await eventually(async () => (await readiness()) === 200),
    'without a request, since none comes to a gateway that is not ready',
  )
  t.equal(gateway.events('client_accepted').length, 1)
  for (const browser of [alice, bob]) t.equal((await browser.api('/api/items')).status, 200)
  // It is due by Redis's clock, and looked for by that of the stage.
  const revoked = async () => {
    later(1)
    await sleep(100)
    return gateway.events('revocation').some(({ outcome }) => outcome === 'revoked')
  }
  t.ok(await eventually(revoked, 20_000))
  t.same(provider.replays(), [])
})

test('a secret that is exchanged at the provider in the middle of 200 refreshes and 50 logins costs nobody anything', async t => {
  const next = `next-secret-${randomUUID()}`
  const stage = await setUp(t, { OIDC_CLIENT_SECRET_2: next, SESSION_MAX_PER_USER: '100' })
  const { provider, gateway, later } = stage
  const browsers: TestBrowser[] = []
  while (browsers.length < 40) {
    const logins = Array.from({ length: 10 }, (_, index) => stage.loggedIn(`user-${browsers.length + index}`))
    browsers.push(...(await Promise.all(logins)))
  }
  provider.clear()
  const statuses: number[] = []
  let exchanged = false
  for (let round = 0; round < 5; round += 1) {
    later(lifetime)
    const calls = browsers.map(async (browser, index) => {
      // In the middle of the third round, with calls in flight on both sides of it.
      if (round === 2 && index === 20) {
        await eventually(() => provider.tokenCalls('refresh_token').length >= 90)
        await provider.configureClient({ clientSecret: next })
        exchanged = true
      }
      statuses.push((await browser.api('/api/items')).status)
    })
    const logins = Array.from({ length: 10 }, (_, index) => stage.loggedIn(`guest-${index}`))
    await Promise.all([...calls, ...logins])
  }
  t.ok(exchanged)
  t.same(new Set(statuses), new Set([200]))
  t.equal(statuses.length, 200)
  const refreshes = provider.tokenCalls('refresh_token')
  const refused = provider.tokenCalls().filter(({ answered }) => answered === 401)
  t.equal(refreshes.filter(({ answered }) => answered === 200).length, 200)
  t.equal(provider.tokenCalls('authorization_code').filter(({ answered }) => answered === 200).length, 50)
  t.ok(refused.length >= 1, `${refused.length} calls met the exchange`)
  t.comment(`${refused.length} calls were refused by the first secret and accepted by the second`)
  t.same(gateway.events('client_refused'), [])
  t.equal(gateway.events('client_credential_changed').length, 1)
  t.equal(gateway.events('session_ended').length, 0)
  for (const browser of browsers) t.equal((await browser.api('/bff/user?slide=false')).status, 200)
  t.same(provider.replays(), [])
  await holdsNone(t, stage, [provider.clientSecret, next])
})
