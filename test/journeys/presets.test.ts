import { type Test, test } from 'tap'
import type { PresetName } from '../../src/core/presets.ts'
import { sessionHandle, sessionIdOf } from '../../src/core/session.ts'
import { createJar, type Navigation, type TestBrowser } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { throughProvider } from '../support/login.ts'
import { type Json, type ProviderOptions, startProvider, type TestProvider } from '../support/provider.ts'
import { type Stage, sessionCookie, startStageAround } from '../support/stage.ts'
import { startUpstream } from '../support/upstream.ts'

/** Of access tokens at the provider, in seconds. */
const lifetime = 300

/** A provider that behaves like one of the known ones, with a gateway before it. */
interface Likeness {
  options?: ProviderOptions
  env?: (provider: TestProvider) => Record<string, string>
  shape?: (provider: TestProvider) => void
}

function setUp(t: Test, preset: PresetName | 'auto', { options, env, shape }: Likeness): Promise<Stage> {
  return startStageAround(
    t,
    async clock => {
      const provider = await startProvider({ clock, ...options })
      shape?.(provider)
      const own = provider.env
      provider.env = () => ({ ...own(), OIDC_PROVIDER: preset, ...env?.(provider) })
      return provider
    },
    { env: { POST_LOGOUT_PATH: '/goodbye' } },
  )
}

async function enter({ provider, gateway, browser }: Stage, query = ''): Promise<TestBrowser> {
  // The provider's own cookies go by the machine's clock.
  const own = browser(createJar())
  provider.autoLogin = 'alice'
  const page = await own.navigate(`${gateway.url}/bff/login?returnUrl=/welcome${query}`)
  provider.autoLogin = undefined
  if (own.jar.get(sessionCookie) === undefined)
    throw new Error(`no login: ${page.status} ${JSON.stringify(gateway.events('login_rejected'))}`)
  return own
}

const handleOf = (browser: TestBrowser) => sessionHandle(sessionIdOf(browser.jar.get(sessionCookie) ?? ''))
const refreshes = ({ provider }: Stage) => provider.tokenCalls('refresh_token')
const authorization = ({ provider }: Stage) => provider.of('authorization').find(({ path }) => path === '/auth')?.query
const later = ({ clock }: Stage) => clock.advance(lifetime * 1000)

/** Calls the API, lets the token come to its end, and calls again. */
async function callAndRefresh(t: Test, stage: Stage, browser: TestBrowser) {
  t.equal((await browser.api('/api/one')).status, 200)
  const before = refreshes(stage).length
  later(stage)
  t.equal((await browser.api('/api/two')).status, 200)
  t.equal(refreshes(stage).length, before + 1)
  later(stage)
  t.equal((await browser.api('/api/three')).status, 200)
  t.same(stage.provider.replays(), [])
}

/** Logs out as the SPA does, up to where the browser comes to rest. */
async function logout(t: Test, stage: Stage, browser: TestBrowser, outcome = 'revoked'): Promise<Navigation> {
  const handle = handleOf(browser)
  const { session } = (await browser.api('/bff/user')).json<{ session: { logoutUrl: string } }>()
  const end = await throughProvider(browser, await browser.navigate(session.logoutUrl), stage.provider)
  t.equal(new URL(end.url).pathname, '/goodbye', 'the browser is back')
  t.equal((await browser.api('/bff/user')).status, 401)
  const revocations = () => stage.gateway.events('revocation').filter(event => event.session === handle)
  t.ok(await eventually(() => revocations().length > 0))
  t.match(revocations(), [{ outcome }])
  return end
}

/** All that the provider says of itself names this issuer. */
function issuedAs(provider: TestProvider, issuer: string): void {
  provider.tamper.discovery = metadata => ({ ...metadata, issuer })
  provider.tamper.idToken = ({ sign, header, payload }) => sign(header, { ...payload, iss: issuer })
  provider.tamper.authorizationResponse = url => {
    if (url.searchParams.has('iss')) url.searchParams.set('iss', issuer)
    return url
  }
}

const without =
  (...names: string[]) =>
  (metadata: Json) =>
    Object.fromEntries(Object.entries(metadata).filter(([name]) => !names.includes(name)))

const refusedOfflineAccess = (provider: TestProvider) =>
  provider.respond(
    'authorization',
    { status: 400, body: 'invalid_scope' },
    {
      matches: ({ query }) => query.get('scope')?.split(' ').includes('offline_access') ?? false,
    },
  )

test('any provider that keeps to the standards', async t => {
  const stage = await setUp(t, 'generic', {})
  t.test('login, API calls, refreshes and logout', async t => {
    const browser = await enter(stage)
    t.equal(authorization(stage)?.get('scope'), 'openid profile email offline_access')
    await callAndRefresh(t, stage, browser)
    t.notOk(
      refreshes(stage).some(({ form }) => form.has('scope')),
      'a refresh without scopes is for all of them',
    )
    await logout(t, stage, browser)
    t.match(stage.provider.of('logout')[0]?.query.get('id_token_hint'), /^eyJ/)
  })
})

// Keycloak's offline tokens outlive the login; it asks the user to confirm a logout that comes without the ID token.
test('Keycloak', async t => {
  const stage = await setUp(t, 'auto', {
    options: { refreshTokens: 'always' },
    env: provider => ({
      OIDC_ISSUER: `${provider.issuer}/realms/x`,
      OIDC_DISCOVERY_URL: `${provider.issuer}/.well-known/openid-configuration`,
    }),
    shape: provider => {
      issuedAs(provider, `${provider.issuer}/realms/x`)
      refusedOfflineAccess(provider)
      provider.respond(
        'logout',
        { status: 200, body: 'Do you want to log out?' },
        {
          matches: ({ path, query }) => path === '/session/end' && !query.has('id_token_hint'),
        },
      )
    },
  })
  t.test('no offline_access, the ID token as a hint, the refresh token revoked', async t => {
    const browser = await enter(stage)
    await callAndRefresh(t, stage, browser)
    const { chain } = await logout(t, stage, browser)
    t.notMatch(chain.map(({ text }) => text).join(''), 'Do you want')
  })

  // Its revocation ends the client's part in the login: at once, it would end the new session as well.
  t.test('a login over a live session revokes the old refresh token when the new session is over', async t => {
    const browser = await enter(stage)
    const revoked = stage.provider.revocations().length
    await throughProvider(browser, await browser.navigate(`${stage.gateway.url}/bff/login?returnUrl=/`), stage.provider)
    t.match(stage.gateway.events('session_ended').at(-1), { reason: 'replaced' })
    const outboxes = (await stage.redis.keys()).filter(key => key.endsWith(':outbox'))
    const waiting = await Promise.all(
      outboxes.map(key => stage.redis.client.zcount(key, Date.now() + 3600_000, '+inf')),
    )
    t.ok(waiting.some(count => count > 0))
    t.equal(stage.provider.revocations().length, revoked)
  })
})

test('Auth0', async t => {
  const audience = 'https://api.example.com'
  const orders = await startUpstream()
  orders.respond = (_request, res) => void res.end('{}')
  t.teardown(() => orders.close())
  const stage = await setUp(t, 'auth0', {
    options: { rotation: { graceSeconds: 30 } },
    env: provider => ({
      OIDC_ISSUER: `${provider.issuer}/`,
      OIDC_AUTHORIZE_PARAMS: `audience=${audience}`,
      UPSTREAM_ORDERS_PATH: '/orders',
      UPSTREAM_ORDERS_URL: orders.url,
      UPSTREAM_ORDERS_RESOURCE: 'https://orders.example.com',
    }),
    shape: provider => {
      issuedAs(provider, `${provider.issuer}/`)
      provider.tamper.discovery = metadata => ({
        ...without('end_session_endpoint')(metadata),
        issuer: `${provider.issuer}/`,
      })
      provider.respond('other', ({ query }) => ({ status: 302, headers: { location: query.get('returnTo') ?? '' } }), {
        matches: ({ path, query }) => path === '/v2/logout' && query.get('client_id') === provider.clientId,
      })
    },
  })
  const { provider, gateway } = stage

  t.test('an issuer that ends in a slash, one audience, and a logout at an address of its own', async t => {
    const browser = await enter(stage)
    t.same(authorization(stage)?.getAll('audience'), [audience])
    t.notOk(authorization(stage)?.has('resource'))
    await callAndRefresh(t, stage, browser)
    await logout(t, stage, browser)
    t.same(provider.of('logout'), [])
    const [asked] = provider.of('other')
    t.same(Object.fromEntries(asked?.query ?? []), {
      client_id: provider.clientId,
      returnTo: `${gateway.url}/goodbye`,
    })
  })

  t.test('a token for another API is asked for by its audience', async t => {
    const browser = await enter(stage)
    t.equal((await browser.api('/orders/x')).status, 200)
    t.equal(refreshes(stage).at(-1)?.form.get('audience'), 'https://orders.example.com')
    t.notOk(refreshes(stage).at(-1)?.form.has('resource'))
  })

  t.test('an answer that is lost is asked for again within the overlap', async t => {
    const browser = await enter(stage)
    later(stage)
    provider.respond('token', 'reset', {
      when: 'after',
      times: 1,
      matches: ({ form }) => form.get('grant_type') === 'refresh_token',
    })
    t.equal((await browser.api('/api/x')).status, 200)
  })
})

test('Okta', async t => {
  const stage = await setUp(t, 'okta', {
    options: { rotation: { graceSeconds: 0 } },
    shape: provider => {
      provider.respond(
        'logout',
        { status: 400, body: 'invalid_request' },
        {
          matches: ({ path, query }) => path === '/session/end' && !query.has('id_token_hint'),
        },
      )
    },
  })
  const { provider, gateway } = stage

  t.test('offline_access is asked for, and a logout shows the ID token', async t => {
    const browser = await enter(stage)
    t.match(authorization(stage)?.get('scope'), /\boffline_access\b/)
    await callAndRefresh(t, stage, browser)
    await logout(t, stage, browser)
  })

  // A thief redeems a refresh token that was replaced: the provider ends the whole family, the honest holder's newest too.
  t.test('a family that was revoked over a stolen token ends the session, with an alarm', async t => {
    const browser = await enter(stage)
    const [stolen] = [...provider.issued.refreshTokens].slice(-1)
    await callAndRefresh(t, stage, browser)
    const body = new URLSearchParams({
      grant_type: 'refresh_token',
      refresh_token: stolen ?? '',
      client_id: provider.clientId,
      client_secret: provider.clientSecret,
    })
    t.equal((await fetch(`${provider.issuer}/token`, { method: 'POST', body })).status, 400)
    later(stage)
    const handle = handleOf(browser)
    const refused = await browser.api('/api/x')
    t.match([refused.status, refused.json()], [401, { code: 'session_expired', reason: 'refresh_token_dead' }])
    t.match(gateway.events('refresh_token_reuse_suspected'), [{ severity: 'high', session: handle }])
    t.same(gateway.events('refresh_token_dead'), [])
  })
})

test('Google', async t => {
  const stage = await setUp(t, 'google', {
    options: { rotation: 'unmentioned', refreshTokens: 'always' },
    shape: provider => {
      provider.tamper.discovery = without('end_session_endpoint')
      refusedOfflineAccess(provider)
      provider.tamper.tokenResponse = (response, { form }) => {
        const asked = provider.of('authorization').findLast(({ path }) => path === '/auth')?.query
        const offline = asked?.get('access_type') === 'offline' && asked.get('prompt')?.split(' ').includes('consent')
        return form.get('grant_type') === 'authorization_code' && !offline
          ? without('refresh_token')(response)
          : response
      }
    },
  })
  const { provider, gateway } = stage

  t.test(
    'a refresh token by access_type and prompt, kept for good, and revoked at a logout that is ours alone',
    async t => {
      const browser = await enter(stage)
      await callAndRefresh(t, stage, browser)
      t.equal(new Set(refreshes(stage).map(({ form }) => form.get('refresh_token'))).size, 1)
      const { chain } = await logout(t, stage, browser)
      t.ok(
        chain.every(({ url }) => url.startsWith(gateway.url)),
        'no page of Google is opened',
      )
      t.same(
        provider.revocations().map(({ form }) => form.get('token')),
        [refreshes(stage)[0]?.form.get('refresh_token')],
      )
    },
  )

  // A prompt that is asked for at one login must not cost it the refresh token.
  t.test('a login with a prompt of its own brings a refresh token, too', async t => {
    const browser = await enter(stage, '&prompt=select_account')
    t.equal(
      provider
        .of('authorization')
        .findLast(({ path }) => path === '/auth')
        ?.query.get('prompt'),
      'consent select_account',
    )
    await callAndRefresh(t, stage, browser)
    const page = await browser.navigate(`${gateway.url}/bff/login?prompt=none`, { stopBefore: () => true })
    t.equal(new URL(page.headers.location ?? '').searchParams.get('prompt'), 'none', 'and none stands alone')
  })
})

test('Amazon Cognito', async t => {
  const elsewhere = (provider: TestProvider) => provider.issuer.replace('127.0.0.1', 'localhost')
  const stage = await setUp(t, 'cognito', {
    options: {
      rotation: 'unmentioned',
      refreshTokens: 'always',
      accessTokens: 'jwt',
      accessTokenClaims: () => ({ aud: undefined }),
    },
    shape: provider => {
      provider.tamper.discovery = ({ issuer, jwks_uri, ...metadata }) => ({
        ...JSON.parse(
          JSON.stringify(without('code_challenge_methods_supported')(metadata)).replaceAll(
            provider.issuer,
            elsewhere(provider),
          ),
        ),
        issuer,
        jwks_uri,
      })
      refusedOfflineAccess(provider)
      provider.respond('logout', ({ method, query }) =>
        method === 'GET' && query.get('client_id') === provider.clientId && query.has('logout_uri')
          ? { status: 302, headers: { location: query.get('logout_uri') ?? '' } }
          : { status: 400, body: 'Required String parameter is not present' },
      )
    },
  })
  const { provider, gateway } = stage
  t.test('endpoints on another host, the refresh token kept, and a logout in its own words', async t => {
    const browser = await enter(stage)
    t.equal(authorization(stage)?.get('code_challenge_method'), 'S256')
    await callAndRefresh(t, stage, browser)
    t.ok(provider.tokenCalls().every(({ headers }) => headers.host?.startsWith('localhost:')))
    await logout(t, stage, browser)
    t.same(Object.fromEntries(provider.of('logout')[0]?.query ?? []), {
      client_id: provider.clientId,
      logout_uri: `${gateway.url}/goodbye`,
    })
    t.same(
      provider.revocations().map(({ form }) => form.get('token')),
      [refreshes(stage)[0]?.form.get('refresh_token')],
    )
  })
})
