import { randomBytes, randomUUID } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { ClientMetadata } from 'oidc-provider'
import type { ManualClock } from './clock.ts'
import { startFront } from './provider/front.ts'
import { createIssued, type EndpointKind, type Issued, type ProviderRequest } from './provider/journal.ts'
import { createKeyRing, type JwsKey, type JwsPart, type KeyAlg, type SigningKey } from './provider/keys.ts'
import { createOpenidProvider, type Lifetimes } from './provider/openid.ts'
import { type Authentication, authenticateAsAsked } from './provider/pages.ts'
import { createRewrite } from './provider/rewrite.ts'
import { createScript, type Responder, type RespondOptions, type Scripted } from './provider/script.ts'
import { honest, type Json, type Tamper } from './provider/tamper.ts'
import { createUsers, type TestUsers } from './provider/users.ts'

export type { EndpointKind, Issued, ProviderRequest } from './provider/journal.ts'
export { createSigningKey, type KeyAlg, type SigningKey } from './provider/keys.ts'
export { type Answer, drip, endless, type RawAnswer, type Responder } from './provider/script.ts'
export type { IdTokenDraft, Json, Tamper } from './provider/tamper.ts'
export type { TestUser, TestUsers } from './provider/users.ts'

/** How the provider is set up; everything has a default. */
export interface ProviderOptions {
  clientId?: string
  clientSecret?: string
  /** More client metadata, e.g. `token_endpoint_auth_method`, `jwks`, `backchannel_logout_uri`. */
  client?: Partial<ClientMetadata>
  /** Exact redirect and post-logout URIs; any loopback URI when absent. */
  redirectUris?: string[]
  accessTokens?: 'opaque' | 'jwt'
  /** Added to each JWT access token (to make it long, say). */
  accessTokenClaims?: () => Json
  /** Seconds; may be changed later at `provider.lifetimes`. */
  lifetimes?: Partial<Lifetimes>
  /**
   * Whether a refresh gives a new refresh token, and how long the old one still works. Default: yes, not at all.
   * `unmentioned`: it goes on working and the answer has none, as at Google, Cognito and AD FS.
   */
  rotation?: boolean | { graceSeconds: number } | 'unmentioned'
  /** `always`: a login brings a refresh token also without the scope `offline_access`. Default: `asked`. */
  refreshTokens?: 'asked' | 'always'
  /** Scopes of APIs; they are granted when asked for, others are left out. Default: `api`, `api:read`, `api:write`. */
  scopes?: string[]
  /** Resource indicators (RFC 8707) and their scopes, e.g. `{ 'https://a.example': 'api:read' }`. */
  resources?: Record<string, string>
  /** Names of further claims that users may have. */
  claims?: string[]
  /** `lean` (default): names and roles come from UserInfo only; `full`: the ID token has them too. */
  idTokenClaims?: 'lean' | 'full'
  requirePar?: boolean
  /** DPoP proofs must carry the provider's nonce. */
  dpopNonce?: boolean
  signingAlg?: KeyAlg
  /** The time in ID tokens; the provider's own deadlines go by the machine's clock all the same. */
  clock?: Pick<ManualClock, 'now'>
  /** Logs this name in without showing the form. */
  autoLogin?: string
}

/** A real OpenID Provider whose every answer can be bent. */
export interface TestProvider {
  readonly issuer: string
  readonly port: number
  readonly clientId: string
  readonly clientSecret: string
  /** Every request so far, in order of arrival. */
  readonly requests: ProviderRequest[]
  /** Tokens, codes and ID tokens handed out so far (honest and tampered): none may turn up where it does not belong. */
  readonly issued: Issued
  readonly users: TestUsers
  readonly lifetimes: Lifetimes
  tamper: Tamper
  autoLogin: string | undefined
  /** How a login is described in the ID token; by default `acr` is the first one asked for. */
  authenticate: (login: string, params: Record<string, unknown>) => Authentication
  /** Internal errors of the provider; none in a sound test. */
  readonly errors: Error[]
  of(kind: EndpointKind): ProviderRequest[]
  /** Requests to the token endpoint, of one grant type if named. */
  tokenCalls(grantType?: 'authorization_code' | 'refresh_token'): ProviderRequest[]
  revocations(): ProviderRequest[]
  jwksFetches(): ProviderRequest[]
  /** Token requests that presented a refresh token which had been replaced before: always empty for a sound gateway. */
  replays(): ProviderRequest[]
  /** Forgets the journal, not the canaries. */
  clear(): void
  respond(kind: EndpointKind | '*', responder: Responder, options?: RespondOptions): Scripted
  /** Publishes a new signing key and returns the one it replaces. */
  rotateKeys(options?: { keepOld?: boolean; alg?: KeyAlg }): Promise<SigningKey>
  signingKey(): SigningKey
  sign(header: JwsPart, payload: JwsPart, key?: JwsKey): string
  /** A valid logout token for these claims (`sub`, `sid`); undefined claims are left out. */
  logoutToken(claims: Json, header?: Json): string
  /** Changes the client's registration: its secret, or where its logout tokens go. */
  configureClient(changes: { clientSecret?: string; backchannelLogoutUri?: string }): Promise<void>
  /** The gateway's environment for this provider. */
  env(): Record<string, string>
  /** Ends all tampering and scripted answers; keys, users and journal stay. */
  reset(): void
  close(): Promise<void>
}

/** Starts a provider on 127.0.0.1, at a port of its own. */
export async function startProvider(options: ProviderOptions = {}): Promise<TestProvider> {
  const clientId = options.clientId ?? 'coatcheck'
  const clientSecret = options.clientSecret ?? randomBytes(24).toString('base64url')
  const nowMs = () => options.clock?.now() ?? Date.now()
  const keys = await createKeyRing(options.signingAlg)
  const script = createScript()
  const users = createUsers()
  const issued = createIssued()
  const lifetimes = { accessToken: 300, refreshToken: 14 * 86_400, idToken: 3600, ...options.lifetimes }
  const errors: Error[] = []
  const onError = (error: Error) => errors.push(error)
  const requests: ProviderRequest[] = []
  const replays: ProviderRequest[] = []
  const spent = new Set<string>()

  const front = await startFront({
    script,
    onError,
    onRequest: request => {
      requests.push(request)
      if (request.kind === 'token' && spent.has(request.form.get('refresh_token') ?? '')) replays.push(request)
    },
    onProcessed: (request, reply) => {
      const presented = request.form.get('refresh_token')
      if (request.kind !== 'token' || reply.status !== 200 || presented === null) return
      if (JSON.parse(reply.body.toString()).refresh_token !== presented) spent.add(presented)
    },
  })
  const issuer = `http://127.0.0.1:${front.port}`

  const logoutToken = (claims: Json, header: Json = {}) => {
    const { alg, kid } = keys.current()
    const iat = Math.floor(nowMs() / 1000)
    const events = { 'http://schemas.openid.net/event/backchannel-logout': {} }
    const payload = { iss: issuer, aud: clientId, iat, exp: iat + 120, jti: randomUUID(), events, ...claims }
    return keys.sign({ alg, kid, typ: 'logout+jwt', ...header }, payload)
  }

  const allowsUri = (uri: string) =>
    options.redirectUris?.includes(uri) ??
    (URL.canParse(uri) && /^(127\.0\.0\.1|\[::1\]|(.+\.)?localhost)$/.test(new URL(uri).hostname))

  const op = createOpenidProvider({
    issuer,
    client: {
      client_id: clientId,
      client_secret: clientSecret,
      redirect_uris: options.redirectUris ?? ['http://localhost/bff/callback'],
      grant_types: ['authorization_code', 'refresh_token'],
      token_endpoint_auth_method: 'client_secret_post',
      ...options.client,
    },
    keys,
    lifetimes,
    rotation: options.rotation === 'unmentioned' ? false : (options.rotation ?? true),
    refreshTokens: options.refreshTokens ?? 'asked',
    accessTokens: options.accessTokens ?? 'opaque',
    accessTokenClaims: options.accessTokenClaims ?? (() => ({})),
    scopes: options.scopes ?? ['api', 'api:read', 'api:write'],
    resources: options.resources ?? {},
    claims: options.claims ?? [],
    idTokenClaims: options.idTokenClaims ?? 'lean',
    requirePar: options.requirePar ?? false,
    dpopNonce: options.dpopNonce ?? false,
    nowMs,
    allowsUri,
    users,
    autoLogin: () => provider.autoLogin,
    authenticate: (login, params) => provider.authenticate(login, params),
    deliverLogoutToken: (url, token) => {
      const { sub, sid } = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())
      return fetch(url, { method: 'POST', body: new URLSearchParams({ logout_token: logoutToken({ sub, sid }) }) })
    },
    onError,
  })
  const behind = createServer(op.callback())
  // Node's own time would be over now and then while a request is on its way.
  behind.keepAliveTimeout = 60_000
  await new Promise<void>(resolve => behind.listen(0, '127.0.0.1', resolve))
  front.connect(
    (behind.address() as AddressInfo).port,
    createRewrite({
      issuer,
      keys,
      issued,
      nowMs,
      tamper: () => provider.tamper,
      dialect: options.rotation === 'unmentioned' ? { tokenResponse: withoutRefreshToken } : {},
    }),
  )

  const of = (kind: EndpointKind) => requests.filter(request => request.kind === kind)
  const provider: TestProvider = {
    issuer,
    port: front.port,
    clientId,
    clientSecret,
    requests,
    issued,
    users,
    lifetimes,
    errors,
    tamper: honest(),
    autoLogin: options.autoLogin,
    authenticate: authenticateAsAsked,
    of,
    tokenCalls: grantType =>
      of('token').filter(({ form }) => grantType === undefined || form.get('grant_type') === grantType),
    revocations: () => of('revocation'),
    jwksFetches: () => of('jwks'),
    replays: () => [...replays],
    clear: () => {
      requests.length = 0
      replays.length = 0
    },
    respond: script.respond,
    rotateKeys: keys.rotate,
    signingKey: keys.current,
    sign: keys.sign,
    logoutToken,
    configureClient: async changes => {
      Object.assign((await op.Client.find(clientId)) ?? {}, { backchannelLogoutSessionRequired: true }, changes)
    },
    env: () => ({ OIDC_ISSUER: issuer, OIDC_CLIENT_ID: clientId, OIDC_CLIENT_SECRET: clientSecret }),
    reset: () => {
      provider.tamper = honest()
      script.reset()
    },
    close: async () => {
      await front.close()
      await new Promise<void>(resolve => {
        behind.close(() => resolve())
        behind.closeAllConnections()
      })
    },
  }
  return provider
}

const withoutRefreshToken = (own: Json, { form }: ProviderRequest): Json =>
  form.get('grant_type') === 'refresh_token' ? { ...own, refresh_token: undefined } : own
