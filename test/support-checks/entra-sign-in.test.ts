import { createPublicKey, X509Certificate } from 'node:crypto'
import { test } from 'tap'
import { createBrowser } from '../support/browser.ts'
import { readJwt } from '../support/entra/jwt.ts'
import { callbackErrors, errors, forged, graphAudience, personalTenant, startEntra } from '../support/entra.ts'
import { formOf } from '../support/page-form.ts'
import { createSigningKey, type Json } from '../support/provider.ts'
import { createApp, redirectUri } from './entra-app.ts'

test('documents and logins are those of Entra', async t => {
  const contoso = '11111111-1111-4111-8111-111111111111'
  const entra = await startEntra({
    tenants: [contoso, '44444444-4444-4444-8444-444444444444'],
    domains: { 'contoso.test': contoso },
  })
  t.teardown(() => entra.close())
  t.afterEach(() => {
    t.same(entra.errors, [], 'nothing broke inside')
    entra.reset()
  })
  const app = createApp(entra)
  const [home = '', other = ''] = entra.tenants
  const guid = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/

  t.test('the metadata of a tenant says what Entra says and leaves out what Entra leaves out', async t => {
    const { status, headers, json } = await app.document(`${home}/v2.0/.well-known/openid-configuration`)
    t.equal(status, 200)
    t.equal(headers.get('cache-control'), 'max-age=86400, private')
    t.match(json, {
      issuer: `${entra.origin}/${home}/v2.0`,
      authorization_endpoint: `${entra.origin}/${home}/oauth2/v2.0/authorize`,
      token_endpoint: `${entra.origin}/${home}/oauth2/v2.0/token`,
      jwks_uri: `${entra.origin}/${home}/discovery/v2.0/keys`,
      end_session_endpoint: `${entra.origin}/${home}/oauth2/v2.0/logout`,
      response_modes_supported: ['query', 'fragment', 'form_post'],
      subject_types_supported: ['pairwise'],
      id_token_signing_alg_values_supported: ['RS256'],
      token_endpoint_auth_methods_supported: ['client_secret_post', 'private_key_jwt', 'client_secret_basic'],
      request_uri_parameter_supported: false,
      http_logout_supported: true,
      frontchannel_logout_supported: true,
    })
    const absent =
      /revocation|introspection|code_challenge|grant_types|backchannel|claims_parameter|pushed|iss_parameter|acr_values/
    t.same(
      Object.keys(json).filter(name => absent.test(name)),
      [],
    )
    const byDomain = await app.document('contoso.test/v2.0/.well-known/openid-configuration')
    t.equal(byDomain.json.issuer, entra.issuer)
    t.equal((await app.document('unknown.test/v2.0/.well-known/openid-configuration')).status, 400)
    t.equal((await fetch(`${entra.origin}/token/revocation`, { method: 'POST' })).status, 404)
  })

  t.test('the metadata for every tenant has a template for its issuer', async t => {
    for (const authority of ['organizations', 'common']) {
      const { json } = await app.document(`${authority}/v2.0/.well-known/openid-configuration`)
      t.equal(json.issuer, `${entra.origin}/{tenantid}/v2.0`)
      t.equal(json.token_endpoint, `${entra.origin}/${authority}/oauth2/v2.0/token`)
    }
  })

  t.test('each key names its issuer and its certificate, and not its algorithm', async t => {
    const { json } = await app.document(`${home}/discovery/v2.0/keys`)
    const [first, second, ...rest] = json.keys as (Json & { x5c: string[] })[]
    t.match(first, { kty: 'RSA', use: 'sig', e: 'AQAB', issuer: `${entra.origin}/{tenantid}/v2.0` })
    t.match(second, { issuer: `${entra.origin}/${personalTenant}/v2.0` })
    t.same(rest, [])
    for (const key of [first, second]) {
      t.equal(key?.x5t, key?.kid)
      t.notOk(key && 'alg' in key)
      const certificate = new X509Certificate(Buffer.from(key?.x5c[0] ?? '', 'base64'))
      t.ok(certificate.publicKey.equals(createPublicKey({ key: key as Json as never, format: 'jwk' })))
    }
    await entra.rotateKeys({ keepOld: false })
    const rotated = await app.document(`${home}/discovery/v2.0/keys`)
    t.not((rotated.json.keys as Json[])[0]?.kid, first?.kid)
    entra.respond('jwks', { status: 503 }, { times: 1 })
    t.equal((await fetch(app.at('discovery/v2.0/keys'))).status, 503)
  })

  t.test('whoever signs in for every tenant gets tokens of the own one', async t => {
    entra.users.set('mallory', { tid: other })
    const { status, idToken } = await app.login({ user: 'mallory', authority: 'organizations' })
    t.equal(status, 200)
    t.match(idToken, { tid: other, iss: `${entra.origin}/${other}/v2.0` })
    const guest = await app.login({ user: 'mallory' })
    t.match(guest.idToken, { tid: home, iss: `${entra.origin}/${home}/v2.0` }, 'a guest is one of the tenant')
    t.not(guest.idToken.oid, idToken.oid)
  })

  t.test('ID tokens can be wrong in every way that matters', async t => {
    const spare = await createSigningKey('RS256')
    const evil = '22222222-2222-4222-8222-222222222222'
    const of = async (forgery: typeof entra.tamper.idToken) => {
      entra.tamper.idToken = forgery
      const answer = await app.login()
      t.equal(answer.status, 200)
      return { ...answer, jwt: readJwt(String(answer.json.id_token)) }
    }
    t.match((await of(forged.ofTenant(evil))).idToken, { tid: evil, iss: `${entra.origin}/${evil}/v2.0` })
    t.match((await of(forged.tidOnly(evil))).idToken, { tid: evil, iss: entra.issuer })
    t.match((await of(forged.issuerOnly(evil))).idToken, { tid: home, iss: `${entra.origin}/${evil}/v2.0` })
    t.equal((await of(forged.nonce())).idToken.nonce, 'another')
    t.equal((await of(forged.audience())).idToken.aud, 'another')
    t.ok(Number((await of(forged.expired())).idToken.exp) < Date.now() / 1000 - 3600)
    t.equal((await of(forged.badSignature())).jwt?.signedBy(entra.keys.current().publicKey), false)
    const foreign = await of(forged.byKey(entra.keys.foreign))
    t.ok(foreign.jwt?.signedBy(entra.keys.foreign.publicKey))
    t.equal((await of(forged.unknownKid(spare))).jwt?.header.kid, spare.kid)
    entra.reset()
    t.ok((await of(entra.tamper.idToken)).jwt?.signedBy(entra.keys.current().publicKey), 'the honest one is sound')
  })

  t.test('a code becomes tokens for one resource', async t => {
    entra.users.set('alice', { roles: ['Teller'] })
    const callback = await app.signIn()
    t.same([...callback.searchParams.keys()].sort(), ['code', 'session_state', 'state'], 'the callback has no iss')
    const { status, headers, json, idToken, accessToken } = await app.redeem(callback, {
      scope: 'openid offline_access api://a/x',
    })
    t.equal(status, 200)
    t.match(headers.get('cache-control'), 'no-store')
    t.same(Object.keys(json).sort(), [
      'access_token',
      'expires_in',
      'ext_expires_in',
      'id_token',
      'refresh_token',
      'scope',
      'token_type',
    ])
    t.match(json, { token_type: 'Bearer', scope: 'api://a/x' })
    t.ok(Number(json.expires_in) >= 3600 && Number(json.expires_in) <= 5400)
    t.match(accessToken, { aud: 'api://a', ver: '2.0', tid: home, azp: entra.clientId, scp: 'x' })
    t.match(idToken, { ver: '2.0', tid: home, aud: entra.clientId, nonce: 'nonce-1', roles: ['Teller'] })
    t.match(idToken, { oid: guid, sid: guid, login_hint: /^O\./, uti: /.{10}/, preferred_username: 'alice' })
    t.not(idToken.sub, 'alice', 'the subject is pairwise')
    t.notOk('at_hash' in idToken || 'amr' in idToken || 'acr' in idToken)
    const again = await app.redeem(callback)
    t.match(again.json, { error: 'invalid_grant', error_codes: [54005] }, 'a code is good once')
    const bare = await app.login({ scope: 'openid offline_access' })
    t.notOk('oid' in bare.idToken || 'name' in bare.idToken, 'without profile nobody is named')
    entra.knobs.optionalClaims = []
    t.notOk('sid' in (await app.login()).idToken)
    entra.knobs.optionalClaims = ['sid', 'login_hint']
  })

  t.test('a login may name several resources and a code only one, redeemed where it was issued', async t => {
    const scope = 'openid offline_access api://a/x api://b/x'
    const both = await app.redeem(await app.signIn({ scope }), { scope })
    t.equal(both.status, 400)
    t.match(both.json, { error: 'invalid_request', error_codes: [28000] })
    t.match((await app.redeem(await app.signIn({ scope }))).json, { error_codes: [28000] })
    const one = await app.redeem(await app.signIn({ scope }), { scope: 'openid api://b/x' })
    t.equal(one.accessToken.aud, 'api://b')
    t.match((await app.redeem(await app.signIn({}), {}, other)).json, { error_codes: [700005] })
    t.equal((await app.redeem(await app.signIn({ authority: 'contoso.test' }))).status, 200, 'a domain is its tenant')
  })

  t.test('unqualified scopes are those of Graph, whose tokens nobody else can verify', async t => {
    for (const scope of ['openid offline_access', 'openid offline_access User.Read']) {
      const { json, accessToken } = await app.login({ scope })
      t.equal(accessToken.aud, graphAudience)
      const jwt = readJwt(String(json.access_token))
      t.ok(jwt?.header.nonce)
      t.notOk(jwt?.signedBy(entra.keys.current().publicKey))
    }
    t.match((await app.signIn({ scope: 'openid api' })).search, 'AADSTS650053')
  })

  t.test('the resource parameter is refused everywhere', async t => {
    const callback = await app.signIn({ resource: 'api://a' })
    t.match(callback.searchParams.get('error_description'), /^AADSTS9010010: /)
    const { status, json } = await app.redeem(await app.signIn(), { resource: 'api://a' })
    t.equal(status, 400)
    t.match(json, { error: 'invalid_request', error_codes: [901002] })
  })

  t.test('more than 200 groups are only hinted at', async t => {
    const groups = Array.from({ length: 201 }, (_, index) => `${index}`)
    entra.users.set('many', { groups, overageEndpoint: 'https://evil.test/x' })
    entra.users.set('few', { groups: groups.slice(1) })
    const { idToken } = await app.login({ user: 'many' })
    t.notOk('groups' in idToken)
    t.match(idToken, {
      _claim_names: { groups: 'src1' },
      _claim_sources: { src1: { endpoint: 'https://evil.test/x' } },
    })
    t.equal(((await app.login({ user: 'few' })).idToken.groups as string[]).length, 200)
  })

  t.test('logins that fail come back with a session_state, those refused by the test too', async t => {
    const browser = createBrowser()
    const page = await browser.navigate(app.authorizeUrl())
    t.same(formOf(page.text)?.names, ['login', 'password'], 'a login form is shown')
    const declined = await browser.navigate(page.url, {
      method: 'POST',
      body: new URLSearchParams({ abort: '1' }),
      from: page.url,
      stopBefore: url => url.origin !== entra.origin,
    })
    const answer = new URL(declined.headers.location ?? '').searchParams
    t.equal(answer.get('error'), 'access_denied')
    t.ok(answer.has('session_state') && answer.has('state'))
    t.equal((await app.signIn({ prompt: 'none' })).searchParams.get('error'), 'login_required')
    for (const refusal of [callbackErrors.interactionRequired, callbackErrors.consentRequired]) {
      entra.refuseAuthorize({ params: { prompt: 'none' }, times: 1 }, refusal)
      const { searchParams } = await app.signIn({ prompt: 'none' })
      t.equal(searchParams.get('error'), refusal.error)
      t.match(searchParams.get('error_description'), new RegExp(`^AADSTS${refusal.code}: [^]*\r\nTrace ID: `))
      t.ok(searchParams.has('session_state'))
    }
    t.ok((await app.signIn()).searchParams.has('code'), 'nothing else is refused')
  })

  t.test('form_post is a page that submits itself, in success and failure', async t => {
    const browser = createBrowser()
    await app.signIn({}, browser)
    const page = await browser.navigate(app.authorizeUrl({ response_mode: 'form_post' }))
    const form = formOf(page.text)
    t.match(form, { action: redirectUri, method: 'POST' })
    t.ok(form?.fields.has('code') && form.fields.has('session_state'))
    t.match(page.text, 'submit()')
    entra.refuseAuthorize({ times: 1 }, callbackErrors.accessDenied)
    const refused = formOf((await browser.navigate(app.authorizeUrl({ response_mode: 'form_post' }))).text)
    t.equal(refused?.fields.get('error'), 'access_denied')
  })

  t.test('the journal tells what an authorization request asked for', async t => {
    entra.clear()
    const claims = { access_token: { acrs: { essential: true, value: 'c1' }, xms_cc: { values: ['cp1'] } } }
    const params = { claims: JSON.stringify(claims), login_hint: 'O.x', domain_hint: 'contoso.test', prompt: 'login' }
    const { accessToken, json } = await app.login(params)
    const [asked] = entra.authorizations()
    t.same(asked?.claims, claims)
    t.match(asked, { resources: ['api://a'], scopes: ['openid', 'profile', 'offline_access', 'api://a/x'] })
    for (const name of ['login_hint', 'domain_hint', 'prompt'] as const) t.equal(asked?.params.get(name), params[name])
    t.match(accessToken, { acrs: ['c1'], xms_cc: ['cp1'] })
    t.ok(Number(json.expires_in) >= 72_000, 'such a token lives a day')
    t.equal(entra.authorizations().length, 1)
  })

  t.test('an authorization request may be posted', async t => {
    entra.autoLogin = 'alice'
    const url = new URL(app.authorizeUrl())
    const page = await createBrowser().navigate(url.origin + url.pathname, {
      method: 'POST',
      body: url.searchParams,
      stopBefore: at => at.origin !== entra.origin,
    })
    entra.autoLogin = undefined
    t.equal((await app.redeem(new URL(page.headers.location ?? ''))).status, 200)
    t.ok(entra.authorizations().at(-1)?.params.has('code_challenge'))
  })

  t.test('too long a query and an unknown redirect URI never come back', async t => {
    const long = await fetch(app.authorizeUrl({ claims: 'x'.repeat(9000) }), { redirect: 'manual' })
    t.equal(long.status, 400)
    t.match(await long.text(), 'AADSTS90015')
    const foreign = await fetch(app.authorizeUrl({ redirect_uri: 'https://evil.test/cb' }), { redirect: 'manual' })
    t.match(await foreign.text(), 'AADSTS50011')
  })

  t.test('the redirect URI of a SPA wants an Origin', async t => {
    entra.spaRedirectUris.add(redirectUri)
    const { json } = await app.redeem(await app.signIn())
    t.match(json, { error: 'invalid_request', error_codes: [9002327] })
    entra.spaRedirectUris.clear()
    t.same(json.error_codes, (errors.spaWithoutOrigin().body as Json).error_codes)
  })
})
