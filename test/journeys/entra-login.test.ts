import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Test, test } from 'tap'
import type { ConfigError } from '../../src/config/load.ts'
import { createBrowser } from '../support/browser.ts'
import { startFakeGraph } from '../support/entra/graph.ts'
import { guidOf, personalTenant } from '../support/entra/keys.ts'
import { adminToken, type EntraStage, startEntraStage } from '../support/entra/stage.ts'
import { callbackErrors, errors, forged, startEntra, type TestEntra } from '../support/entra.ts'
import { eventually } from '../support/eventually.ts'
import { startGateway } from '../support/gateway.ts'
import { createSigningKey, type Tamper } from '../support/provider.ts'
import { hopOf, sessionCookie, sessionCookiesSet } from '../support/stage.ts'

const [home, other, stranger] = ['home', 'other', 'stranger'].map(name => guidOf(name)) as [string, string, string]

/** Nothing of a login is left: no cookie, no session, and sooner or later no key at all. */
async function nothingIsStored(t: Test, { redis, sessions }: EntraStage, page: { chain: never[] } | object) {
  const chain = 'chain' in page ? (page.chain as Parameters<typeof sessionCookiesSet>) : []
  t.same(sessionCookiesSet(...chain), [], 'no cookie is set')
  t.same(await sessions(), [], 'no session is stored')
  t.ok(await eventually(async () => (await redis.keys()).length === 0), 'Redis is empty')
}

const rejections = ({ gateway }: EntraStage) => gateway.events('login_rejected')

test('a tenant of Entra ID', async t => {
  const stage = await startEntraStage(t, { tenants: [home, other] })
  const { provider: entra, gateway, redis, clock, a, b } = stage

  t.test('a login sends PKCE although nobody advertises it, and asks for all scopes together', async t => {
    await stage.enter()
    const [asked] = entra.authorizations()
    t.match(asked?.params.get('code_challenge'), /^[\w-]{43}$/)
    t.match(asked?.params.get('nonce'), /^[\w-]{43}$/)
    t.same(asked?.resources, ['api://a', 'api://b', 'api://u'], 'one consent for all')
    for (const name of ['max_age', 'resource']) t.notOk(asked?.params.has(name), name)
    const [redeemed] = entra.tokenCalls('authorization_code')
    t.equal(
      redeemed?.form.get('scope'),
      'openid profile email offline_access',
      "the code is redeemed for the login's own",
    )
    t.match(redeemed?.form.get('code_verifier'), /^[\w-]{43,}$/)
    t.equal(redeemed?.headers.origin, undefined)
  })

  t.test('a logout revokes nothing, since there is nowhere to, and the audit log says so', async t => {
    const browser = await stage.enter()
    const handle = stage.handleOf(browser)
    t.equal((await browser.api('/bff/logout', { method: 'POST' })).status, 200)
    t.ok(await eventually(() => gateway.events('revocation').some(({ session }) => session === handle)))
    t.match(gateway.events('revocation'), [{ session: handle, reason: 'logout', outcome: 'not_supported' }])
  })

  // The keys of all tenants are in one public set: a key of the tenant of personal accounts must not sign for this one.
  t.test('a key that may sign for another issuer signs for nobody here', async t => {
    entra.tamper.idToken = forged.byKey(entra.keys.foreign)
    const { page } = await stage.attempt('mallory')
    t.equal(page.status, 400)
    t.match(rejections(stage).at(-1), { reason: 'invalid_response', detail: /issuer of its key/ })
    t.same(sessionCookiesSet(...page.chain), [])
  })

  t.test('an ID token that is wrong in one claim, or in its signature, opens nothing', async t => {
    const unpublished = await createSigningKey('RS256')
    const cases: Record<string, [Tamper['idToken'], RegExp]> = {
      'tid is of another tenant': [forged.tidOnly(other), /tid/],
      'tid is no GUID': [forged.changed({ tid: 'contoso.com' }), /tid/],
      'tid is missing': [forged.changed({ tid: undefined }), /tid/],
      'iss is of another tenant': [forged.issuerOnly(other), /iss/],
      'a whole token of another tenant': [forged.ofTenant(other), /iss/],
      nonce: [forged.nonce(), /nonce/],
      'nonce is missing': [forged.changed({ nonce: undefined }), /nonce/],
      aud: [forged.audience(), /aud/],
      exp: [forged.expired(), /iat|exp/],
      signature: [forged.badSignature(), /SIGNATURE/],
      kid: [forged.unknownKid(unpublished), /KEY/i],
      'the access token in its place': [({ accessToken }) => accessToken, /./],
    }
    for (const [name, [tamper, detail]] of Object.entries(cases)) {
      entra.tamper.idToken = tamper
      const before = rejections(stage).length
      const { page } = await stage.attempt('mallory')
      t.ok([400, 503].includes(page.status), `${name}: ${page.status}`)
      t.same(sessionCookiesSet(...page.chain), [], name)
      const [rejection, ...more] = rejections(stage).slice(before)
      t.same(more, [])
      t.match(rejection, { reason: 'invalid_response', detail }, name)
    }
    entra.reset()
    await stage.enter('mallory')
  })

  // E-mail and user name can be set to those of somebody else; `sub` is another one for each application.
  t.test('a user is tenant and object id, and an administrator ends sessions by these', async t => {
    entra.users.set('alice', { email: 'same@example.test', preferred_username: 'same@example.test' })
    entra.users.set('eve', { email: 'same@example.test', preferred_username: 'same@example.test' })
    const [alice, eve] = [await stage.enter('alice'), await stage.enter('eve')]
    const oid = entra.directory.oidOf(entra.users.get('alice'), home)
    const end = (body: object) =>
      createBrowser().post(`${gateway.internalUrl}/admin/revoke`, {
        headers: { authorization: `Bearer ${adminToken}` },
        body,
      })
    t.same(
      (await end({ tid: other, oid })).json(),
      { ended: 0 },
      'the same object id in another tenant is somebody else',
    )
    t.same((await end({ tid: home })).status, 400)
    const { ended } = (await end({ tid: home.toUpperCase(), oid })).json<{ ended: number }>()
    t.ok(ended >= 1)
    t.match((await alice.api('/bff/user')).json(), { code: 'session_revoked', reason: 'admin' })
    t.ok(await stage.isAlive(eve))
    const { user } = (await eve.api('/bff/user')).json<{ user: Record<string, unknown> }>()
    t.notOk(
      ['tid', 'oid', 'login_hint', 'sid'].some(name => name in user),
      'nobody asked for these to be shown',
    )
  })

  t.test(
    'each API sees tokens for itself alone, got when they are first needed, and the newest refresh token is kept',
    async t => {
      const browser = await stage.enter('bob')
      stage.refreshed()
      const firstRefreshes = entra.refreshes().length
      t.equal((await browser.api('/a/one')).status, 200)
      t.same(stage.refreshed(), ['api://a/x openid profile email offline_access'])
      t.equal((await browser.api('/a/two')).status, 200)
      t.same(stage.refreshed(), [], 'a token is kept')
      t.equal((await browser.api('/b/one')).status, 200)
      t.same(stage.refreshed(), ['api://b/x openid profile email offline_access'])
      const presented = entra.refreshes().slice(firstRefreshes)
      t.equal(new Set(presented.map(({ params }) => params.get('refresh_token'))).size, 2, 'each with the newest token')
      t.same(entra.replays(), [])
      for (const api of [a, b]) {
        t.ok(api.seen.length > 0)
        t.same(
          [...new Set(api.seen.map(({ claims }) => claims?.aud))],
          [api.audience],
          'Graph and the neighbour see nothing here',
        )
      }
      stage.expire()
      const answers = await Promise.all(Array.from({ length: 20 }, () => browser.api('/a/three')))
      t.same([...new Set(answers.map(({ status }) => status))], [200])
      t.equal(stage.refreshed().length, 1, 'twenty requests at once are one refresh: no loop for Entra to detect')
    },
  )

  // The address stands in the token, which a tenant's administrator can fill: to follow it would be a request forgery.
  t.test('too many groups are told as such, and the address in their place is never asked', async t => {
    const graph = await startFakeGraph()
    const evil = createServer((_req, res) => void res.end())
    let calls = 0
    evil.on('connection', () => {
      calls += 1
    })
    await new Promise<void>(resolve => evil.listen(0, '127.0.0.1', resolve))
    t.teardown(async () => {
      await graph.close()
      evil.close()
    })
    const endpoint = `http://127.0.0.1:${(evil.address() as AddressInfo).port}/x`
    const gateway = await startGateway({
      provider: entra,
      clock,
      env: { REDIS_URL: redis.url, USER_CLAIMS: 'sub,groups', UPSTREAM_U0_PATH: '/u', UPSTREAM_U0_URL: graph.url },
    })
    t.teardown(() => gateway.close())
    const groups = (count: number) => Array.from({ length: count }, (_, index) => guidOf('group', String(index)))
    const userOf = async (name: string) => {
      const browser = createBrowser({ origin: gateway.url })
      entra.autoLogin = name
      await browser.navigate(`${gateway.url}/bff/login`)
      entra.autoLogin = undefined
      return (await browser.api('/bff/user')).json<{ user: Record<string, unknown> }>().user
    }
    entra.users.set('grace', { groups: groups(200) })
    t.match(await userOf('grace'), { groups: groups(200), groups_overage: undefined })
    entra.users.set('olga', { groups: groups(201), overageEndpoint: endpoint })
    const user = await userOf('olga')
    t.match(user, { groups: undefined, groups_overage: true })
    t.notOk('_claim_sources' in user)
    t.equal(calls, 0)
    t.same(graph.seen, [])
  })

  t.test('an error that comes back is a page that goes nowhere by itself but home, and its login is over', async t => {
    const cases = ['accessDenied', 'interactionRequired', 'consentRequired', 'loginRequired', 'serverError'] as const
    for (const name of cases) {
      entra.refuseAuthorize({ times: 1 }, callbackErrors[name])
      const browser = stage.browser()
      const asked = entra.authorizations().length
      const page = await browser.navigate(`${gateway.url}/bff/login`)
      t.equal(page.status, name === 'serverError' ? 503 : 400, name)
      const callback = page.url
      t.match(callback, /error=.*session_state=/)
      const next = await browser.navigate(new URL(hopOf(page) ?? '', gateway.url).href)
      t.equal(next.status, 200)
      t.match(next.text, 'Sign in again')
      t.equal(hopOf(next), undefined, 'it waits for the user')
      t.equal(entra.authorizations().length, asked + 1, 'Entra is not asked again')
      t.equal((await browser.navigate(callback)).status, 400)
      t.match(rejections(stage).at(-1), { reason: 'stale' }, 'the login is spent')
    }
    entra.refuseAuthorize({ params: { prompt: 'none' } }, callbackErrors.interactionRequired)
    const browser = await stage.enter('carol')
    const cookie = browser.jar.get(sessionCookie)
    const silent = await browser.navigate(`${gateway.url}/bff/login?prompt=none&returnUrl=/here`, {
      stopBefore: url => url.pathname === '/here',
    })
    t.equal(silent.status, 303)
    t.equal(browser.jar.get(sessionCookie), cookie, 'the session is kept')
  })

  // Registered under the platform "single-page application", Entra redeems a code for browsers alone.
  t.test('a redirect URI that is registered for browsers fails the login with a word in the log', async t => {
    entra.spaRedirectUris.add(`${gateway.url}/bff/callback`)
    const { page } = await stage.attempt()
    entra.spaRedirectUris.clear()
    t.equal(page.status, 400)
    t.match(rejections(stage).at(-1), { reason: 'provider_error', detail: /invalid_request/ })
    t.equal(entra.tokenCalls('authorization_code').at(-1)?.answered, 400)
    t.equal(entra.tokenCalls('authorization_code').at(-1)?.headers.origin, undefined)
  })

  t.test('a token endpoint that is down at the login is told as that', async t => {
    entra.refuse({ grant: 'authorization_code', times: 1 }, errors.unavailableHtml())
    const { page } = await stage.attempt()
    t.equal(page.status, 503)
    t.match(page.headers['retry-after'], /^\d+$/)
  })
})

test('a domain in the place of the tenant', async t => {
  const stage = await startEntraStage(t, {
    tenants: [home],
    domains: { 'contoso.example': home },
    authority: 'contoso.example',
  })
  const { provider: entra } = stage
  t.test('opens sessions of the tenant’s own issuer, and of no other tenant', async t => {
    const browser = await stage.enter()
    t.equal((await browser.api('/a/x')).status, 200)
    t.match(entra.refreshes().at(-1)?.request.path, /^\/contoso\.example\/oauth2/)
    stage.expire()
    t.equal((await browser.api('/a/x')).status, 200)
    entra.tamper.idToken = forged.ofTenant(other)
    t.equal((await stage.attempt('mallory')).page.status, 400)
  })
})

test('many tenants, of which two are allowed', async t => {
  const stage = await startEntraStage(
    t,
    { tenants: [home, other, stranger], authority: 'organizations' },
    { OIDC_ALLOWED_TENANTS: `${home},${other.toUpperCase()}` },
  )
  const { provider: entra, gateway } = stage
  entra.users.set('bob', { tid: other })
  entra.users.set('mallory', { tid: stranger })

  // The certificate is genuine, the user too; only nobody here has a contract with that organisation.
  t.test('a user of another organisation is told so, and leaves nothing behind', async t => {
    const { page, browser } = await stage.attempt('mallory')
    t.equal(page.status, 403)
    t.match(page.text, 'Users of your organisation may not sign in here.')
    t.match(rejections(stage), [{ reason: 'tenant_not_allowed', detail: new RegExp(stranger) }])
    await nothingIsStored(t, stage, page)
    const next = await browser.navigate(new URL(hopOf(page) ?? '', gateway.url).href)
    t.match(next.text, 'Users of your organisation may not sign in here.')
    t.equal(hopOf(next), undefined)
    t.match(gateway.events('revocation'), [{ reason: 'login_failed', outcome: 'not_supported' }])
  })

  t.test('users of both come in, each refreshed at the tenant of their own', async t => {
    for (const [user, tenant] of [
      ['alice', home],
      ['bob', other],
    ] as const) {
      const browser = await stage.enter(user)
      t.equal((await browser.api('/a/x')).status, 200)
      t.equal(stage.a.seen.at(-1)?.claims?.tid, tenant)
      t.match(entra.tokenCalls('authorization_code').at(-1)?.path, /^\/organizations\//, 'redeemed where it was issued')
      t.equal(entra.refreshes().at(-1)?.request.path, `/${tenant}/oauth2/v2.0/token`)
      stage.expire()
      t.equal((await browser.api('/a/x')).status, 200)
    }
  })

  // The template would fit every tenant: what is put in must be what the token was signed for.
  t.test('a token that speaks of two tenants, or of none, opens nothing', async t => {
    const cases: Record<string, [Tamper['idToken'], number]> = {
      'tid of an allowed tenant on a token of another': [forged.tidOnly(other), 400],
      'iss of an allowed tenant on a token of another': [forged.issuerOnly(other), 400],
      'the template itself': [
        forged.changed(({ iss, tid }) => ({ iss: String(iss).replace(String(tid), '{tenantid}') })),
        400,
      ],
      'no tid': [forged.changed({ tid: undefined }), 400],
      'tid is the template': [forged.changed({ tid: '{tenantid}' }), 400],
      'tid is a list': [forged.changed({ tid: [home] }), 400],
      'iss of another host': [forged.changed(({ tid }) => ({ iss: `https://evil.test/${tid}/v2.0` })), 400],
      'a tenant that is not allowed': [forged.ofTenant(stranger), 403],
      'the key of personal accounts': [forged.byKey(entra.keys.foreign), 400],
      signature: [forged.badSignature(), 400],
    }
    for (const [name, [tamper, status]] of Object.entries(cases)) {
      entra.tamper.idToken = tamper
      const { page } = await stage.attempt('carol')
      t.equal(page.status, status, name)
      t.same(sessionCookiesSet(...page.chain), [], name)
    }
  })

  // RFC 9207: the callback says who sent it. openid-client would compare that with the template and refuse everybody.
  t.test('a callback that names its issuer is held to the tenant', async t => {
    const withIssuer = (iss: string) => (url: URL) => {
      url.searchParams.set('iss', iss)
      return url
    }
    entra.tamper.authorizationResponse = withIssuer(entra.issuerOf(home))
    t.ok(await stage.isAlive(await stage.enter('alice')))
    for (const iss of [entra.issuerOf(other), entra.issuerOf('{tenantid}'), 'https://evil.test']) {
      entra.tamper.authorizationResponse = withIssuer(iss)
      t.equal((await stage.attempt('alice')).page.status, 400, iss)
    }
  })
})

test('personal accounts are a tenant like any other, with a key of their own', async t => {
  const tenants = [home, personalTenant]
  const stage = await startEntraStage(t, { tenants, authority: 'common' }, { OIDC_ALLOWED_TENANTS: tenants.join() })
  const { provider: entra } = stage
  t.test('that signs for them alone', async t => {
    entra.users.set('dora', { tid: personalTenant })
    entra.tamper.idToken = forged.byKey(entra.keys.foreign)
    const dora = await stage.enter('dora')
    t.equal((await dora.api('/a/x')).status, 200)
    t.equal((await stage.attempt('alice')).page.status, 400)
    entra.reset()
    t.ok(await stage.isAlive(await stage.enter('alice')))
  })
})

test('every organisation at once has to be said, and is remarked at the start', async t => {
  const entra: TestEntra = await startEntra({ tenants: [home], authority: 'common' })
  t.teardown(() => entra.close())
  const env = { OIDC_PROVIDER: 'entra', SPA_DIR: t.testdir({ 'index.html': '' }) }
  const start = (tenants: string) => startGateway({ provider: entra, env: { ...env, OIDC_ALLOWED_TENANTS: tenants } })
  const faultsOf = (tenants: string) => start(tenants).catch((error: ConfigError) => error.faults)
  t.match(await faultsOf(''), [{ variable: 'OIDC_ALLOWED_TENANTS', problem: /^is required/ }])
  t.match(await faultsOf('contoso.com'), [{ variable: 'OIDC_ALLOWED_TENANTS', problem: /GUIDs/ }])
  const warnings = (log: string[]) =>
    log.map(line => JSON.parse(line)).filter(line => line.variable === 'OIDC_ALLOWED_TENANTS')
  const few = await start(home)
  t.same(warnings(few.log), [])
  await few.close()
  const all = await start('*')
  t.match(warnings(all.log), [{ level: 'warn', msg: 'users of every organisation may sign in' }])
  const browser = createBrowser({ origin: all.url })
  entra.autoLogin = 'anybody'
  await browser.navigate(`${all.url}/bff/login`)
  t.equal((await browser.api('/bff/user')).status, 200)
  await all.close()
})
