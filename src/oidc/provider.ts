import * as client from 'openid-client'
import type { ClientAuthentication } from '../core/client-authentication.ts'
import { type Clock, systemClock } from '../core/clock.ts'
import { LoginRejected } from '../core/errors.ts'
import type { Audit } from '../core/events.ts'
import type { Claims, Identity } from '../core/session.ts'
import type { TokenResponse } from '../core/token-set.ts'
import { createClientAuth } from './client-auth.ts'
import type { AssertionAudience } from './client-credentials.ts'
import { loginFault, revocationFault } from './faults.ts'
import type { ProviderFetch } from './fetch.ts'
import { type IdTokenClaims, verifyIdToken } from './id-token.ts'
import { type LogoutToken, verifyLogoutToken } from './logout-token.ts'
import { createMetadata, type Metadata } from './metadata.ts'
import { type Audience, type Refresh, refresh } from './refresh.ts'
import { createSigningKeys } from './signing-keys.ts'
import { readTokenResponse } from './token-response.ts'
import type { Warn } from './watched-files.ts'

/** How the gateway is registered at the provider, and what it asks for. */
export interface ProviderOptions {
  issuer: string
  discoveryUrl: URL | undefined
  clientId: string
  authentication: ClientAuthentication
  assertionAudience: AssertionAudience
  redirectUri: string
  postLogoutUri: string
  /** Of the login and of all upstreams: a refresh cannot ask for what was never granted (RFC 6749 §6). */
  scope: string
  /** Resource indicators of the upstreams (RFC 8707). */
  resources: readonly string[]
  authorizeParameters: ReadonlyMap<string, string>
  idTokenAlgorithms: readonly string[]
  userInfo: 'auto' | 'always' | 'never'
  /** Names of the claims to keep. */
  userClaims: readonly string[]
  fetch: ProviderFetch
  audit: Audit
  log: Warn
  clock: Clock
}

/** What a login sends to the authorization endpoint beyond what is configured. */
export interface AuthorizationRequest {
  state: string
  nonce: string
  codeVerifier: string
  prompt: string | undefined
  loginHint: string | undefined
}

/** What a successful login brings. */
export interface Login {
  identity: Identity
  tokens: TokenResponse
}

/**
 * What became of a revocation. `revoked` also when the provider did not know the token (RFC 7009 §2.2), `failed` when
 * another try makes sense, in `retryAfter` seconds at the earliest.
 */
export type Revocation =
  | { outcome: 'revoked' | 'not_supported' }
  | { outcome: 'failed'; retryAfter: number | undefined }

/** The OpenID Provider, as the flows see it. */
export interface Provider {
  /**
   * The URL of an authorization request: code flow with PKCE S256, whatever the metadata says of it.
   *
   * @throws {ProviderUnavailable} when the metadata cannot be had
   */
  authorizationUrl(request: AuthorizationRequest): Promise<string>
  /**
   * Redeems the code of a callback and verifies everything that comes with it. `onRedeemed` is told the token to revoke
   * should anything fail afterwards, here or at the caller.
   *
   * @throws {LoginRejected} when the response, a token or UserInfo breaks a rule
   * @throws {ProviderUnavailable} when the provider gives no definite answer
   */
  exchangeCode(
    callback: URLSearchParams,
    expected: { state: string; nonce: string; codeVerifier: string },
    onRedeemed: (token: string) => void,
  ): Promise<Login>
  /**
   * Presents a refresh token for the access token of an upstream.
   *
   * @throws {ProviderUnavailable} when there is no definite answer; `ambiguous` if the token may have been used up
   */
  refresh(refreshToken: string, identity: Identity, audience: Audience): Promise<Refresh>
  /** The claims of a session after a refresh brought a new ID token; one that nests too deep stays as it was. */
  renewedClaims(claims: Claims, idToken: IdTokenClaims): Claims
  /** Revokes a refresh token (RFC 7009); never throws. */
  revoke(token: string): Promise<Revocation>
  /**
   * Verifies a token of the provider's back-channel logout. Using it once is up to the caller.
   *
   * @throws {LogoutTokenRefused} when it breaks a rule
   * @throws {ProviderUnavailable} when the keys cannot be had
   */
  verifyLogoutToken(token: string): Promise<LogoutToken>
  /** Where the browser ends the provider's own session (RP-Initiated Logout 1.0 §2), or null where there is no such place. */
  logoutUrl(): Promise<string | null>
  /** @throws {ProviderUnavailable} when logins cannot succeed for now, also because the client is refused */
  ready(): Promise<void>
}

/** Of lists and objects in a claim. */
const maximumDepth = 32

/** Connects to a provider. Nothing is fetched before it is needed. */
export function createProvider(options: ProviderOptions): Provider {
  const { issuer, clientId, fetch, clock } = options
  const metadata = createMetadata({ issuer, url: options.discoveryUrl, fetch, clock })
  const keys = createSigningKeys({ metadata, fetch, clock })
  const rules = { issuer, clientId, algorithms: options.idTokenAlgorithms, keys, clock }
  const clientAuth = createClientAuth(options)

  const configure = (server: Metadata, fetchWith: ProviderFetch): client.Configuration => {
    // The provider does not choose which algorithms are good enough.
    const pinned = { ...server, id_token_signing_alg_values_supported: [...options.idTokenAlgorithms] }
    // One clock for all checks; of those of a token's times, the stricter in id-token.ts decides.
    const times = {
      [client.clockSkew]: Math.round((clock.now() - systemClock.now()) / 1000),
      [client.clockTolerance]: 60,
    }
    const configuration = new client.Configuration(pinned, clientId, times, clientAuth.mark)
    configuration[client.customFetch] = clientAuth.through(fetchWith) as client.CustomFetch
    // The endpoints were judged when the metadata came in; this only lifts a second, blunter check.
    if (issuer.startsWith('http:')) client.allowInsecureRequests(configuration)
    return configuration
  }

  const userInfoClaims = async (configuration: client.Configuration, idToken: IdTokenClaims, accessToken: string) => {
    const lacking = options.userClaims.some(name => !Object.hasOwn(idToken, name))
    const offered = configuration.serverMetadata().userinfo_endpoint !== undefined
    const asked = options.userInfo === 'always' || (options.userInfo === 'auto' && lacking && offered)
    return asked ? await client.fetchUserInfo(configuration, accessToken, idToken.sub) : {}
  }

  /** Asks for tokens with a code that nobody issued: the answer tells whether the client is accepted, and nothing else. */
  const probeClient = async () => {
    const parameters = {
      code: 'none',
      redirect_uri: options.redirectUri,
      code_verifier: client.randomPKCECodeVerifier(),
    }
    await client.genericGrantRequest(configure(await metadata.get(), fetch), 'authorization_code', parameters)
  }

  return {
    async authorizationUrl(request) {
      const parameters: Record<string, string> = {
        ...Object.fromEntries(options.authorizeParameters),
        redirect_uri: options.redirectUri,
        scope: options.scope,
        state: request.state,
        nonce: request.nonce,
        code_challenge: await client.calculatePKCECodeChallenge(request.codeVerifier),
        code_challenge_method: 'S256',
      }
      if (request.prompt !== undefined) parameters.prompt = request.prompt
      if (request.loginHint !== undefined) parameters.login_hint = request.loginHint
      const query = new URLSearchParams(parameters)
      for (const resource of options.resources) query.append('resource', resource)
      return client.buildAuthorizationUrl(configure(await metadata.get(), fetch), query).href
    },

    async exchangeCode(callback, expected, onRedeemed) {
      const server = await metadata.get()
      // openid-client validates after the request, and its errors do not carry the tokens that came: take note of them.
      const noting: ProviderFetch = async (url, init) => {
        const response = await fetch(url, init)
        if (url === server.token_endpoint) await noteTokens(response.clone(), onRedeemed)
        return response
      }
      try {
        const configuration = configure(server, noting)
        const url = new URL(`${options.redirectUri}?${callback}`)
        const wire = await client.authorizationCodeGrant(configuration, url, {
          expectedState: expected.state,
          expectedNonce: expected.nonce,
          pkceCodeVerifier: expected.codeVerifier,
          idTokenExpected: true,
        })
        const read = readTokenResponse(wire)
        if ('fault' in read) throw new LoginRejected('invalid_response', { detail: read.fault })
        const { tokens } = read
        const { accessToken } = tokens
        const idToken = await verifyIdToken(wire.id_token ?? '', rules, { nonce: expected.nonce, accessToken })
        const claims = { ...(await userInfoClaims(configuration, idToken, accessToken)), ...idToken }
        const { kept, tooDeep } = pick(claims, options.userClaims)
        // Whoever serialises it later may run out of stack.
        if (tooDeep.length > 0)
          throw new LoginRejected('invalid_response', {
            detail: `the claim ${tooDeep[0]} nests deeper than ${maximumDepth} levels`,
          })
        return { identity: identityOf(idToken, kept), tokens }
      } catch (error) {
        throw loginFault(error)
      }
    },

    async refresh(refreshToken, identity, audience) {
      const server = await metadata.get()
      const context = {
        configure: (through: ProviderFetch) => configure(server, through),
        fetch,
        tokenEndpoint: server.token_endpoint,
        rules,
      }
      return refresh(context, refreshToken, identity, audience)
    },

    renewedClaims: (claims, idToken) => ({ ...claims, ...pick(idToken, options.userClaims).kept }),

    async revoke(token) {
      try {
        const server = await metadata.get()
        if (server.revocation_endpoint === undefined) return { outcome: 'not_supported' }
        await client.tokenRevocation(configure(server, fetch), token, { token_type_hint: 'refresh_token' })
        return { outcome: 'revoked' }
      } catch (error) {
        return revocationFault(error)
      }
    },

    verifyLogoutToken: token => verifyLogoutToken(token, rules),

    async logoutUrl() {
      const server = await metadata.get()
      if (server.end_session_endpoint === undefined) return null
      const parameters = { post_logout_redirect_uri: options.postLogoutUri }
      return client.buildEndSessionUrl(configure(server, fetch), parameters).href
    },

    async ready() {
      await metadata.get()
      await keys.ready()
      await clientAuth.ready(probeClient)
    },
  }
}

async function noteTokens(response: Response, onRedeemed: (token: string) => void): Promise<void> {
  const body: unknown = await response.json().catch(() => null)
  const { refresh_token, access_token } = (body ?? {}) as Record<string, unknown>
  const token = [refresh_token, access_token].find(each => typeof each === 'string' && each !== '')
  if (token !== undefined) onRedeemed(token as string)
}

function identityOf(idToken: IdTokenClaims, claims: Claims): Identity {
  return {
    issuer: String(idToken.iss),
    subject: idToken.sub,
    providerSessionId: typeof idToken.sid === 'string' ? idToken.sid : undefined,
    claims,
    nonce: String(idToken.nonce),
    authTime: typeof idToken.auth_time === 'number' ? idToken.auth_time : undefined,
  }
}

function pick(claims: Claims, names: readonly string[]): { kept: Claims; tooDeep: string[] } {
  const given = names.filter(name => Object.hasOwn(claims, name))
  const tooDeep = given.filter(name => !nestsWithin(claims[name], maximumDepth))
  const kept = given.filter(name => !tooDeep.includes(name)).map(name => [name, claims[name]])
  return { kept: Object.fromEntries(kept), tooDeep }
}

function nestsWithin(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return true
  return levels > 0 && Object.values(value).every(member => nestsWithin(member, levels - 1))
}
