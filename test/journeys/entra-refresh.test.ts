import { randomUUID } from 'node:crypto'
import tap, { type Test, test } from 'tap'
import { createBrowser, type TestBrowser } from '../support/browser.ts'
import { createSecretFiles } from '../support/client-keys.ts'
import { type EntraStage, startEntraStage } from '../support/entra/stage.ts'
import { createCertificate, err, errors, forged } from '../support/entra.ts'
import { eventually } from '../support/eventually.ts'
import type { RawAnswer, Responder, Tamper } from '../support/provider.ts'

const secondSecret = 'second~secret.of-the-test'
const stage = await startEntraStage(tap, {}, { OIDC_CLIENT_SECRET_2: secondSecret, USER_CLAIMS: 'sub,name,roles' })
const { provider: entra, gateway, clock } = stage
const [, other = ''] = entra.tenants
/** Gives up on a provider that hangs sooner than it is used to, so that the test need not wait for long. */
const hasty = await startEntraStage(tap, {}, {}, { providerLimits: { timeoutMs: 2000 } })

const grant = 'refresh_token'
/** As the browser, past the stage's rule that no answer is a 502. */
const unwatched = (browser: TestBrowser) => createBrowser({ origin: gateway.url, jar: browser.jar })
const audits = (name: string, browser: TestBrowser, at: EntraStage = stage) =>
  at.gateway.events(name).filter(({ session }) => session === at.handleOf(browser))
/** Past what a breaker, a `Retry-After` or a rest may still hold back. */
const settle = (at: EntraStage = stage) => at.clock.advance(61_000)
const readiness = async () => (await createBrowser().get(`${gateway.internalUrl}/readyz`)).status

/** A session that has tokens for both APIs, and both of them over. */
async function expired(): Promise<TestBrowser> {
  settle()
  const browser = await stage.enter()
  for (const path of ['/a/x', '/b/x']) await browser.api(path)
  stage.expire()
  stage.refreshed()
  return browser
}

test('a refresh token that Entra ends by a policy ends the session, and nobody is suspected', async t => {
  const dead: Record<string, () => RawAnswer> = {
    'revoked by an administrator': errors.revoked,
    'not used for 90 days': errors.idle,
    'issued to a single-page application a day ago': errors.spa,
    'past the sign-in frequency': errors.signInFrequency,
    'the account is disabled': errors.disabled,
  }
  for (const [name, answer] of Object.entries(dead)) {
    const browser = await expired()
    entra.refuse({ grant }, answer())
    const refused = await browser.api('/a/x')
    t.match([refused.status, refused.json()], [401, { code: 'session_expired', reason: 'refresh_token_dead' }], name)
    t.match(refused.json(), { loginUrl: '/bff/login' })
    t.same(stage.refreshed().length, 2, 'once for the API, once for the login itself to be sure')
    t.equal((await browser.api('/b/x')).status, 401)
    t.same(stage.refreshed(), [], 'and that was the end of it')
    t.match(audits('refresh_token_dead', browser), [{ severity: 'medium', user: /^[\w-]{16}$/ }])
    for (const event of ['refresh_token_reuse_suspected', 'rotation_lost']) t.same(audits(event, browser), [], name)
    t.ok(await eventually(() => audits('revocation', browser).some(({ outcome }) => outcome === 'not_supported')))
    entra.reset()
  }
})

// At a provider that takes each token once, a refusal after a lost answer means that a token was lost. Not here.
test('a refusal after an answer that was lost is a dead token like any other', async t => {
  const browser = await expired()
  entra.refuse({ grant, times: 1 }, 'reset')
  entra.refuse({ grant }, errors.revoked())
  t.match((await browser.api('/a/x')).json(), { code: 'session_expired', reason: 'refresh_token_dead' })
  t.match(audits('refresh_token_dead', browser), [{ severity: 'medium' }])
  t.same(audits('rotation_lost', browser), [])
})

test('revocation of all sessions of a user ends those of nobody else', async t => {
  const alice = await expired()
  const bob = await stage.enter('bob')
  entra.revokeSessions('alice')
  t.equal((await alice.api('/a/x')).status, 401)
  t.equal((await bob.api('/a/x')).status, 200)
  t.equal((await (await stage.enter('alice')).api('/a/x')).status, 200, 'a new login is a new beginning')
})

/** What is refused for one API, and what that API answers then. */
const forOneApi: Record<string, [answer: () => RawAnswer, status: number, code: string, asks: number]> = {
  'a second factor is wanted': [errors.mfa, 401, 'step_up_required', 1],
  'the same in its older shape': [errors.mfaOld, 401, 'step_up_required', 1],
  'nobody has consented': [errors.consent, 401, 'step_up_required', 1],
  'a policy wants the user to be told': [() => errors.blocked('message_only'), 401, 'step_up_required', 1],
  'a policy blocks the API': [() => errors.blocked(), 403, 'forbidden', 2],
}

// Entra says invalid_grant to all of these. Whoever takes that for a dead token logs users out of everything over one API.
test('what Entra refuses for one API costs the session nothing, and is not asked for in a loop', async t => {
  for (const [name, [answer, status, code, asks]] of Object.entries(forOneApi)) {
    const browser = await expired()
    entra.refuse({ grant, scope: 'api://b' }, answer())
    for (let times = 0; times < 5; times += 1) {
      const refused = await browser.api('/b/x')
      t.match([refused.status, refused.json()], [status, { code }], name)
      t.notMatch(refused.text, /AADSTS|capolids|polids/, 'nothing of the answer is passed on')
    }
    t.equal(stage.refreshed().length, asks, `${name}: asked once a minute`)
    t.equal((await browser.api('/a/x')).status, 200, 'the other API goes on')
    t.ok(await stage.isAlive(browser))
    t.same(audits('session_ended', browser), [])
    entra.reset()
    t.equal((await browser.api('/b/x')).status, status, 'the answer rests a minute')
    await stage.rest()
    t.equal((await browser.api('/b/x')).status, 200, `${name}: and then it is well again`)
    t.same(entra.replays(), [])
  }
})

test('concurrent requests for an API that is refused ask Entra once', async t => {
  const browser = await expired()
  entra.refuse({ grant, scope: 'api://b' }, errors.mfa())
  const answers = await Promise.all(Array.from({ length: 20 }, () => browser.api('/b/x')))
  t.same([...new Set(answers.map(({ status }) => status))], [401])
  t.equal(stage.refreshed().length, 1)
})

test('an API that needs the consent of each user gets its token by a login with its scope', async t => {
  entra.unconsented.add('api://b')
  t.teardown(() => entra.unconsented.delete('api://b'))
  const browser = await stage.enter('consenting')
  t.equal((await browser.api('/b/x')).status, 200, 'the login asked for it')
})

/** Answers that say nothing about a session. */
const passing: Record<string, Responder> = {
  throttled: errors.throttled(),
  'throttled, as a page': errors.throttledHtml(),
  unavailable: errors.unavailable(),
  'unavailable, as a page': errors.unavailableHtml(504),
  'a reset connection': 'reset',
  'no answer': 'hang',
  'a loop, as Entra sees it': errors.loop(),
  'a passing fault under the name of a dead token': err(400, 'invalid_grant', 90033),
  'a page with status 200': { status: 200, headers: { 'content-type': 'text/html' }, body: '<html></html>' },
}

test('a fault of Entra logs nobody out: the token at hand is served, and then 503', async t => {
  for (const [name, answer] of Object.entries(passing)) {
    const at = answer === 'hang' ? hasty : stage
    settle(at)
    const browser = await at.enter()
    t.equal((await browser.api('/a/x')).status, 200)
    at.provider.refuse({ grant }, answer)
    at.clock.advance(3000 * 1000)
    t.equal((await browser.api('/a/x')).status, 200, `${name}: due, and still good`)
    await eventually(() => at.refreshed().length > 0)
    at.expire()
    const refused = await browser.api('/a/x')
    t.match([refused.status, refused.json()], [503, { code: 'provider_unavailable' }], name)
    t.match(refused.headers['retry-after'], /^\d+$/)
    t.ok(await at.isAlive(browser), name)
    at.provider.reset()
    settle(at)
    t.equal((await browser.api('/a/x')).status, 200, `${name}: well again`)
    t.same(audits('session_ended', browser, at), [])
  }
})

test('Entra is not asked again before the time that it named', async t => {
  for (const answer of [errors.throttled(7), errors.throttledHtml(7)]) {
    const browser = await expired()
    entra.refuse({ grant, times: 1 }, answer)
    const first = await browser.api('/a/x')
    t.match([first.status, first.headers['retry-after']], [503, '7'])
    stage.refreshed()
    clock.advance(6000)
    for (const path of ['/a/x', '/b/x']) t.equal((await browser.api(path)).status, 503)
    t.same(stage.refreshed(), [], 'nor for another API')
    clock.advance(1500)
    t.equal((await browser.api('/a/x')).status, 200)
  }
})

test('an answer that is lost after the work is asked for once more with the same token, which still works', async t => {
  const browser = await expired()
  entra.refuse({ grant, when: 'after', times: 1 }, 'reset')
  const before = entra.refreshes().length
  t.equal((await browser.api('/a/x')).status, 200)
  const tokens = entra
    .refreshes()
    .slice(before)
    .map(({ params }) => params.get('refresh_token'))
  t.equal(tokens.length, 2)
  t.equal(new Set(tokens).size, 1)
})

test('an ID token of somebody else on a refresh destroys the session and raises an alarm', async t => {
  const cases: Record<string, Tamper['idToken']> = {
    'another sub': forged.otherUser({ sub: 'somebody-else' }),
    'another oid': forged.otherUser({ oid: randomUUID() }),
    'another tid': forged.otherUser({ tid: other }),
    'another tenant altogether': forged.changed(
      ({ iss, tid }) => ({ tid: other, iss: String(iss).replace(String(tid), other) }),
      'refresh_token',
    ),
    'another nonce': forged.changed({ nonce: 'another' }, 'refresh_token'),
    'the key of personal accounts': draft =>
      draft.grant === grant ? forged.byKey(entra.keys.foreign)(draft) : draft.token,
  }
  for (const [name, tamper] of Object.entries(cases)) {
    const browser = await expired()
    entra.tamper.idToken = tamper
    const seen = stage.a.seen.length
    t.match((await browser.api('/a/x')).json(), { code: 'session_expired', reason: 'identity_changed' }, name)
    t.equal(stage.a.seen.length, seen, 'no API has seen a token of that answer')
    t.match(audits('identity_changed', browser), [{ severity: 'high' }], name)
    entra.reset()
  }
})

test('the nonce of the login may come back on a refresh or not, and claims follow the newest ID token', async t => {
  for (const nonceOnRefresh of ['repeated', 'omitted'] as const) {
    entra.knobs.nonceOnRefresh = nonceOnRefresh
    const browser = await expired()
    const [token] = [...entra.issued.idTokens].slice(-1)
    entra.users.set('alice', { roles: [`role-${nonceOnRefresh}`] })
    t.equal((await browser.api('/a/x')).status, 200, nonceOnRefresh)
    t.not([...entra.issued.idTokens].at(-1), token, 'there was an ID token')
    t.match((await browser.api('/bff/user')).json(), { user: { roles: [`role-${nonceOnRefresh}`] } })
  }
  for (const claim of ['oid', 'login_hint', 'sid'] as const) {
    const browser = await expired()
    entra.tamper.idToken = forged.without(claim)
    t.equal((await browser.api('/a/x')).status, 200, `without ${claim}`)
  }
})

test('a refused secret ends no session: the second takes over, and without one the gateway is not ready', async t => {
  const { secrets, expiredSecrets } = entra.credentials
  const browser = await expired()
  secrets.delete(entra.clientSecret)
  secrets.add(secondSecret)
  t.equal((await browser.api('/a/x')).status, 200)
  t.match(gateway.events('client_credential_changed'), [{ from: 'OIDC_CLIENT_SECRET', to: 'OIDC_CLIENT_SECRET_2' }])
  stage.expire()
  expiredSecrets.add(secondSecret)
  const refused = await browser.api('/a/x')
  t.match([refused.status, refused.json()], [503, { code: 'provider_unavailable' }])
  t.equal(await readiness(), 503)
  t.match(gateway.events('client_refused').at(-1), { severity: 'high', cause: /secret/, mend: /new secret/ })
  t.ok(await stage.isAlive(browser))
  expiredSecrets.delete(secondSecret)
  clock.advance(11_000)
  t.ok(await eventually(async () => (await readiness()) === 200), 'ready as soon as a secret is good')
  t.equal((await browser.api('/a/x')).status, 200)
  secrets.add(entra.clientSecret)
})

test('a registration that is wrong is the operator’s fault and ends no session', async t => {
  const broken: Record<string, RawAnswer> = {
    'a redirect URI for browsers': errors.spaWithoutOrigin(),
    'a scope that is none': err(400, 'invalid_scope', 70011),
    'an API that is none': errors.unknownResource(),
    'a grant that is none': err(400, 'unsupported_grant_type', 70003),
  }
  for (const [name, answer] of Object.entries(broken)) {
    const browser = await expired()
    entra.refuse({ grant, scope: 'api://a' }, answer)
    const seen = unwatched(browser)
    for (let times = 0; times < 3; times += 1)
      t.match((await seen.api('/a/x')).json(), { status: 502, code: 'bad_upstream' }, name)
    t.equal(stage.refreshed().length, 1, name)
    t.match(audits('refresh_failed', browser), [{ upstream: 'a', detail: /token endpoint: / }])
    t.equal((await browser.api('/b/x')).status, 200)
    t.ok(await stage.isAlive(browser))
    entra.reset()
  }
})

test('an answer without an access token keeps the session and the newest refresh token', async t => {
  const browser = await expired()
  const replays = entra.replays().length
  entra.tamper.tokenResponse = ({ access_token: _, ...rest }) => rest
  const seen = unwatched(browser)
  t.match((await seen.api('/a/x')).json(), { status: 502, code: 'bad_upstream' })
  entra.reset()
  await stage.rest()
  t.equal((await browser.api('/a/x')).status, 200)
  t.equal(entra.replays().length, replays, 'what came without an access token was kept')
})

test('an answer without a refresh token keeps the one at hand', async t => {
  const browser = await expired()
  const before = entra.refreshes().length
  entra.tamper.tokenResponse = ({ refresh_token: _, ...rest }) => rest
  for (const path of ['/a/x', '/b/x']) t.equal((await browser.api(path)).status, 200)
  entra.reset()
  stage.expire()
  t.equal((await browser.api('/a/x')).status, 200)
  const presented = entra
    .refreshes()
    .slice(before)
    .map(({ params }) => params.get('refresh_token'))
  t.equal(presented.length, 3)
  t.equal(new Set(presented).size, 1)
})

test('a change of the keys is seen at once, by sessions and by logins', async t => {
  const browser = await expired()
  await entra.rotateKeys()
  clock.advance(61_000)
  t.equal((await browser.api('/a/x')).status, 200)
  t.ok(await stage.isAlive(await stage.enter('carol')))
})

test('a certificate is known by its thumbprint, and its assertions are for the token endpoint alone', async (t: Test) => {
  const certificate = createCertificate()
  const files = createSecretFiles()
  const own = await startEntraStage(
    t,
    { certificates: [certificate], authority: 'organizations' },
    {
      OIDC_CLIENT_SECRET: '',
      OIDC_CLIENT_KEY_FILE: files.write('key.pem', certificate.key),
      OIDC_CLIENT_CERT_FILE: files.write('cert.pem', certificate.cert),
    },
  )
  own.provider.credentials.secrets.clear()
  const browser = await own.enter()
  t.equal((await browser.api('/a/x')).status, 200)
  const audiences = own.provider.tokenCalls().map(({ path, form }) => {
    const [, payload = ''] = form.get('client_assertion')?.split('.') ?? []
    return [path, new URL(JSON.parse(Buffer.from(payload, 'base64url').toString()).aud).pathname]
  })
  t.equal(audiences.length, 2)
  for (const [path, audience] of audiences) t.equal(audience, path, 'that of organizations, and that of the tenant')
})
