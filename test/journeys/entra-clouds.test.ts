import { type Test, test } from 'tap'
import { createBrowser, createJar } from '../support/browser.ts'
import { guidOf } from '../support/entra/keys.ts'
import { startEntraStage } from '../support/entra/stage.ts'
import { type EntraOptions, startEntra, type TestEntra } from '../support/entra.ts'
import type { Json } from '../support/provider.ts'
import { sessionCookie, startStageAround } from '../support/stage.ts'

const tenant = guidOf('tenant')
const domain = 'contoso.example'

/** A provider whose metadata lives elsewhere than under its issuer: on another host, and under another name. */
async function startElsewhere(t: Test, env: (entra: TestEntra) => Record<string, string>, options: EntraOptions = {}) {
  const variables: Record<string, string> = { OIDC_PROVIDER: 'entra', UPSTREAM_U0_SCOPE: 'api://u/x' }
  return startStageAround(t, async clock => {
    const given = { clock, tenants: [tenant], domains: { [domain]: tenant }, env: variables }
    const entra = await startEntra({ ...given, lifetimes: { accessToken: 3600 }, ...options })
    Object.assign(variables, env(entra))
    return entra
  })
}

const elsewhere = (entra: TestEntra) => entra.origin.replace('127.0.0.1', 'localhost')
const enter = async ({ provider: entra, gateway, browser }: Awaited<ReturnType<typeof startElsewhere>>) => {
  // The provider's own cookies go by the machine's clock.
  const own = browser(createJar())
  entra.autoLogin = 'alice'
  const page = await own.navigate(`${gateway.url}/bff/login?returnUrl=/welcome`)
  entra.autoLogin = undefined
  return { own, page }
}

/** All endpoints on the host of the metadata, the issuer on its own. */
const movedTo = (entra: TestEntra) => (metadata: Json) => ({
  ...JSON.parse(JSON.stringify(metadata).replaceAll(entra.origin, elsewhere(entra))),
  issuer: metadata.issuer,
})

test('an issuer on one host and its metadata on another work together, when both are given', async t => {
  const stage = await startElsewhere(t, entra => ({
    OIDC_ISSUER: entra.issuer,
    OIDC_DISCOVERY_URL: `${elsewhere(entra)}/${domain}/v2.0/.well-known/openid-configuration`,
  }))
  const { provider: entra, clock, gateway } = stage
  entra.tamper.discovery = movedTo(entra)
  t.test('login, API call, refresh and logout', async t => {
    const { own } = await enter(stage)
    t.equal((await own.api('/api/x')).status, 200)
    clock.advance(3_600_000)
    t.equal((await own.api('/api/x')).status, 200)
    t.match(entra.refreshes().at(-1)?.request.headers.host, /^localhost:/)
    const { logoutUrl } = (await own.api('/bff/logout', { method: 'POST' })).json<{ logoutUrl: string }>()
    const end = await own.navigate(logoutUrl, { stopBefore: () => true })
    t.ok(end.headers.location?.startsWith(`${elsewhere(entra)}/${domain}/oauth2/v2.0/logout?`))
    const ready = await createBrowser().get(`${gateway.internalUrl}/readyz`)
    t.equal(ready.status, 200)
  })
})

// Discovery §4.3: whoever may choose the metadata's address must not thereby choose whom to believe.
test('metadata of another issuer is refused with a clear word, wherever it lies', async t => {
  for (const issuer of [guidOf('another'), `${tenant}/v2.0/..`, 'common', 'contoso.test/x']) {
    const stage = await startElsewhere(t, entra => ({
      OIDC_ISSUER: `${entra.origin}/${issuer}/v2.0`,
      OIDC_DISCOVERY_URL: `${elsewhere(entra)}/${domain}/v2.0/.well-known/openid-configuration`,
      OIDC_ALLOWED_TENANTS: tenant,
    }))
    const { own, page } = await enter(stage)
    t.equal(page.status, 503, issuer)
    t.equal(own.jar.get(sessionCookie), undefined)
    t.equal((await createBrowser().get(`${stage.gateway.internalUrl}/readyz`)).status, 503)
    t.match(stage.gateway.log.join(''), /the issuer of the metadata is not OIDC_ISSUER, to the letter/)
    t.same(stage.provider.authorizations(), [])
  }
})

test('a national cloud is another host, and nothing else', async t => {
  const stage = await startEntraStage(t, { authority: 'organizations', tenants: [tenant] })
  const { provider: entra, gateway } = stage
  t.test('no request leaves for the public cloud', async t => {
    const browser = await stage.enter()
    t.equal((await browser.api('/a/x')).status, 200)
    t.equal((await browser.api('/bff/logout', { method: 'POST' })).status, 200)
    t.notMatch(gateway.log.join(''), /microsoftonline|microsoft\.com/)
    t.ok(entra.requests.length > 0)
  })
})

const b2c = (t: Test, scope: (entra: TestEntra) => string) =>
  startElsewhere(
    t,
    entra => ({
      OIDC_PROVIDER: 'generic',
      OIDC_ISSUER: `${entra.origin}/${tenant}/v2.0/`,
      OIDC_DISCOVERY_URL: `${entra.origin}/${domain}/b2c_1_signin/v2.0/.well-known/openid-configuration`,
      OIDC_SCOPE: scope(entra),
      OIDC_USERINFO: 'never',
      UPSTREAM_U0_SCOPE: '',
    }),
    { b2c: true },
  )

test('Azure AD B2C: one user flow, its own issuer, numbers as text, and the client as the API', async t => {
  const stage = await b2c(t, ({ clientId }) => `openid offline_access ${clientId}`)
  const { provider: entra, clock, gateway } = stage

  t.test('login, API call and refresh', async t => {
    const { own } = await enter(stage)
    t.equal((await own.api('/api/x')).status, 200)
    clock.advance(3_600_000)
    t.equal((await own.api('/api/x')).status, 200)
    t.equal(entra.refreshes().length, 1)
    t.match(entra.refreshes()[0]?.request.path, /b2c_1_signin/, 'a refresh token works with its own user flow only')
  })

  t.test('a refresh that brings no access token keeps the session, and the refresh token that it brought', async t => {
    const { own } = await enter(stage)
    const unwatched = createBrowser({ origin: gateway.url, jar: own.jar })
    clock.advance(3_600_000)
    entra.tamper.tokenResponse = ({ access_token: _, expires_in: __, ...rest }) => rest
    t.match((await unwatched.api('/api/x')).json(), { status: 502, code: 'bad_upstream' })
    t.match(gateway.events('refresh_failed').at(-1), { outcome: 'unusable', detail: /no usable token response/ })
    t.equal((await own.api('/bff/user')).status, 200)
    const brought = [...entra.issued.refreshTokens].at(-1)
    entra.reset()
    const sessions = await stage.sessions()
    for (const key of sessions) {
      const refused = (await stage.redis.client.hkeys(key)).filter(field => field.startsWith('refused:'))
      if (refused.length > 0) await stage.redis.client.hdel(key, ...refused)
    }
    t.equal((await own.api('/api/x')).status, 200)
    t.equal(entra.refreshes().at(-1)?.params.get('refresh_token'), brought)
  })
})

// With OpenID Connect's scopes alone there is nothing that an access token could be for.
test('Azure AD B2C gives no access token unasked, and the log says what is missing', async t => {
  const stage = await b2c(t, () => 'openid offline_access')
  const { own, page } = await enter(stage)
  t.equal(page.status, 400)
  t.equal(own.jar.get(sessionCookie), undefined)
  t.match(stage.gateway.events('login_rejected'), [
    { reason: 'invalid_response', detail: /no access token.*OIDC_SCOPE/ },
  ])
})
