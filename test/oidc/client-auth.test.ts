import { X509Certificate } from 'node:crypto'
import { decodeJwt, decodeProtectedHeader, jwtVerify } from 'jose'
import * as client from 'openid-client'
import { test } from 'tap'
import type { ClientAuthentication } from '../../src/core/client-authentication.ts'
import type { AuditEvent } from '../../src/core/events.ts'
import { createClientAuth } from '../../src/oidc/client-auth.ts'
import type { AssertionAudience } from '../../src/oidc/client-credentials.ts'
import { diagnose, judgeClient } from '../../src/oidc/client-refusal.ts'
import type { ProviderFetch } from '../../src/oidc/fetch.ts'
import { createClientKeys, createSecretFiles } from '../support/client-keys.ts'
import { createClock } from '../support/clock.ts'

const server = {
  issuer: 'https://idp.example',
  token_endpoint: 'https://idp.example/oauth/token',
  revocation_endpoint: 'https://idp.example/oauth/revoke',
}
const tokens = { access_token: 'a', token_type: 'Bearer' }
const invalidClient = { status: 401, body: { error: 'invalid_client' } }

type Answer = { status: number; body: unknown; headers?: Record<string, string> }
interface Sent {
  url: string
  form: URLSearchParams
  authorization: string | undefined
}

/** A client of openid-client that authenticates as the gateway does, and a provider that answers as `judge` says. */
function setUp(
  authentication: ClientAuthentication,
  judge: (sent: Sent) => Answer,
  more: Record<string, unknown> = {},
) {
  const { assertionAudience = 'issuer', ...metadata } = more
  const clock = createClock()
  const audits: AuditEvent[] = []
  const sent: Sent[] = []
  const clientAuth = createClientAuth({
    authentication,
    assertionAudience: assertionAudience as AssertionAudience,
    concernsAll: url => !url.includes('/one-tenant/'),
    audit: event => void audits.push(event),
    log: { warn: () => {} },
    clock,
  })
  const fetch: ProviderFetch = async (url, init) => {
    const request = { url, form: new URLSearchParams(String(init?.body)), authorization: init?.headers?.authorization }
    sent.push(request)
    const { status, body, headers } = judge(request)
    return Response.json(body, { status, ...(headers && { headers }) })
  }
  const configuration = new client.Configuration({ ...server, ...metadata }, 'the-client', {}, clientAuth.mark)
  configuration[client.customFetch] = clientAuth.through(fetch) as client.CustomFetch
  const refresh = () => client.refreshTokenGrant(configuration, 'r')
  return {
    clientAuth,
    clock,
    audits,
    sent,
    refresh,
    refused: () =>
      refresh().then(
        () => null,
        error => (error as client.ResponseBodyError).error,
      ),
    revoke: () => client.tokenRevocation(configuration, 'r'),
    events: (name: string) => audits.filter(({ event }) => event === name),
  }
}

const secrets = (...values: string[]): ClientAuthentication => ({
  method: 'client_secret_post',
  secrets: values.map(value => ({ value })),
})
const accepting = (good: () => string) => (sent: Sent) =>
  sent.form.get('client_secret') === good() ? { status: 200, body: tokens } : invalidClient
const presented = (sent: Sent[]) => sent.splice(0).map(({ form }) => form.get('client_secret'))

test('the second secret is tried when the first is refused, and the one that worked last goes first', async t => {
  let good = 'one'
  const { sent, refresh, events } = setUp(
    secrets('one', 'two'),
    accepting(() => good),
  )
  await refresh()
  t.same(presented(sent), ['one'])
  good = 'two'
  await refresh()
  t.same(presented(sent), ['one', 'two'])
  await refresh()
  t.same(presented(sent), ['two'])
  good = 'one'
  await refresh()
  await refresh()
  t.same(presented(sent), ['two', 'one', 'one'])
  t.match(events('client_credential_changed'), [
    { from: 'OIDC_CLIENT_SECRET', to: 'OIDC_CLIENT_SECRET_2' },
    { from: 'OIDC_CLIENT_SECRET_2', to: 'OIDC_CLIENT_SECRET' },
  ])
  t.same(events('client_refused'), [])
})

test('only a refusal of the credential itself brings the next one', async t => {
  const others: Answer[] = [
    { status: 400, body: { error: 'invalid_grant' } },
    { status: 400, body: { error: 'unauthorized_client' } },
    { status: 400, body: { error: 'invalid_request' } },
    { status: 401, body: null },
    { status: 403, body: '<html>' },
  ]
  for (const answer of others) {
    const { sent, refresh } = setUp(secrets('one', 'two'), () => answer)
    await t.rejects(refresh())
    t.same(presented(sent), ['one'], JSON.stringify(answer))
  }
})

test('a secret is sent as it is configured, and a challenge does not hide the refusal', async t => {
  const awkward = 'a~b.c:d +%ä'
  const challenge = { ...invalidClient, headers: { 'www-authenticate': 'Basic realm="x"' } }
  const authentication: ClientAuthentication = {
    method: 'client_secret_basic',
    secrets: [{ value: 'old' }, { value: awkward }],
  }
  const expected = `Basic ${btoa('the-client:a%7Eb.c%3Ad+%2B%25%C3%A4')}`
  const { sent, refresh, refused } = setUp(authentication, ({ authorization }) =>
    authorization === expected ? { status: 200, body: tokens } : challenge,
  )
  await refresh()
  t.equal(sent.at(-1)?.authorization, expected, 'form-encoded first (RFC 6749 §2.3.1)')
  t.notOk(sent.at(-1)?.form.has('client_secret'))
  const hopeless = setUp(authentication, () => challenge)
  t.equal(await hopeless.refused(), 'invalid_client')
  t.equal(await refused(), null)
})

test('a refused client is told of once a minute, with a cause, and makes the gateway unready until it is accepted', async t => {
  let good = 'none'
  const { clientAuth, clock, refused, refresh, events, sent } = setUp(
    secrets('one', 'two'),
    accepting(() => good),
  )
  const probe = () => refresh()
  await clientAuth.ready(probe)
  t.same(await Promise.all(Array.from({ length: 20 }, refused)), Array(20).fill('invalid_client'))
  t.match(events('client_refused'), [
    { severity: 'high', detail: '/oauth/token: invalid_client', cause: /wrong or expired/, mend: /OIDC_CLIENT_SECRET/ },
  ])
  clock.advance(59_999)
  await refused()
  t.equal(events('client_refused').length, 1)
  clock.advance(1)
  await refused()
  t.equal(events('client_refused').length, 2)

  // With no traffic, since it is not ready, only a question of its own can tell that all is well again.
  sent.length = 0
  await t.rejects(clientAuth.ready(probe), { code: 'provider_unavailable' })
  await t.rejects(clientAuth.ready(probe))
  await new Promise(resolve => setImmediate(resolve))
  t.equal(presented(sent).length, 2, 'asked once, by both secrets')
  good = 'two'
  clock.advance(10_000)
  await t.rejects(clientAuth.ready(probe), 'the answer is not waited for')
  await new Promise(resolve => setTimeout(resolve, 20))
  await clientAuth.ready(probe)
  t.equal(events('client_accepted').length, 1)
})

test('the revocation endpoint can refuse the client, and only the token endpoint acquits it there', async t => {
  let [token, revocation]: Answer[] = [{ status: 200, body: tokens }, invalidClient]
  const at = setUp(secrets('one'), ({ url }) => (url.endsWith('/token') ? token : revocation) as Answer)
  const ready = () =>
    at.clientAuth
      .ready(async () => {})
      .then(
        () => true,
        () => false,
      )
  await t.rejects(at.revoke())
  t.equal(await ready(), false)
  await at.refresh()
  t.equal(await ready(), true)
  // Some providers revoke for anybody.
  ;[token, revocation] = [invalidClient, { status: 200, body: {} }]
  await at.refused()
  await at.revoke()
  t.equal(await ready(), false)
})

// A rotation in a file that is written a moment after the provider has changed over must not cost a single request.
test('a file is looked at again before a refusal is believed, by all requests that were refused', async t => {
  const files = createSecretFiles()
  const file = files.write('secret', 'one\n')
  let good = 'one'
  const judge = (sent: Sent) => {
    // The file changes while the refusals are on their way.
    if (good === 'two') files.replace('secret', 'two\n')
    return accepting(() => good)(sent)
  }
  const at = setUp({ method: 'client_secret_post', secrets: [{ file }] }, judge)
  await at.refresh()
  good = 'two'
  await Promise.all(Array.from({ length: 10 }, at.refresh))
  t.equal(at.sent.length, 21)
  t.same(at.audits, [])
})

const rsa = createClientKeys()
function keyFiles({ pem = rsa.pem, certificate }: { pem?: string; certificate?: string } = {}) {
  const files = createSecretFiles()
  const keyFile = files.write('key.pem', pem)
  const certificateFile = certificate === undefined ? undefined : files.write('cert.pem', certificate)
  return { files, keyFile, certificateFile }
}
const good = () => ({ status: 200, body: tokens })
const assertionOf = (sent: Sent | undefined) => sent?.form.get('client_assertion') ?? ''

test('an assertion has one audience, a short life, an id of its own, and is signed by the key', async t => {
  const { keyFile } = keyFiles()
  const authentication = { method: 'private_key_jwt', keyFile, keyId: 'k1', certificateFile: undefined } as const
  const at = setUp(authentication, good)
  for (let call = 0; call < 20; call += 1) await at.refresh()
  const { payload, protectedHeader } = await jwtVerify(assertionOf(at.sent[0]), rsa.publicKey)
  t.same(protectedHeader, { alg: 'RS256', typ: 'JWT', kid: 'k1' })
  const now = Math.floor(at.clock.now() / 1000)
  const [iss, sub] = ['the-client', 'the-client']
  t.match(payload, { iss, sub, aud: 'https://idp.example', iat: now - 10, nbf: now - 10, exp: now + 50 })
  t.equal(new Set(at.sent.map(sent => decodeJwt(assertionOf(sent)).jti)).size, 20)
  const form = at.sent[0]?.form
  t.equal(form?.get('client_assertion_type'), 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer')
  t.equal(form?.get('client_id'), 'the-client')
})

// Entra ID refuses a kid alone (AADSTS700027) and a list of audiences (AADSTS50027).
test('with a certificate the key is named by its thumbprint, and the audience may be the token endpoint', async t => {
  const { keyFile, certificateFile } = keyFiles({ certificate: rsa.certificate })
  const authentication = { method: 'private_key_jwt', keyFile, keyId: undefined, certificateFile } as const
  const at = setUp(authentication, good, { assertionAudience: 'token_endpoint' })
  await at.refresh()
  const hex = new X509Certificate(rsa.certificate).fingerprint256.replaceAll(':', '')
  const header = { alg: 'PS256', typ: 'JWT', 'x5t#S256': Buffer.from(hex, 'hex').toString('base64url') }
  t.same(decodeProtectedHeader(assertionOf(at.sent[0])), header)
  t.equal((await jwtVerify(assertionOf(at.sent[0]), rsa.publicKey)).payload.aud, server.token_endpoint)
})

test('the algorithm fits the key, and the metadata where it names one that does', async t => {
  const ec = createClientKeys('P-256')
  const edwards = createClientKeys('ed25519')
  const cases: [pem: string, supported: unknown, algorithm: string][] = [
    [rsa.pem, undefined, 'RS256'],
    [rsa.pem, ['PS256', 'ES256'], 'PS256'],
    [rsa.pem, ['ES256'], 'RS256'],
    [ec.pem, ['RS256'], 'ES256'],
    [edwards.pem, undefined, 'EdDSA'],
    [edwards.pem, ['Ed25519'], 'Ed25519'],
  ]
  for (const [pem, supported, algorithm] of cases) {
    const { keyFile } = keyFiles({ pem })
    const metadata = supported === undefined ? {} : { token_endpoint_auth_signing_alg_values_supported: supported }
    const authentication = { method: 'private_key_jwt', keyFile, keyId: undefined, certificateFile: undefined } as const
    const at = setUp(authentication, good, metadata)
    await at.refresh()
    t.same(decodeProtectedHeader(assertionOf(at.sent[0])), { alg: algorithm, typ: 'JWT' })
  }
})

test('a key and its certificate change together or not at all', async t => {
  const next = createClientKeys()
  const { files, keyFile, certificateFile } = keyFiles({ certificate: rsa.certificate })
  const at = setUp({ method: 'private_key_jwt', keyFile, keyId: undefined, certificateFile }, good)
  const signer = async () => {
    at.clock.advance(1000)
    await at.refresh()
    const assertion = assertionOf(at.sent.at(-1))
    const verifies = (key: typeof rsa) => jwtVerify(assertion, key.publicKey, { currentDate: new Date(at.clock.now()) })
    return verifies(rsa).then(
      () => 'old',
      () => verifies(next).then(() => 'new'),
    )
  }
  t.equal(await signer(), 'old')
  files.replace('key.pem', next.pem)
  t.equal(await signer(), 'old', 'half of the pair is replaced')
  files.replace('cert.pem', next.certificate)
  t.equal(await signer(), 'new')
})

test('an assertion that somebody else signs is taken from its file as it is now', async t => {
  const files = createSecretFiles()
  const at = setUp({ method: 'federated_assertion', file: files.write('jwt', 'aaa.bbb.one\n') }, good)
  await at.refresh()
  for (const text of ['aaa.bbb.two', 'no assertion', '']) {
    files.replace('jwt', text)
    at.clock.advance(1000)
    await at.refresh()
  }
  t.same(at.sent.map(assertionOf), ['aaa.bbb.one', 'aaa.bbb.two', 'aaa.bbb.two', 'aaa.bbb.two'])
})

test('the likely cause goes by the way of authenticating, and by what Entra ID tells more exactly', async t => {
  const cases: [ClientAuthentication['method'], object, RegExp][] = [
    ['client_secret_post', { error: 'invalid_client' }, /wrong or expired/],
    ['client_secret_post', { error: 'invalid_client', error_codes: [7000215] }, /ID of the secret/],
    ['client_secret_basic', { error: 'invalid_client', error_codes: [7000222] }, /has expired/],
    ['private_key_jwt', { error: 'invalid_client' }, /does not know the key/],
    ['private_key_jwt', { error: 'invalid_client', error_codes: [700027] }, /not registered/],
    ['federated_assertion', { error: 'invalid_client', error_codes: ['x', {}] }, /does not trust/],
    ['client_secret_post', { error: 'unauthorized_client' }, /not allowed to use this grant/],
  ]
  for (const [method, body, cause] of cases) t.match(diagnose(judgeClient(401, body), method).cause, cause)
})
