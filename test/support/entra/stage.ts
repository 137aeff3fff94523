import type { Test } from 'tap'
import { sessionHandle, sessionIdOf } from '../../../src/core/session.ts'
import { createJar } from '../browser/jar.ts'
import type { Navigation, TestBrowser } from '../browser.ts'
import { type EntraOptions, startEntra, type TestEntra } from '../entra.ts'
import { login } from '../login.ts'
import { type Stage, type StageOptions, sessionCookie, startStageAround } from '../stage.ts'
import { type FakeApi, startFakeApi } from './api.ts'
import { parseScopes } from './scopes.ts'

/** A whole gateway before Entra, with two APIs that take tokens for themselves alone, and ways to speak of them. */
export interface EntraStage extends Stage<TestEntra> {
  /** `api://a` behind `/a`, `api://b` behind `/b`. */
  readonly a: FakeApi
  readonly b: FakeApi
  /** An attempt to log in, as far as it goes. */
  attempt(user?: string): Promise<{ browser: TestBrowser; page: Navigation }>
  /** A user whose session is there. */
  enter(user?: string): Promise<TestBrowser>
  handleOf(browser: TestBrowser): string
  isAlive(browser: TestBrowser): Promise<boolean>
  /** Scopes of the refreshes since the last time that this was asked. */
  refreshed(): string[]
  /** Past the end of every access token. */
  expire(): void
  /** Past the rest after a refusal, which goes by Redis's own clock. */
  rest(): Promise<void>
}

/** Of access tokens, in seconds. */
const lifetime = 3600
export const adminToken = 'admin-token-of-the-test'

/**
 * Starts it; it ends with the test. After each subtest it is an error when a token request was of a kind that Entra
 * refuses or a gateway must not make: without scopes, for two resources, with `resource` or `Origin`; or when anything
 * was asked for that Entra does not have.
 */
export async function startEntraStage(
  t: Test,
  options: EntraOptions = {},
  env: Record<string, string> = {},
  limits: Pick<StageOptions, 'providerLimits'> = {},
): Promise<EntraStage> {
  const apis: FakeApi[] = []
  const variables: Record<string, string> = {
    OIDC_PROVIDER: 'entra',
    ADMIN_TOKEN: adminToken,
    SESSION_MAX_PER_USER: '1000',
    UPSTREAM_U0_SCOPE: 'api://u/x',
    ...options.env,
  }
  const start = async (clock: Stage['clock']) => {
    const given = { clock, loopLimit: 1000, lifetimes: { accessToken: lifetime }, ...options }
    const entra = await startEntra({ ...given, env: variables })
    for (const name of ['a', 'b']) {
      const api = await startFakeApi({ entra, audience: `api://${name}`, nowMs: clock.now })
      apis.push(api)
      variables[`UPSTREAM_${name.toUpperCase()}_PATH`] = `/${name}`
      variables[`UPSTREAM_${name.toUpperCase()}_URL`] = api.url
      variables[`UPSTREAM_${name.toUpperCase()}_SCOPE`] ??= `api://${name}/x`
    }
    return entra
  }
  const stage = await startStageAround(t, start, { env, ...limits })
  const { clock, provider: entra, gateway, redis } = stage
  const [a, b] = apis as [FakeApi, FakeApi]
  t.teardown(() => Promise.all([a.close(), b.close()]))
  t.afterEach(() => {
    const faults = entra.requests.flatMap(request => faultsOf(entra, request))
    if (faults.length > 0) throw new Error(faults.join('\n'))
    entra.reset()
    Object.assign(entra.knobs, { nonceOnRefresh: 'repeated', optionalClaims: ['sid', 'login_hint'] })
  })

  let heard = 0
  const attempt = async (user = 'alice') => {
    // The provider's own cookies go by the machine's clock.
    const browser = stage.browser(createJar())
    return { browser, page: await login(browser, gateway.url, entra, { user, returnUrl: '/welcome' }) }
  }
  const cookieOf = (browser: TestBrowser) => browser.jar.get(sessionCookie) ?? ''
  return {
    ...stage,
    a,
    b,
    attempt,
    async enter(user) {
      const { browser, page } = await attempt(user)
      if (cookieOf(browser) === '') throw new Error(`no login: ${page.status} ${gateway.log.slice(-3).join('')}`)
      return browser
    },
    handleOf: browser => sessionHandle(sessionIdOf(cookieOf(browser))),
    isAlive: async browser => (await browser.api('/bff/user?slide=false')).status === 200,
    refreshed() {
      const all = entra.refreshes()
      const news = all.slice(heard).map(({ scopes }) => scopes.join(' '))
      heard = all.length
      return news
    },
    expire: () => clock.advance(lifetime * 1000),
    async rest() {
      for (const key of (await redis.keys()).filter(name => name.includes(':session:'))) {
        const refused = (await redis.client.hkeys(key)).filter(field => field.startsWith('refused:'))
        if (refused.length > 0) await redis.client.hdel(key, ...refused)
      }
    },
  }
}

function faultsOf(entra: TestEntra, { kind, path, form, query, headers }: TestEntra['requests'][number]): string[] {
  const params = kind === 'token' ? form : query
  return [
    ...(params.has('resource') ? [`resource was sent to ${path}`] : []),
    ...(/revo|userinfo|introspect/.test(path) ? [`${path} was asked`] : []),
    ...(kind === 'token' && headers.origin !== undefined ? ['the token endpoint got an Origin'] : []),
    // With the code that nobody issued the gateway finds out whether it is accepted again.
    ...(kind === 'token' && !form.has('scope') && form.get('code') !== 'none' ? ['a token request had no scope'] : []),
    ...(kind === 'token' && parseScopes(form.get('scope'), entra.clientId).resources.size > 1
      ? ['a token request was for several resources']
      : []),
    ...(kind === 'authorization' && query.has('client_id') && query.get('code_challenge_method') !== 'S256'
      ? ['an authorization request had no PKCE']
      : []),
  ]
}
