import { generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import Provider, {
  type ClientMetadata,
  type Configuration,
  errors,
  interactionPolicy,
  type KoaContextWithOIDC,
} from 'oidc-provider'
import type { KeyRing } from './keys.ts'
import { addLoginPage, errorPage, type LoginPageDeps, loggedOutPage, logoutPage } from './pages.ts'
import { createProviderStore } from './store.ts'
import type { Json } from './tamper.ts'

/** Seconds that tokens live. */
export interface Lifetimes {
  accessToken: number
  refreshToken: number
  idToken: number
}

/** What the OpenID Provider behind the front is made of. */
export interface OpenidDeps extends LoginPageDeps {
  issuer: string
  client: ClientMetadata
  keys: KeyRing
  lifetimes: Lifetimes
  rotation: boolean | { graceSeconds: number }
  /** `always`: also without the scope `offline_access`. */
  refreshTokens?: 'asked' | 'always'
  accessTokens: 'opaque' | 'jwt'
  accessTokenClaims(): Json
  /** Scopes granted besides the standard ones. */
  scopes: string[]
  /** Resource indicators (RFC 8707) and the scopes of each, blank-separated. */
  resources: Record<string, string>
  /** Claims released besides the standard ones, with the scope `profile`. */
  claims: string[]
  idTokenClaims: 'lean' | 'full'
  requirePar: boolean
  /** Whether DPoP proofs must carry the provider's nonce. */
  dpopNonce?: boolean
  nowMs(): number
  allowsUri(uri: string): boolean
  /** Sends a logout token to the client; the provider's own one is signed by a key nobody knows. */
  deliverLogoutToken(url: string, token: string): Promise<Response>
  onError(error: Error): void
  /** Further parameters that authorization requests may have. */
  extraParams?: string[]
  /** Told of each code with the parameters it was asked for by. */
  onCode?(code: InstanceType<Provider['AuthorizationCode']>, params: Json): void
  /** The page of an RP-initiated logout; one that goes on by itself when absent. */
  logoutPage?(ctx: KoaContextWithOIDC, form: string): void | Promise<void>
}

/** The real thing: `oidc-provider` with consent screens, size limits and warnings out of the way. */
export function createOpenidProvider(deps: OpenidDeps): Provider {
  const op = new Provider(deps.issuer, configurationOf(deps))
  // Redirect URIs hold ports that exist only after the provider has started.
  Object.assign(op.Client.prototype, {
    redirectUriAllowed: deps.allowsUri,
    postLogoutRedirectUriAllowed: deps.allowsUri,
    includeSid: () => true,
  })
  if (deps.accessTokens === 'jwt') issueJwtAccessTokens(op, deps)
  addLoginPage(op, deps)
  if (deps.onCode) tellOfCodes(op, deps.onCode)
  op.on('server_error', (_ctx, error) => deps.onError(error))
  const app: EventEmitter = op
  app.on('error', deps.onError)
  return op
}

function configurationOf(deps: OpenidDeps): Configuration {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const standardScopes = ['openid', 'offline_access', 'profile', 'email']
  return {
    adapter: createProviderStore(typeof deps.rotation === 'object' ? deps.rotation.graceSeconds * 1000 : 0),
    clients: [{ ...deps.client, id_token_signed_response_alg: 'ES256' }],
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig' }] },
    cookies: { keys: [randomBytes(16).toString('hex')] },
    scopes: [...new Set([...standardScopes, ...deps.scopes])],
    claims: {
      openid: ['sub', 'acr', 'amr', 'auth_time', 'sid'],
      profile: ['name', 'preferred_username', 'roles', 'groups', 'realm_access', 'locale', ...deps.claims],
      email: ['email', 'email_verified'],
    },
    acrValues: [],
    conformIdTokenClaims: deps.idTokenClaims === 'lean',
    findAccount: (_ctx, id) => {
      const { sub, ...claims } = deps.users.bySub(id)
      return { accountId: sub, claims: () => ({ ...claims, sub }) }
    },
    interactions: { policy: promptPolicy(), url: (_ctx, interaction) => `/login/${interaction.uid}` },
    extraParams: {
      keep_offline_access: keepOfflineAccess,
      ...Object.fromEntries((deps.extraParams ?? []).map(name => [name, null])),
    },
    loadExistingGrant,
    pkce: { required: () => true },
    rotateRefreshToken: deps.rotation !== false,
    issueRefreshToken: (_ctx, client, source) =>
      client.grantTypeAllowed('refresh_token') &&
      (deps.refreshTokens === 'always' || source.scopes.has('offline_access')),
    expiresWithSession: () => false,
    clientBasedCORS: () => false,
    renderError: errorPage,
    ttl: {
      AccessToken: () => deps.lifetimes.accessToken,
      RefreshToken: () => deps.lifetimes.refreshToken,
      IdToken: () => deps.lifetimes.idToken,
      AuthorizationCode: 60,
      Grant: 30 * 86_400,
      Interaction: 3600,
      Session: 30 * 86_400,
    },
    features: {
      devInteractions: { enabled: false },
      claimsParameter: { enabled: true },
      revocation: { enabled: true, allowedPolicy: (_ctx, client, token) => token.clientId === client.clientId },
      backchannelLogout: { enabled: true },
      dPoP: {
        enabled: true,
        ...(deps.dpopNonce && { nonceSecret: randomBytes(32), requireNonce: () => true }),
      },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: deps.logoutPage ?? logoutPage,
        postLogoutSuccessSource: loggedOutPage,
      },
      pushedAuthorizationRequests: { enabled: true, requirePushedAuthorizationRequests: deps.requirePar },
      resourceIndicators: {
        enabled: true,
        defaultResource: (_ctx, _client, oneOf) => (oneOf ?? []) as string[],
        getResourceServerInfo: (_ctx, resource) => {
          const scope = deps.resources[resource]
          if (scope === undefined) throw new errors.InvalidTarget()
          return { scope, accessTokenFormat: 'opaque' }
        },
      },
    },
    fetch: (url, options) =>
      deps.deliverLogoutToken(String(url), new URLSearchParams(String(options?.body)).get('logout_token') ?? ''),
  }
}

/** Consent may be asked for, and never shows a screen; the account chooser is the login page; `acr_values` are binding. */
function promptPolicy() {
  const policy = interactionPolicy.base()
  policy.get('login')?.checks.add(
    new interactionPolicy.Check('acr_values', 'a stronger login is asked for', ({ oidc }) => {
      const asked = String(oidc.params?.acr_values ?? '')
      return asked !== '' && !asked.split(' ').includes(oidc.acr ?? '') && !oidc.result?.login
    }),
  )
  policy.get('consent')?.checks.clear()
  policy.add(new interactionPolicy.Prompt({ name: 'select_account', requestable: true }), 0)
  return policy
}

/** The library drops `offline_access` from requests without `prompt=consent`; real providers grant it. */
async function keepOfflineAccess(ctx: KoaContextWithOIDC): Promise<void> {
  const { params, body, entities } = ctx.oidc
  const pushed = (entities.PushedAuthorizationRequest as { request?: string } | undefined)?.request
  const claims = pushed?.split('.')[1]
  const scope = claims
    ? JSON.parse(Buffer.from(claims, 'base64url').toString()).scope
    : (ctx.query.scope ?? body?.scope)
  if (!params || !String(scope).split(' ').includes('offline_access')) return
  params.scope = [...new Set([...String(params.scope ?? '').split(' '), 'offline_access'])].filter(Boolean).join(' ')
}

/** Grants everything asked for, and a grant of its own to every login, so that revoking one leaves the others alone. */
async function loadExistingGrant(ctx: KoaContextWithOIDC) {
  const { client, account, provider, params, resourceServers } = ctx.oidc
  const grant = new provider.Grant({ clientId: client?.clientId ?? '', accountId: account?.accountId ?? '' })
  const scope = String(params?.scope ?? '')
  grant.addOIDCScope(scope)
  for (const resource of Object.keys(resourceServers ?? {})) grant.addResourceScope(resource, scope)
  await grant.save()
  return grant
}

function tellOfCodes(op: Provider, onCode: NonNullable<OpenidDeps['onCode']>): void {
  op.use(async (ctx, next) => {
    await next()
    const { AuthorizationCode: code } = ctx.oidc?.entities ?? {}
    if (code && ctx.oidc.route !== 'token') onCode(code, { ...ctx.oidc.params })
  })
}

/** Makes access tokens JWTs (RFC 9068) while the provider goes on finding them by value. */
function issueJwtAccessTokens(op: Provider, deps: OpenidDeps): void {
  Object.assign(op.AccessToken.prototype, {
    generateTokenId(this: InstanceType<typeof op.AccessToken>) {
      const { alg, kid } = deps.keys.current()
      const now = Math.floor(deps.nowMs() / 1000)
      Object.assign(this, { format: 'opaque' })
      return deps.keys.sign(
        { alg, kid, typ: 'at+jwt' },
        {
          iss: deps.issuer,
          sub: this.accountId,
          aud: this.aud ?? 'api',
          client_id: this.clientId,
          scope: this.scope,
          iat: now,
          exp: now + deps.lifetimes.accessToken,
          ...(this.jkt && { cnf: { jkt: this.jkt } }),
          jti: randomUUID(),
          ...deps.accessTokenClaims(),
        },
      )
    },
  })
}
