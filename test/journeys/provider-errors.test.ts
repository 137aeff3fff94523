import { type Test, test } from 'tap'
import { type BrowserResponse, createBrowser, createJar } from '../support/browser.ts'
import { createClock, type ManualClock } from '../support/clock.ts'
import { type CallbackError, callbackErrors, err, errors, forged, startEntra } from '../support/entra.ts'
import { freePort } from '../support/free-port.ts'
import { startGateway, type TestGateway } from '../support/gateway.ts'
import { type Json, startProvider } from '../support/provider.ts'
import { startUntrustedServer } from '../support/self-signed.ts'
import { hopOf, login, startStage, startStageAround } from '../support/stage.ts'

const traceId = '0000aaaa-11bb-cccc-dd22-eeeeee333333'
const correlationId = 'aaaa0000-bb11-2222-33cc-444444dddddd'
/** Stands for what an error's text may say of a user. */
const personal = 'alice.canary@example.test'
const described = (code: number) =>
  `AADSTS${code}: User '${personal}' said no.\r\nTrace ID: ${traceId}\r\nCorrelation ID: ${correlationId}`

/** A page that says what is to be said to a user, and nothing of what the provider said. */
function isPlain(t: Test, page: BrowserResponse, sentence: RegExp, name: string): void {
  t.match(page.headers['content-type'], /^text\/html/, name)
  t.match(/<p>(.*)<\/p>/.exec(page.text)?.[1], sentence, name)
  t.notMatch(page.text, /AADSTS|canary|OIDC_|0000aaaa|aaaa0000|<script/i, `${name}: nothing of the provider's`)
  t.strictSame(
    page.rawSetCookie.filter(line => line.startsWith('__Host-coatcheck=')),
    [],
    name,
  )
}

const referenceOn = (page: BrowserResponse) => /Reference: <code>([a-z-]+)<\/code>/.exec(page.text)?.[1]
const sentence = {
  denied: /cancelled, or the identity provider refused/,
  consent: /needs a consent/,
  interaction: /something more from you/,
  later: /Try again later/,
  reported: /reported an error/,
  unverified: /could not be verified/,
}

test('what Entra ID answers in the place of a sign-in', async t => {
  const env = { OIDC_SCOPE: 'openid profile offline_access api://a/x', OIDC_USERINFO: 'never' }
  const stage = await startStageAround(t, clock => startEntra({ clock, env }))
  const { provider: entra, gateway, clock } = stage
  t.afterEach(() => {
    if (/canary/.test(gateway.log.join(''))) throw new Error('the log names a user')
    entra.reset()
  })

  /** The provider's own cookies go by the machine's clock, and that of the stage moves on. */
  const fresh = () => stage.browser(createJar())

  /** A callback that was refused: one line in the log, and two pages with its reference. */
  const explained = async (t: Test, name: string, page: BrowserResponse, text: RegExp, event: object) => {
    const last = gateway.events('login_rejected').at(-1)
    t.match(last, { cause: /.{10}/, mend: /.{5}/, ...event }, name)
    isPlain(t, page, text, name)
    const reference = referenceOn(page)
    t.match(reference, /^[a-z]{4}-[a-z]{4}$/, name)
    t.equal(last?.reference, reference, `${name}: the page leads to the line`)
    const next = await createBrowser({ origin: gateway.url }).get(hopOf(page) ?? '')
    t.equal(next.status, 200)
    isPlain(t, next, text, name)
    t.equal(referenceOn(next), reference, `${name}: also the page that stays`)
  }

  t.test(
    'at the authorization endpoint is told to the user in a sentence, and to the operator with a mend',
    async t => {
      const cases: [CallbackError, number, RegExp, object][] = [
        [callbackErrors.accessDenied, 400, sentence.denied, { reason: 'denied', cause: /declined|cancelled/ }],
        [callbackErrors.interactionRequired, 400, sentence.interaction, { reason: 'interaction_required' }],
        [callbackErrors.loginRequired, 400, sentence.interaction, { reason: 'interaction_required' }],
        [callbackErrors.consentRequired, 400, sentence.consent, { reason: 'consent_required', mend: /administrator/ }],
        [callbackErrors.serverError, 503, sentence.later, { reason: 'provider_unavailable' }],
        [callbackErrors.temporarilyUnavailable, 503, sentence.later, { reason: 'provider_unavailable' }],
        [callbackErrors.resourceParameter, 400, sentence.reported, { mend: /UPSTREAM_<NAME>_RESOURCE/ }],
        [{ error: 'invalid_client', code: 650053 }, 400, sentence.reported, { mend: /api:\/\// }],
        [{ error: 'access_denied', code: 50105 }, 400, sentence.denied, { cause: /not assigned/ }],
        [{ error: 'access_denied', code: 90094 }, 400, sentence.denied, { mend: /administrator/ }],
      ]
      for (const [refusal, status, text, event] of cases) {
        const name = `${refusal.error} ${refusal.code}`
        entra.refuseAuthorize({ times: 1 }, refusal)
        const browser = fresh()
        const callback = await stage.pendingCallback(browser, 'alice')
        callback.searchParams.set('error_description', described(refusal.code))
        const page = await stage.open(browser, callback)
        t.equal(page.status, status, name)
        t.equal(page.headers['retry-after'] !== undefined, status === 503, name)
        const ids = { providerCode: `AADSTS${refusal.code}`, traceId, correlationId }
        await explained(t, name, page, text, { ...event, ...ids })
      }
    },
  )

  t.test('at the token endpoint is told in the same way', async t => {
    const cases: [ReturnType<typeof err>, number, RegExp, object][] = [
      [errors.spaWithoutOrigin(), 400, sentence.reported, { cause: /single-page application; register it as Web/ }],
      [errors.originWithSecret(), 400, sentence.reported, { cause: /Origin/ }],
      [errors.severalResources(), 400, sentence.reported, { mend: /UPSTREAM_<NAME>_SCOPE/ }],
      [errors.scopeMissing(), 400, sentence.reported, { providerCode: 'AADSTS90009' }],
      [errors.resourceParameter(), 400, sentence.reported, { mend: /UPSTREAM_<NAME>_RESOURCE/ }],
      [errors.unknownResource(), 400, sentence.reported, { cause: /not known in this tenant/ }],
      [errors.mfa(), 400, sentence.interaction, { reason: 'interaction_required', cause: /another factor/ }],
      [errors.consent(), 400, sentence.consent, { reason: 'consent_required', cause: /not consented/ }],
      [err(400, 'invalid_grant', 54005), 400, sentence.reported, { cause: /redeemed already/ }],
      [err(400, 'invalid_grant', 700005), 400, sentence.reported, { mend: /OIDC_ISSUER/ }],
      [errors.secretWrong(), 503, sentence.later, { cause: /ID of the secret/, mend: /OIDC_CLIENT_SECRET/ }],
      [errors.secretExpired(), 503, sentence.later, { cause: /has expired/ }],
      [errors.secretMissing(), 503, sentence.later, { mend: /OIDC_CLIENT_SECRET/ }],
      [errors.assertionRefused(), 503, sentence.later, { cause: /certificate/ }],
      [errors.unknownClient(), 503, sentence.later, { mend: /OIDC_CLIENT_ID/ }],
      [errors.throttled(), 503, sentence.later, { cause: /too many/ }],
      [errors.unavailable(), 503, sentence.later, { mend: /status page/ }],
      [errors.loop(), 503, sentence.later, { providerCode: 'AADSTS50196' }],
    ]
    for (const [answer, status, text, event] of cases) {
      const body = answer.body as { error: string; error_codes: [number] }
      const name = `${body.error} ${body.error_codes[0]}`
      entra.refuse({ grant: 'authorization_code' }, { ...answer, body: { ...body, error_description: described(1) } })
      const browser = fresh()
      const page = await stage.open(browser, await stage.pendingCallback(browser, 'alice'))
      t.equal(page.status, status, name)
      await explained(t, name, page, text, event)
      entra.reset()
    }
    t.match(gateway.events('client_refused').at(-1), { providerCode: /^AADSTS/, cause: /.{10}/, mend: /.{5}/, traceId })
  })

  t.test('at a refresh is told with the session that it is about', async t => {
    const cases: [ReturnType<typeof err>, object][] = [
      [errors.revoked(), { outcome: 'dead', cause: /revoked/ }],
      [errors.idle(), { outcome: 'dead', cause: /not used/ }],
      [errors.spa(), { outcome: 'dead', mend: /platform Web/ }],
      [errors.signInFrequency(), { outcome: 'dead', cause: /sign-in frequency/ }],
      [errors.disabled(), { outcome: 'dead', cause: /disabled/ }],
      [errors.mfa(), { outcome: 'interaction', cause: /another factor/ }],
      [errors.consent(), { outcome: 'interaction', cause: /not consented/ }],
      [errors.blocked(), { outcome: 'dead', cause: /policy/ }],
      [err(400, 'invalid_grant', 0), { outcome: 'dead', mend: /SESSION_ABSOLUTE_TIMEOUT/ }],
    ]
    for (const [answer, event] of cases) {
      const body = answer.body as { error: string; error_codes: [number] }
      const name = `${body.error} ${body.error_codes[0]}`
      const browser = fresh()
      await login(browser, gateway.url, entra, { user: 'alice' })
      clock.advance(2 * 3_600_000)
      entra.refuse({ grant: 'refresh_token' }, { ...answer, body: { ...body, error_description: described(1) } })
      t.equal((await browser.api('/api/items')).status, 401, name)
      t.match(gateway.events('refresh_failed').at(-1), { ...event, mend: /.{5}/, traceId, correlationId }, name)
      entra.reset()
    }
  })

  t.test('by an ID token that is refused names the claim, and the settings or clocks to look at', async t => {
    const { changed } = forged
    const cases: [string, ReturnType<typeof changed>, object][] = [
      ['aud', forged.audience(), { mend: /OIDC_CLIENT_ID/ }],
      ['iss', changed({ iss: 'https://canary.example' }), { mend: /OIDC_ISSUER/ }],
      ['nonce', forged.nonce(), { cause: /does not belong to this login/ }],
      ['exp', forged.expired(), { mend: /clock/ }],
      ['iat in the past', changed(({ iat }) => ({ iat: Number(iat) - 700 })), { mend: /clock/ }],
      ['iat in the future', changed(({ iat }) => ({ iat: Number(iat) + 300 })), { mend: /clock/ }],
      ['nbf', changed(({ iat }) => ({ nbf: Number(iat) + 300 })), { mend: /clock/ }],
      ['HS256', ({ sign, header, payload }) => sign({ ...header, alg: 'HS256' }, payload), { cause: /with HS256/ }],
      [
        'RS512',
        ({ sign, header, payload }) => sign({ ...header, alg: 'RS512' }, payload),
        { cause: /with RS512/, mend: /add RS512 to OIDC_ID_TOKEN_ALGS/ },
      ],
    ]
    for (const [name, tamper, event] of cases) {
      entra.tamper.idToken = tamper
      const browser = fresh()
      const page = await stage.open(browser, await stage.pendingCallback(browser, 'alice'))
      t.equal(page.status, 400, name)
      await explained(t, name, page, sentence.unverified, { reason: 'invalid_response', ...event })
      entra.reset()
    }
    entra.tamper.idToken = ({ sign, header, payload }) => sign({ ...header, alg: 'canary' }, payload)
    const browser = fresh()
    isPlain(
      t,
      await stage.open(browser, await stage.pendingCallback(browser, 'alice')),
      sentence.unverified,
      'no algorithm',
    )
  })

  t.test('in a silent login is no failure, but an answer', async t => {
    for (const refusal of [
      callbackErrors.consentRequired,
      callbackErrors.interactionRequired,
      callbackErrors.loginRequired,
    ]) {
      entra.refuseAuthorize({ params: { prompt: 'none' }, times: 1 }, refusal)
      const before = gateway.events('login_rejected').length
      const browser = fresh()
      const callback = await stage.pendingCallback(browser, 'alice', { prompt: 'none', returnUrl: '/welcome' })
      const answer = await stage.open(browser, callback)
      t.strictSame([answer.status, answer.headers.location], [303, '/welcome'], refusal.error)
      t.equal(gateway.events('login_rejected').length, before)
    }
  })

  // Who lures a user to the page of a failed login may choose what stands in its address.
  t.test('is shown with a reference of its own making, and no other', async t => {
    const made = ['0800-123456', 'call-me-now', 'KFZT-QWBN', '<b>x</b>', 'kfzt-qwbn\n', `kfzt-qwbn${'x'.repeat(99)}`]
    for (const reference of made) {
      const query = new URLSearchParams({ reason: 'denied', reference })
      const page = await fresh().get(`/bff/login/failed?${query}`)
      t.notMatch(page.text, 'Reference', JSON.stringify(reference))
    }
  })
})

test('a provider that cannot be used', async t => {
  const provider = await startProvider()
  const untrusted = await startUntrustedServer()
  const nobody = await freePort()
  t.teardown(() => Promise.all([provider.close(), untrusted.close()]))

  const withGateway = async (
    env: Record<string, string>,
    use: (gateway: TestGateway, clock: ManualClock) => Promise<void>,
  ) => {
    const clock = createClock()
    const gateway = await startGateway({ provider: { env: () => ({ ...provider.env(), ...env }) }, clock })
    await use(gateway, clock)
    await gateway.close()
    provider.reset()
  }

  /** The one line of the log that is there however often the gateway is asked. */
  const oneLine = async (gateway: TestGateway) => {
    const browser = createBrowser({ origin: gateway.url })
    for (let round = 0; round < 30; round += 1) await fetch(`${gateway.internalUrl}/readyz`)
    const page = await browser.navigate('/bff/login')
    const lines = gateway.events('provider_unusable')
    return { page, lines, ready: (await fetch(`${gateway.internalUrl}/readyz`)).status }
  }

  const stated = (changes: Json) => () => {
    provider.tamper.discovery = metadata => ({ ...metadata, ...changes })
  }
  const answers = (status: number, headers = {}) => {
    return () => void provider.respond('discovery', { status, headers, body: '<html>canary</html>' })
  }
  const { issuer } = provider
  const discovery = `${issuer}/.well-known/openid-configuration`
  const cases: [string, Record<string, string>, () => unknown, object][] = [
    ['not there', {}, answers(404), { address: discovery, cause: /no metadata document/, mend: /OIDC_DISCOVERY_URL/ }],
    ['moved', {}, answers(301, { location: 'https://canary.example' }), { cause: /leads on/ }],
    ['forbidden', {}, answers(403), { mend: /proxy, firewall/ }],
    ['a web page', {}, answers(200), { cause: /web page/, mend: /OIDC_ISSUER/ }],
    ['in trouble', {}, answers(500), { mend: /status page/ }],
    [
      'of another issuer',
      {},
      stated({ issuer: 'https://login.example/realms/x' }),
      { cause: 'the metadata says https://login.example/realms/x', mend: /set OIDC_ISSUER/ },
    ],
    ['of an issuer that may not be repeated', {}, stated({ issuer: 'https://canary@x' }), { cause: /another issuer/ }],
    ['of an issuer with a slash more', {}, stated({ issuer: `${issuer}/` }), { mend: `set OIDC_ISSUER to ${issuer}/` }],
    ['of many tenants', {}, stated({ issuer: 'https://x.example/{tenantid}' }), { mend: /one tenant/ }],
    ['without an endpoint', {}, stated({ token_endpoint: undefined }), { cause: /no token_endpoint/ }],
    [
      'with a plain http endpoint elsewhere',
      {},
      stated({ token_endpoint: 'http://login.example/canary' }),
      { cause: /plain http/, mend: /X-Forwarded-Proto/ },
    ],
    ['self-signed', { OIDC_ISSUER: untrusted.url }, () => {}, { mend: /NODE_EXTRA_CA_CERTS/ }],
    ['not listening', { OIDC_ISSUER: `http://127.0.0.1:${nobody}` }, () => {}, { cause: /nothing listens/ }],
    ['not in DNS', { OIDC_ISSUER: 'http://login.invalid' }, () => {}, { cause: /DNS/ }],
    ['without TLS', { OIDC_ISSUER: issuer.replace('http:', 'https:') }, () => {}, { mend: /scheme and port/ }],
  ]
  for (const [name, env, arrange, event] of cases)
    t.test(`because its metadata is ${name} is understood from one line`, t =>
      withGateway(env, async gateway => {
        await arrange()
        const { page, lines, ready } = await oneLine(gateway)
        t.equal(lines.length, 1, 'of 32 requests')
        t.match(lines[0], { severity: 'high', document: 'metadata', cause: /.{10}/, mend: /.{10}/, ...event })
        t.notMatch(gateway.log.join(''), 'canary')
        t.strictSame([page.status, ready], [503, 503])
        isPlain(t, page, /cannot be reached/, name)
        const failed = gateway.log.map(line => JSON.parse(line)).find(line => line.msg === 'request failed')
        t.match(
          failed,
          { reference: referenceOn(page), err: { advice: { cause: /./, mend: /./ } } },
          'the page leads to a line',
        )
        t.match(referenceOn(page), /^[a-z]{4}-[a-z]{4}$/)
      }),
    )

  t.test('because of its key set is understood as well, and it is told when it is mended', t =>
    withGateway({}, async (gateway, clock) => {
      provider.respond('jwks', { status: 404, body: 'canary' })
      const { lines } = await oneLine(gateway)
      t.equal(lines.length, 1)
      t.match(lines[0], { document: 'key set', detail: /404/, cause: /no key set/, mend: /public address/ })
      t.strictSame(gateway.events('provider_usable'), [])
      provider.reset()
      clock.advance(31_000)
      for (let round = 0; round < 3; round += 1) t.equal((await fetch(`${gateway.internalUrl}/readyz`)).status, 200)
      t.match(gateway.events('provider_usable'), [{ document: 'key set' }])
      t.equal(gateway.events('provider_usable').length, 1)
    }),
  )
})

test('an outage that meets every request fills no log', async t => {
  const stage = await startStage(t, { provider: { accessTokens: 'jwt' }, env: { LOG_LEVEL: 'info' } })
  const { provider, gateway, clock } = stage
  const browser = await stage.loggedIn('alice')
  clock.advance(3_600_000)
  provider.respond('token', { status: 503 })
  for (let round = 0; round < 100; round += 1) t.equal((await browser.api('/api/items')).status, 503)
  const lines = gateway.log.filter(line => line.includes('request failed'))
  t.ok(lines.length <= 5, `${lines.length} lines for 100 requests`)
  t.match(JSON.parse(lines[0] ?? '{}'), {
    level: 'error',
    err: { advice: { cause: /fault|overloaded/, mend: /status page/ } },
  })
  // The provider's own cookies go by the machine's clock.
  const other = stage.browser(createJar())
  t.equal((await login(other, gateway.url, provider, { user: 'bob' })).status, 503)
})
