import { type Test, test } from 'tap'
import { createBrowser } from '../support/browser.ts'
import { createClock } from '../support/clock.ts'
import { eventually } from '../support/eventually.ts'
import { claims, padded, show, wrongValues } from '../support/forgeries.ts'
import { startGateway } from '../support/gateway.ts'
import { type Refusal, startHouse } from '../support/hostile-provider.ts'
import { type Json, startProvider, type TestProvider } from '../support/provider.ts'
import { startUntrustedServer } from '../support/self-signed.ts'

const hourMs = 3_600_000
const dayMs = 24 * hourMs

/** How a login fails whose metadata cannot be used: before it began. */
const notBegun: Refusal = { status: 503, revoked: 'nothing' }

test('the metadata of the provider', async t => {
  const house = await startHouse(t)
  const { provider, clock, gateway } = house
  const ready = async () => (await fetch(`${gateway.internalUrl}/readyz`)).status

  const refuseMetadata = async (t: Test, name: string, arrange: (provider: TestProvider) => unknown) => {
    const misled = async (provider: TestProvider) => {
      clock.advance(dayMs)
      await arrange(provider)
      t.equal(await ready(), 503, `not ready: ${name}`)
      clock.advance(31_000)
    }
    await house.refuses(t, name, misled, { ...notBegun, recover: () => clock.advance(31_000) })
  }
  await house.accepts(t, 'honest metadata')

  t.test('metadata of another issuer is not used', async t => {
    // The attacker's metadata, or that of another tenant, is served at the address of ours (OpenID Connect Discovery §4.3, RFC 8414 §6.2).
    const { issuer } = provider
    const others = [
      undefined,
      ...wrongValues,
      'https://login.example',
      house.evil.url,
      `${issuer}/`,
      `${issuer}#`,
      issuer.toUpperCase(),
      issuer.replace('http', 'https'),
      issuer.replace('127.0.0.1', 'localhost'),
      [issuer],
    ]
    for (const other of others)
      await refuseMetadata(t, `issuer ${show(other)}`, provider => {
        provider.tamper.discovery = metadata => ({ ...metadata, issuer: other })
      })
  })

  t.test('endpoints that are missing, or no https, are not used', async t => {
    // An endpoint on plain http gets the client secret and the code where everybody on the way can read them (RFC 6749 §3.2, RFC 9700 §2.6).
    const bad = [
      ...wrongValues,
      'http://login.example/endpoint',
      'http:login.example',
      'javascript:alert(1)',
      'data:text/html,x',
      'file:///etc/passwd',
      'ftp://127.0.0.1/endpoint',
      '//login.example/endpoint',
      '/endpoint',
      'https://',
      'redis://127.0.0.1',
    ]
    const required = ['authorization_endpoint', 'token_endpoint', 'jwks_uri']
    const optional = [
      'userinfo_endpoint',
      'revocation_endpoint',
      'end_session_endpoint',
      'pushed_authorization_request_endpoint',
    ]
    for (const name of [...required, ...optional])
      for (const endpoint of required.includes(name) ? [undefined, ...bad] : bad)
        await refuseMetadata(t, `${name} ${show(endpoint)}`, provider => {
          provider.tamper.discovery = metadata => ({ ...metadata, [name]: endpoint })
        })
  })

  t.test('what is no metadata document is not used', async t => {
    // A captive portal, a proxy's error page or a flood in the place of the document.
    const documents: [string, (honest: string) => string][] = [
      ['a list', text => `[${text}]`],
      ['null', () => 'null'],
      ['a text', () => '"https://login.example"'],
      ['a number', () => '0'],
      ['nothing', () => ''],
      ['an empty object', () => '{}'],
      ['HTML', () => '<html>'],
      ['half a document', text => text.slice(0, -1)],
      ['a megabyte', text => padded(text, `"x":"${'x'.repeat(1 << 20)}"`)],
    ]
    for (const [name, make] of documents)
      await refuseMetadata(t, name, provider => {
        provider.tamper.discovery = metadata => make(JSON.stringify(metadata))
      })
  })

  t.test('members that nobody asked for never break a login', async t => {
    // A member of the wrong type, or nested without end, reaches code that trusts metadata.
    const names = [
      'authorization_response_iss_parameter_supported',
      'code_challenge_methods_supported',
      'token_endpoint_auth_methods_supported',
      'token_endpoint_auth_signing_alg_values_supported',
      'id_token_signing_alg_values_supported',
      'mtls_endpoint_aliases',
      'require_pushed_authorization_requests',
      'dpop_signing_alg_values_supported',
      '__proto__',
      'constructor',
    ]
    const texts = ['null', '0', '"x"', '[]', '{}', '[[null]]', '['.repeat(150_000) + ']'.repeat(150_000)]
    for (const name of names)
      for (const text of name === '__proto__' ? texts : [...texts, 'true'])
        await house.decides(
          t,
          `${name} ${text.slice(0, 20)}`,
          provider => {
            clock.advance(dayMs)
            provider.tamper.discovery = metadata =>
              padded(JSON.stringify({ ...metadata, [name]: undefined }), `"${name}":${text}`)
          },
          { revoked: 'nothing', recover: () => clock.advance(dayMs) },
        )
  })

  t.test('metadata that was good is used for a day without the provider, and no longer', async t => {
    // Old metadata kept forever sends logins to an endpoint that may be somebody else's by now.
    const lying = (laterMs: number) => () => {
      provider.tamper.discovery = metadata => ({ ...metadata, issuer: house.evil.url, token_endpoint: house.evil.url })
      clock.advance(laterMs)
    }
    await house.accepts(t, 'honest metadata', () => clock.advance(dayMs))
    await house.accepts(t, 'after two hours', lying(2 * hourMs))
    await house.accepts(t, 'after 23 hours', lying(21 * hourMs))
    await house.refuses(t, 'after 24 hours', lying(hourMs), {
      ...notBegun,
      recover: () => clock.advance(31_000),
    })
  })
})

test('of an https issuer every endpoint is https', async t => {
  // A downgrade of one endpoint, by metadata that came from a cache or a proxy (RFC 9700 §2.6).
  const clock = createClock()
  const provider = await startProvider()
  const issuer = 'https://login.example'
  const gateway = await startGateway({
    provider: {
      env: () => ({
        ...provider.env(),
        OIDC_ISSUER: issuer,
        OIDC_DISCOVERY_URL: `${provider.issuer}/.well-known/openid-configuration`,
      }),
    },
    clock,
  })
  t.teardown(async () => {
    await gateway.close()
    await provider.close()
  })
  const browser = createBrowser({ origin: gateway.url })
  const login = async (changes: Json) => {
    provider.tamper.discovery = metadata => ({
      ...metadata,
      issuer,
      ...Object.fromEntries(
        Object.entries(metadata).map(([name, value]) => [
          name,
          typeof value === 'string' ? value.replace(provider.issuer, issuer) : value,
        ]),
      ),
      ...changes,
    })
    clock.advance(dayMs)
    const { status, headers } = await browser.request('/bff/login')
    return [status, headers.location?.split('?')[0]]
  }
  const honest = [302, `${issuer}/auth`]
  t.strictSame(await login({}), honest)
  for (const name of [
    'authorization_endpoint',
    'token_endpoint',
    'jwks_uri',
    'userinfo_endpoint',
    'revocation_endpoint',
    'end_session_endpoint',
    'pushed_authorization_request_endpoint',
  ])
    for (const address of ['http://login.example/x', `${provider.issuer}/x`, 'http://localhost/x'])
      t.strictSame(await login({ [name]: address }), [503, undefined], `${name} ${address.replace(/\d{4,}/, 'port')}`)
  t.strictSame(await login({}), honest)
  t.equal(provider.tokenCalls().length, 0)
})

test('a provider whose certificate nobody vouches for is not talked to', async t => {
  // An attacker on the way answers in the provider's name, with a certificate of his own (RFC 9700 §2.6, OWASP ASVS 12.3.2).
  const untrusted = await startUntrustedServer()
  const house = await startHouse(t)
  t.teardown(untrusted.close)
  const { clock } = house

  const elsewhere = await startGateway({
    provider: { env: () => ({ ...house.provider.env(), OIDC_ISSUER: untrusted.url }) },
  })
  t.teardown(elsewhere.close)
  const { status, headers } = await createBrowser({ origin: elsewhere.url }).request('/bff/login')
  t.strictSame([status, headers.location], [503, undefined])
  t.equal((await fetch(`${elsewhere.internalUrl}/readyz`)).status, 503)

  const moved: [string, Refusal][] = [
    ['token_endpoint', notBegun],
    ['jwks_uri', { status: 503 }],
    ['userinfo_endpoint', { status: 503 }],
  ]
  for (const [name, refusal] of moved)
    await house.refuses(
      t,
      `${name} there`,
      provider => {
        provider.tamper.discovery = metadata => ({ ...metadata, [name]: `${untrusted.url}/x` })
        clock.advance(dayMs)
      },
      { ...refusal, recover: () => clock.advance(dayMs) },
    )
  await house.accepts(t, 'a revocation endpoint there', provider => {
    provider.tamper.discovery = metadata => ({ ...metadata, revocation_endpoint: `${untrusted.url}/x` })
    clock.advance(dayMs)
  })
  house.provider.tamper.idToken = claims({ exp: 1 })
  await house.attempt()
  const outcomes = () => house.gateway.events('revocation').map(({ outcome }) => outcome)
  t.ok(await eventually(() => outcomes().length === 1))
  t.strictSame(outcomes(), ['pending'])
  t.ok(untrusted.connections >= 5, 'it was tried')
  t.equal(untrusted.requests, 0, 'and nothing was said')
})
