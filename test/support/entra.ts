import { randomBytes, randomUUID } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createAuthorize } from './entra/authorize.ts'
import type { Credentials } from './entra/client-auth.ts'
import { createDialect, withHeaders } from './entra/dialect.ts'
import { createDirectory } from './entra/directory.ts'
import { createJournal, readAsked } from './entra/journal.ts'
import { createEntraKeys } from './entra/keys.ts'
import { createLogout, type FrontchannelCall } from './entra/logout.ts'
import { createRefusals, matchesToken } from './entra/matches.ts'
import { createOnBehalfOf } from './entra/on-behalf-of.ts'
import type { EntraKnobs, EntraOptions } from './entra/options.ts'
import { entraKind, entraPath } from './entra/paths.ts'
import { createSignIns, type SignIn } from './entra/sign-ins.ts'
import type { TestEntra } from './entra/test-entra.ts'
import { createTokenEndpoint } from './entra/token-endpoint.ts'
import { createTokens } from './entra/tokens.ts'
import { type Forwarded, startFront } from './provider/front.ts'
import { createIssued, type ProviderRequest } from './provider/journal.ts'
import { createOpenidProvider } from './provider/openid.ts'
import { authenticateAsAsked } from './provider/pages.ts'
import { createRewrite } from './provider/rewrite.ts'
import { createScript, type RawAnswer } from './provider/script.ts'
import { honest } from './provider/tamper.ts'
import { createUsers } from './provider/users.ts'

export { type CallbackError, callbackErrors } from './entra/authorize.ts'
export type { Credentials } from './entra/client-auth.ts'
export { err, errors, policyClaims } from './entra/errors.ts'
export { forged } from './entra/forgeries.ts'
export type { EntraAsked } from './entra/journal.ts'
export { guidOf, personalTenant } from './entra/keys.ts'
export type { FrontchannelCall } from './entra/logout.ts'
export type { AuthorizeMatch, TokenMatch } from './entra/matches.ts'
export type { EntraKnobs, EntraOptions } from './entra/options.ts'
export { graph, graphAudience } from './entra/scopes.ts'
export type { TestEntra } from './entra/test-entra.ts'
export {
  type ClientCertificate,
  createCertificate,
  createWorkloadIssuer,
  type WorkloadIssuer,
} from './entra/workload.ts'

const everybody = ['common', 'organizations', 'consumers']

/** Starts Entra on 127.0.0.1, at a port of its own. */
export async function startEntra(options: EntraOptions = {}): Promise<TestEntra> {
  const tenants = (options.tenants ?? [randomUUID(), randomUUID()]).map(tenant => tenant.toLowerCase())
  const clientId = options.clientId ?? randomUUID()
  const clientSecret = options.clientSecret ?? `${randomBytes(24).toString('base64url')}~.`
  const innerSecret = randomBytes(24).toString('base64url')
  const domains = options.domains ?? {}
  const isB2c = options.b2c ?? false
  const knobs: EntraKnobs = {
    nonceOnRefresh: 'repeated',
    claimsOnRefresh: 'as-signed-in',
    skewSeconds: 0,
    loopLimit: options.loopLimit ?? 20,
    optionalClaims: options.optionalClaims ?? ['sid', 'login_hint'],
    accessTokenLifetime: options.lifetimes?.accessToken,
  }
  const credentials: Credentials = {
    secrets: new Set([clientSecret]),
    expiredSecrets: new Set(),
    certificates: [...(options.certificates ?? [])],
    workloads: [...(options.workloads ?? [])],
  }
  const nowMs = () => (options.clock?.now() ?? Date.now()) + knobs.skewSeconds * 1000
  const [script, users, issued, journal, refusals] = [
    createScript(),
    createUsers(),
    createIssued(),
    createJournal(),
    createRefusals(),
  ]
  const directory = createDirectory({ tenants, domains, clientId, users })
  const unconsented = new Set(options.unconsented)
  const spaRedirectUris = new Set(options.spaRedirectUris)
  const signIns = createSignIns(unconsented)
  const errors: Error[] = []
  const onError = (error: Error) => errors.push(error)
  const sids = new Map<string, Set<string>>()
  const asked = new Map<string, Omit<SignIn, 'user'>>()

  // The front's port is part of every address, and known before anything is asked.
  const front = await startFront({
    script,
    onError,
    kindOf: entraKind,
    onRequest: journal.arrived,
    onProcessed: ({ kind, form }, { status }) => {
      const presented = form.get('refresh_token')
      if (kind === 'token' && status === 200 && presented !== null) journal.spend(presented)
    },
    divert: request => divert(request),
  })
  const origin = `http://127.0.0.1:${front.port}`
  const issuerOf = (tenant: string) => `${origin}/${tenant}/v2.0${isB2c ? '/' : ''}`
  const keys = await createEntraKeys(issuerOf)
  const tenantOf = (authority: string, user: string) => directory.tenantOf(authority, users.bySub(user))

  const tokens = createTokens({
    clientId,
    keys,
    users,
    directory,
    issuerOf,
    nowMs,
    accessTokenLifetime: () => knobs.accessTokenLifetime,
    accessTokenClaims: options.accessTokenClaims ?? (() => ({})),
    optionalClaims: () => knobs.optionalClaims,
    nonceOnRefresh: () => knobs.nonceOnRefresh,
    onSid: (user, sid) => sids.set(user, (sids.get(user) ?? new Set()).add(sid)),
  })
  const frontchannelCalls: FrontchannelCall[] = []
  const logoutUrls = [...(options.logoutUrls ?? [])]
  const logout = createLogout({
    clientId,
    logoutUrls,
    calls: frontchannelCalls,
    hintOf: user => directory.hintOf(users.bySub(user)),
  })
  const allowsUri = (uri: string) =>
    options.redirectUris?.includes(uri) ??
    (URL.canParse(uri) && /^(127\.0\.0\.1|\[::1\]|(.+\.)?localhost)$/.test(new URL(uri).hostname))
  const tokenEndpoint = createTokenEndpoint({
    clientId,
    credentials,
    innerSecret,
    origin: () => origin,
    signIns,
    spaRedirectUris,
    isB2c,
    canonical: directory.canonical,
    loopLimit: () => knobs.loopLimit,
    claimsOnRefresh: () => knobs.claimsOnRefresh,
    onBehalfOf: createOnBehalfOf({
      clientId,
      tokens,
      userOf: directory.userOf,
      onIssued: token => issued.accessTokens.add(token),
    }),
  })
  const authorize = createAuthorize({
    clientId,
    queryLimit: options.queryLimit ?? 8192,
    refusal: refusals.refusalOf,
    allowsUri,
    remember: what => {
      const id = randomUUID()
      asked.set(id, what)
      return id
    },
  })

  const divert = async (request: ProviderRequest): Promise<RawAnswer | Forwarded> => {
    const { path, query, form, rawHeaders, body } = request
    const here = entraPath(path)
    if (!here) {
      const isPage = request.kind !== 'other' && request.kind !== 'userinfo'
      return isPage ? { url: query.size > 0 ? `${path}?${query}` : path, rawHeaders, body } : { status: 404 }
    }
    if (!directory.knows(here.authority) || isB2c !== (here.policy !== undefined)) return unknownTenant(here.authority)
    if (here.kind === 'token') return tokenEndpoint(request)
    if (here.kind === 'authorization') return authorize(request)
    if (here.kind === 'discovery') return { url: '/.well-known/openid-configuration', rawHeaders, body }
    if (here.kind === 'jwks') return { url: '/jwks', rawHeaders, body }
    const params = new URLSearchParams(request.method === 'POST' ? form : query)
    // The provider behind knows neither Entra's ID tokens nor any other app.
    params.delete('id_token_hint')
    params.set('client_id', clientId)
    return { method: 'GET', url: `/session/end?${params}`, rawHeaders, body: '' }
  }

  const op = createOpenidProvider({
    issuer: origin,
    client: {
      client_id: clientId,
      client_secret: innerSecret,
      redirect_uris: options.redirectUris ?? ['http://localhost/bff/callback'],
      grant_types: ['authorization_code', 'refresh_token'],
      token_endpoint_auth_method: 'client_secret_post',
    },
    keys,
    lifetimes: { accessToken: 3600, refreshToken: 90 * 86_400, idToken: options.lifetimes?.idToken ?? 3600 },
    // A new refresh token with every refresh, and the old one works on.
    rotation: { graceSeconds: Number.POSITIVE_INFINITY },
    accessTokens: 'opaque',
    accessTokenClaims: () => ({}),
    scopes: [],
    resources: {},
    claims: [],
    idTokenClaims: 'lean',
    requirePar: false,
    nowMs,
    allowsUri,
    users,
    autoLogin: () => entra.autoLogin,
    authenticate: authenticateAsAsked,
    deliverLogoutToken: () => Promise.reject(new Error('Entra has no back-channel logout')),
    onError,
    extraParams: ['entra'],
    onCode: (code, { entra: id }) => {
      const what = asked.get(String(id))
      if (what) signIns.put(code.jti, { ...what, user: String(code.accountId) })
    },
    logoutPage: logout.page,
  })
  const behind = createServer(op.callback())
  await new Promise<void>(resolve => behind.listen(0, '127.0.0.1', resolve))
  const dialect = createDialect({
    clientId,
    origin: () => origin,
    keys,
    signIns,
    tokens,
    issuerOfAuthority: authority =>
      issuerOf(everybody.includes(authority) ? '{tenantid}' : (domains[authority] ?? authority)),
    tenantOf,
    isB2c,
  })
  const rewrite = createRewrite({ issuer: origin, keys, issued, nowMs, tamper: () => entra.tamper, dialect })
  front.connect((behind.address() as AddressInfo).port, {
    ...rewrite,
    answer: async (request, reply) => {
      const answer = await rewrite.answer(request, reply)
      return { ...answer, rawHeaders: withHeaders(answer.rawHeaders, request, nowMs()) }
    },
  })

  const home = options.authority ?? tenants[0] ?? ''
  const isMulti = everybody.includes(home)
  const read = (request: ProviderRequest) => readAsked(request, clientId)
  const tokenCalls = (grantType?: string) =>
    journal.of('token').filter(({ form }) => grantType === undefined || form.get('grant_type') === grantType)
  const entra: TestEntra = {
    origin,
    port: front.port,
    issuer: issuerOf(tenants[0] ?? ''),
    authority: `${origin}/${home}/v2.0`,
    tenants,
    clientId,
    clientSecret,
    credentials,
    requests: journal.requests,
    issued,
    users,
    directory,
    keys,
    knobs,
    unconsented,
    spaRedirectUris,
    logoutUrls,
    frontchannelCalls,
    errors,
    tamper: honest(),
    autoLogin: options.autoLogin,
    issuerOf,
    of: journal.of,
    tokenCalls,
    jwksFetches: () => journal.of('jwks'),
    revocations: () => journal.requests.filter(({ path }) => path.includes('revo')),
    replays: journal.replays,
    authorizations: () =>
      journal
        .of('authorization')
        .filter(({ path }) => entraPath(path))
        .map(read),
    refreshes: () => tokenCalls('refresh_token').map(read),
    clear: journal.clear,
    respond: script.respond,
    refuse: ({ times, when, ...match }, answer) =>
      script.respond('token', answer, {
        ...(times !== undefined && { times }),
        ...(when !== undefined && { when }),
        matches: request =>
          matchesToken(request, match, user => signIns.of(request.form)?.user === users.get(user).sub),
      }),
    refuseAuthorize: refusals.refuse,
    revokeSessions: user => signIns.revoke(users.get(user).sub),
    signOutElsewhere: async user => {
      const before = frontchannelCalls.length
      for (const sid of entra.sidsOf(user)) await logout.tellApps(sid)
      return frontchannelCalls.slice(before)
    },
    sidsOf: user => [...(sids.get(users.get(user).sub) ?? [])],
    rotateKeys: keys.rotate,
    env: () => ({
      OIDC_ISSUER: entra.authority,
      OIDC_CLIENT_ID: clientId,
      OIDC_CLIENT_SECRET: clientSecret,
      ...(isMulti && { OIDC_ALLOWED_TENANTS: tenants.join(',') }),
      ...options.env,
    }),
    reset: () => {
      entra.tamper = honest()
      script.reset()
      refusals.reset()
    },
    close: async () => {
      await front.close()
      await new Promise<void>(resolve => {
        behind.close(() => resolve())
        behind.closeAllConnections()
      })
    },
  }
  return entra
}

const unknownTenant = (authority: string): RawAnswer => ({
  status: 400,
  body: {
    error: 'invalid_tenant',
    error_description: `AADSTS90002: Tenant '${authority}' not found.`,
    error_codes: [90002],
  },
})
