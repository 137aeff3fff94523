import { createHash, createPrivateKey, randomUUID } from 'node:crypto'
import { test } from 'tap'
import { createCertificate, createWorkloadIssuer } from '../support/entra/workload.ts'
import { err, errors, forged, startEntra } from '../support/entra.ts'
import { compactJws, createSigningKey } from '../support/provider/keys.ts'
import type { Json, RawAnswer } from '../support/provider.ts'
import { createApp, redirectUri } from './entra-app.ts'

const refresh = 'refresh_token'
const description =
  /^AADSTS\d+: [^\r\n]+\r\nTrace ID: [\w-]{36}\r\nCorrelation ID: [\w-]{36}\r\nTimestamp: 2026-01-01 00:00:00Z$/

test('the token endpoint answers as that of Entra', async t => {
  const entra = await startEntra({ unconsented: ['api://private'] })
  t.teardown(() => entra.close())
  t.afterEach(() => {
    t.same(entra.errors, [], 'nothing broke inside')
    entra.reset()
  })
  const app = createApp(entra)
  const [, other = ''] = entra.tenants

  t.test('one refresh token serves any consented resource, and the replaced one works on', async t => {
    const { refreshToken } = await app.login()
    const b = await app.refresh(refreshToken, { scope: 'openid api://b/.default' })
    t.equal(b.status, 200)
    t.match(b.json, { scope: 'api://b/x api://b/y' })
    t.equal(b.accessToken.aud, 'api://b')
    t.not(b.refreshToken, refreshToken)
    const old = await app.refresh(refreshToken, { scope: 'api://a/x' })
    t.match(old.accessToken, { aud: 'api://a', scp: 'x' })
    t.equal(entra.replays().length, 1, 'the journal knows it for a replay')
    t.notOk('id_token' in old.json, 'without openid there is no ID token')
    t.equal((await app.refresh(old.refreshToken)).status, 200)
    const graph = await app.refresh(refreshToken, { scope: 'openid offline_access' })
    t.match(graph.json, { scope: 'https://graph.microsoft.com/User.Read' })
    const elsewhere = await app.refresh(refreshToken, {}, other)
    t.equal(elsewhere.accessToken.tid, other, 'and any tenant')
    t.same(entra.refreshes()[0]?.resources, ['api://b'])
  })

  t.test('a refresh names the scopes of exactly one resource', async t => {
    const { refreshToken } = await app.login()
    const cases: [Json, string | undefined, number][] = [
      [{ error: 'invalid_request' }, undefined, 90009],
      [{ error: 'invalid_request' }, 'api://a/x api://b/x', 28000],
      [{ error: 'invalid_scope' }, 'api://a/.default api://a/x', 70011],
    ]
    for (const [error, scope, code] of cases) {
      const { status, json } = await app.refresh(refreshToken, { scope })
      t.equal(status, 400)
      t.match(json, { ...error, error_codes: [code], error_description: description })
    }
    const { json } = await app.refresh(refreshToken, { resource: 'api://a' })
    t.match(json, { error: 'invalid_request', error_codes: [901002] })
  })

  t.test('the nonce is repeated on refresh or left out', async t => {
    const { refreshToken } = await app.login()
    t.equal((await app.refresh(refreshToken)).idToken.nonce, 'nonce-1')
    entra.knobs.nonceOnRefresh = 'omitted'
    t.notOk('nonce' in (await app.refresh(refreshToken)).idToken)
    entra.knobs.nonceOnRefresh = 'repeated'
  })

  t.test('a refresh may bring the ID token of somebody else', async t => {
    const { refreshToken, idToken } = await app.login()
    for (const changes of [{ sub: 'x' }, { oid: randomUUID() }, { tid: other }]) {
      entra.tamper.idToken = forged.otherUser(changes)
      t.match((await app.refresh(refreshToken)).idToken, changes)
      t.equal((await app.login()).idToken.sub, idToken.sub, 'logins stay honest')
    }
  })

  t.test('revocation ends the refresh tokens of the user, and no others', async t => {
    const [alice, bob] = [await app.login(), await app.login({ user: 'bob' })]
    const next = await app.refresh(alice.refreshToken)
    entra.revokeSessions('alice')
    for (const token of [alice.refreshToken, next.refreshToken]) {
      const { status, json } = await app.refresh(token)
      t.equal(status, 400)
      t.match(json, { error: 'invalid_grant', error_codes: [50173], suberror: 'bad_token' })
    }
    t.equal((await app.refresh(bob.refreshToken)).status, 200)
    t.equal((await app.refresh((await app.login()).refreshToken)).status, 200, 'a new login is a new beginning')
  })

  t.test('every error of the list comes word for word, for the requests it is meant for', async t => {
    const { refreshToken } = await app.login()
    const bob = await app.login({ user: 'bob' })
    const claims = (member: string) => new RegExp(`^{"access_token":{"${member}":{"essential":true,"values":\\["`)
    const list: [RawAnswer, number, string, number, Json][] = [
      [errors.revoked(), 400, 'invalid_grant', 50173, { suberror: 'bad_token' }],
      [errors.idle(), 400, 'invalid_grant', 700082, {}],
      [errors.spa(), 400, 'invalid_grant', 700084, {}],
      [errors.signInFrequency(), 400, 'invalid_grant', 70043, { suberror: 'token_expired' }],
      [errors.mfa(), 400, 'invalid_grant', 50076, { suberror: 'basic_action', claims: claims('capolids') }],
      [errors.mfaOld(), 400, 'interaction_required', 50079, { claims: claims('polids') }],
      [errors.consent(), 400, 'invalid_grant', 65001, { suberror: 'consent_required' }],
      [errors.blocked(), 400, 'invalid_grant', 53003, {}],
      [errors.blocked('message_only'), 400, 'invalid_grant', 53003, { suberror: 'message_only' }],
      [errors.secretWrong(), 401, 'invalid_client', 7000215, {}],
      [errors.secretExpired(), 401, 'invalid_client', 7000222, {}],
      [errors.throttled(), 429, 'temporarily_unavailable', 90055, {}],
      [errors.unavailable(504), 504, 'temporarily_unavailable', 90033, {}],
      [errors.loop(), 400, 'invalid_grant', 50196, {}],
      [err(400, 'invalid_request', 4711, { more: true }), 400, 'invalid_request', 4711, { more: true }],
    ]
    for (const [answer, status, error, code, extra] of list) {
      const scripted = entra.refuse({ grant: refresh, scope: 'api://b', user: 'alice', times: 1 }, answer)
      t.equal((await app.refresh(refreshToken)).status, 200, 'another resource is served')
      t.equal((await app.refresh(bob.refreshToken, { scope: 'api://b/x' })).status, 200, 'another user, too')
      const refused = await app.refresh(refreshToken, { scope: 'openid api://b/.default' })
      t.equal(refused.status, status)
      t.match(refused.json, { error, error_codes: [code], error_description: description, ...extra })
      t.match(refused.json, {
        timestamp: '2026-01-01 00:00:00Z',
        trace_id: /^[\w-]{36}$/,
        correlation_id: /^[\w-]{36}$/,
        error_uri: `https://login.microsoftonline.com/error?code=${code}`,
      })
      t.equal(refused.headers.get('retry-after'), status === 429 ? '7' : null)
      t.equal(scripted.calls, 1)
      t.equal((await app.refresh(refreshToken, { scope: 'api://b/x' })).status, 200, 'once was enough')
      entra.knobs.loopLimit = 1000
    }
    entra.knobs.loopLimit = 20
  })

  t.test('a resource that nobody consented to is opened by a login with its scope', async t => {
    const { refreshToken } = await app.login()
    const refused = await app.refresh(refreshToken, { scope: 'api://private/x' })
    t.match(refused.json, { error: 'invalid_grant', error_codes: [65001], suberror: 'consent_required' })
    await app.login({ scope: 'openid offline_access api://private/x' })
    t.equal((await app.refresh(refreshToken, { scope: 'api://private/x' })).status, 200)
  })

  t.test('claims on refresh are granted, or want a login that satisfies them', async t => {
    const claims = JSON.stringify({ access_token: { acrs: { essential: true, value: 'c1' } } })
    const { refreshToken } = await app.login()
    const refused = await app.refresh(refreshToken, { claims })
    t.match(refused.json, { error: 'invalid_grant', suberror: 'basic_action', claims })
    const strong = await app.login({ claims })
    t.same((await app.refresh(strong.refreshToken, { claims })).accessToken.acrs, ['c1'])
    entra.knobs.claimsOnRefresh = 'granted'
    t.same((await app.refresh(refreshToken, { claims })).accessToken.acrs, ['c1'])
    entra.knobs.claimsOnRefresh = 'interaction'
    t.equal((await app.refresh(strong.refreshToken, { claims })).json.suberror, 'basic_action')
    entra.knobs.claimsOnRefresh = 'as-signed-in'
    const newer = JSON.stringify({ access_token: { nbf: { essential: true, value: '1604106651' } } })
    t.equal((await app.refresh(refreshToken, { claims: newer })).status, 200)
    t.same(entra.refreshes().at(-1)?.claims, JSON.parse(newer))
  })

  t.test('faults: HTML, resets, hangs, slowness, and an answer that gets lost after the work', async t => {
    const { refreshToken } = await app.login()
    entra.refuse({ times: 1 }, errors.throttledHtml(9))
    const throttled = await app.refresh(refreshToken)
    t.match([throttled.status, throttled.headers.get('retry-after'), throttled.text], [429, '9', '<!DOCTYPE html>'])
    entra.refuse({ times: 1 }, errors.unavailableHtml())
    t.equal((await app.refresh(refreshToken)).status, 503)
    entra.refuse({ times: 1 }, 'reset')
    await t.rejects(app.refresh(refreshToken))
    const began = Date.now()
    entra.refuse({ times: 1 }, errors.slow(200))
    t.equal((await app.refresh(refreshToken)).status, 200)
    t.ok(Date.now() - began >= 190)
    entra.refuse({ grant: refresh, when: 'after', times: 1 }, 'reset')
    const known = entra.issued.refreshTokens.size
    await t.rejects(app.refresh(refreshToken))
    t.equal(entra.issued.refreshTokens.size, known + 1, 'a refresh token was made and lost')
    t.equal((await app.refresh(refreshToken)).status, 200, 'the old one still works')
    entra.refuse({ times: 1 }, 'hang')
    const hanging = await Promise.race([
      app.refresh(refreshToken).catch(() => 'closed'),
      new Promise(resolve => setTimeout(() => resolve('hangs'), 200)),
    ])
    t.equal(hanging, 'hangs')
  })

  t.test('too many identical refreshes are a loop', async t => {
    entra.knobs.loopLimit = 3
    const { refreshToken } = await app.login()
    const statuses: number[] = []
    for (let times = 0; times < 4; times += 1) statuses.push((await app.refresh(refreshToken)).status)
    t.same(statuses, [200, 200, 200, 400])
    t.match((await app.refresh(refreshToken)).json, { error: 'invalid_grant', error_codes: [50196] })
    t.equal((await app.refresh(refreshToken, { scope: 'api://b/x' })).status, 200)
    entra.knobs.loopLimit = 20
  })

  t.test('several secrets are good, in the body or by Basic; wrong, expired, missing ones are told apart', async t => {
    const { refreshToken } = await app.login()
    entra.credentials.secrets.add('second~secret.')
    entra.credentials.expiredSecrets.add('old~secret.')
    const by = (client_secret: string | undefined) => app.refresh(refreshToken, { client_secret })
    t.equal((await by('second~secret.')).status, 200)
    t.match(await by('wrong'), { status: 401, json: { error: 'invalid_client', error_codes: [7000215] } })
    t.match(await by('old~secret.'), { status: 401, json: { error: 'invalid_client', error_codes: [7000222] } })
    t.match(await by(undefined), { status: 401, json: { error: 'invalid_client', error_codes: [7000218] } })
    const basic = (secret: string) =>
      app.token(
        { grant_type: refresh, refresh_token: refreshToken, scope: 'api://a/x', client_secret: undefined },
        { headers: { authorization: `Basic ${Buffer.from(`${entra.clientId}:${secret}`).toString('base64')}` } },
      )
    t.equal((await basic('second%7Esecret%2E')).status, 200)
    t.equal((await basic('nonsense')).status, 401)
    t.equal((await app.refresh(refreshToken, { client_id: 'unknown' })).json.error, 'unauthorized_client')
    entra.credentials.secrets.delete(entra.clientSecret)
    t.equal((await by(entra.clientSecret)).status, 401)
    entra.credentials.secrets.add(entra.clientSecret)
  })

  t.test('a secret never comes with an Origin', async t => {
    const callback = await app.signIn()
    const { status, json } = await app.redeem(callback, {}, undefined, { origin: 'http://localhost:4711' })
    t.equal(status, 400)
    t.match(json, { error: 'invalid_request', error_codes: [9002326] })
    t.equal((await app.redeem(callback)).status, 200, 'the code was not used up')
    t.match(callback.href, redirectUri)
  })

  t.test('an assertion needs the thumbprint of a registered certificate and one audience', async t => {
    const certificate = createCertificate()
    entra.credentials.certificates.push(certificate)
    const { refreshToken } = await app.login()
    const thumbprint = (digest: string) => createHash(digest).update(certificate.der).digest('base64url')
    const now = Math.floor(Date.now() / 1000)
    const endpoint = app.at('oauth2/v2.0/token')
    const by = (header: Json, claims: Json = {}, key = createPrivateKey(certificate.key)) => {
      const id = entra.clientId
      const payload = {
        aud: endpoint,
        iss: id,
        sub: id,
        jti: randomUUID(),
        nbf: now,
        iat: now,
        exp: now + 60,
        ...claims,
      }
      return app.refresh(refreshToken, {
        client_secret: undefined,
        client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
        client_assertion: compactJws({ alg: 'PS256', typ: 'JWT', ...header }, payload, key),
      })
    }
    const good = { 'x5t#S256': thumbprint('sha256') }
    t.equal((await by(good)).status, 200)
    t.equal((await by({ alg: 'RS256', x5t: thumbprint('sha1') })).status, 200, 'the older form')
    t.match(await by({ kid: 'k1' }), { status: 401, json: { error: 'invalid_client', error_codes: [700027] } })
    t.match(await by(good, { aud: [endpoint] }), {
      status: 400,
      json: { error: 'invalid_request', error_codes: [50027] },
    })
    t.equal((await by(good, { aud: entra.issuer })).status, 401)
    t.equal((await by(good, { exp: now - 3600 })).status, 401)
    const stranger = await createSigningKey('PS256')
    t.match((await by(good, {}, stranger.privateKey)).json, { error_codes: [700027] })
  })

  t.test('a token of the cluster stands for the app, until its key changes', async t => {
    const workload = await createWorkloadIssuer()
    entra.credentials.workloads.push(workload)
    const { refreshToken } = await app.login()
    const by = (client_assertion: string) =>
      app.refresh(refreshToken, {
        client_secret: undefined,
        client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
        client_assertion,
      })
    const early = workload.token()
    t.equal((await by(early)).status, 200)
    await workload.rotate()
    t.match(await by(early), { status: 401, json: { error_codes: [700027] } })
    t.equal((await by(workload.token())).status, 200)
    for (const claims of [{ sub: 'another' }, { aud: ['another'] }, { iss: 'https://evil.test' }]) {
      t.match((await by(workload.token(claims))).json, { error: 'invalid_client', error_codes: [70021] })
    }
    const file = `${t.testdir()}/token`
    t.equal((await by(await workload.write(file))).status, 200)
  })

  t.test('on behalf of: an access token for this app becomes one for the API behind', async t => {
    const exchange = (assertion: string, more: Record<string, string | undefined> = {}) =>
      app.token({
        grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer',
        requested_token_use: 'on_behalf_of',
        scope: 'api://b/x',
        assertion,
        ...more,
      })
    const own = await app.login({ scope: `openid offline_access profile api://${entra.clientId}/use` })
    const { status, json, accessToken } = await exchange(String(own.json.access_token))
    t.equal(status, 200)
    t.match(json, { token_type: 'Bearer', scope: 'api://b/x', expires_in: 3269, ext_expires_in: 0 })
    t.notOk('refresh_token' in json || 'id_token' in json)
    t.match(accessToken, { aud: 'api://b', oid: own.idToken.oid })
    const foreign = await app.login()
    t.match(await exchange(String(foreign.json.access_token)), {
      status: 400,
      json: { error: 'invalid_grant', error_codes: [50013] },
    })
    t.equal((await exchange('garbage')).status, 400)
    t.equal((await app.token({ grant_type: 'client_credentials' })).json.error, 'unsupported_grant_type')
  })

  t.test('a clock that is ahead shows in tokens and in Date', async t => {
    entra.knobs.skewSeconds = 600
    const { idToken, headers } = await app.login()
    entra.knobs.skewSeconds = 0
    const now = Date.now() / 1000
    t.ok(Math.abs(Number(idToken.iat) - now - 600) < 5)
    t.ok(Math.abs(Date.parse(headers.get('date') ?? '') / 1000 - now - 600) < 5)
  })
})
