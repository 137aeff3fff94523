import * as client from 'openid-client'
import { belongsTo, endpointFor, isShared } from '../core/authority.ts'
import type { ClientAuthentication } from '../core/client-authentication.ts'
import { type Clock, systemClock } from '../core/clock.ts'
import { type DpopKey, dpopAlgorithm } from '../core/dpop.ts'
import { ProviderUnavailable } from '../core/errors.ts'
import type { Audit } from '../core/events.ts'
import type { Claims, Identity } from '../core/session.ts'
import { createClientAuth } from './client-auth.ts'
import { type ExpectedLogin, exchangeCode, type Login } from './code-exchange.ts'
import { createDpop } from './dpop.ts'
import { pushFault, revocationFault } from './faults.ts'
import type { ProviderFetch } from './fetch.ts'
import type { IdTokenClaims } from './id-token.ts'
import { renewedClaims } from './kept-claims.ts'
import { type LogoutToken, verifyLogoutToken } from './logout-token.ts'
import { type LogoutHint, logoutUrlOf } from './logout-url.ts'
import { createMetadata, type Metadata } from './metadata.ts'
import { type Audience, type Refresh, refresh } from './refresh.ts'
import { type AuthorizationRequest, createRequestParameters, type RequestOptions } from './request-parameters.ts'
import { createSigningKeys } from './signing-keys.ts'
import type { Warn } from './watched-files.ts'

/** How the gateway is registered at the provider, and what it asks for. */
export interface ProviderOptions extends RequestOptions {
  issuer: string
  discoveryUrl: URL | undefined
  clientId: string
  authentication: ClientAuthentication
  /** Of a provider whose tenants are issuers; `*` for all. */
  allowedTenants: readonly string[] | undefined
  postLogoutUri: string
  /** Pushed authorization requests: `auto` goes by the metadata. */
  par: 'auto' | 'always' | 'never'
  idTokenAlgorithms: readonly string[]
  userInfo: 'auto' | 'always' | 'never'
  /** Names of the claims to keep. */
  /** Names of the claims that a session keeps. */
  keptClaims: readonly string[]
  fetch: ProviderFetch
  audit: Audit
  log: Warn
  clock: Clock
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
   * The URL of an authorization request: code flow with PKCE S256, whatever the metadata says of it. With a pushed one
   * (RFC 9126) the URL has its name alone, and there is no other way when pushing fails.
   *
   * @throws {ProviderUnavailable} when the metadata cannot be had, or the request cannot be pushed
   */
  authorizationUrl(request: AuthorizationRequest): Promise<string>
  /**
   * Redeems the code of a callback and verifies everything that comes with it. `onRedeemed` is told the token to revoke
   * should anything fail afterwards, here or at the caller.
   *
   * @throws {LoginRejected} when the response, a token or UserInfo breaks a rule
   * @throws {ProviderUnavailable} when the provider gives no definite answer
   */
  exchangeCode(callback: URLSearchParams, expected: ExpectedLogin, onRedeemed: (token: string) => void): Promise<Login>
  /**
   * Presents a refresh token for the access token of an upstream, with the key to which the session's tokens are bound.
   *
   * @throws {ProviderUnavailable} when there is no definite answer; `ambiguous` if the token may have been used up
   */
  refresh(refreshToken: string, identity: Identity, audience: Audience, dpopKey: DpopKey | undefined): Promise<Refresh>
  /** The claims of a session after a refresh brought a new ID token. */
  renewedClaims(identity: Identity, idToken: IdTokenClaims): Claims
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
  logoutUrl(hint: LogoutHint): Promise<string | null>
  /** @throws {ProviderUnavailable} when logins cannot succeed for now, also because the client is refused */
  ready(): Promise<void>
}

/** Connects to a provider. Nothing is fetched before it is needed. */
export function createProvider(options: ProviderOptions): Provider {
  const { issuer, clientId, preset, fetch, audit, clock } = options
  const severalTenants = preset.issuers === 'tenants'
  const accepts = (stated: unknown): stated is string =>
    severalTenants ? belongsTo(issuer, stated) : stated === issuer
  const metadata = createMetadata({ issuer, accepts, url: options.discoveryUrl, fetch, audit, clock })
  const keys = createSigningKeys({ metadata, fetch, audit, clock })
  const tenants = severalTenants ? { allowed: options.allowedTenants } : undefined
  const rules = { issuer, clientId, algorithms: options.idTokenAlgorithms, keys, clock, tenants }
  const { assertionAudience } = preset
  const clientAuth = createClientAuth({ ...options, assertionAudience, concernsAll: url => isShared(url, issuer) })
  const dpop = createDpop({ clock })
  const parameters = createRequestParameters(options)

  const configure = (server: Metadata, fetchWith: ProviderFetch, dpopKey?: DpopKey): client.Configuration => {
    // The provider does not choose which algorithms are good enough.
    const pinned = { ...server, id_token_signing_alg_values_supported: [...options.idTokenAlgorithms] }
    // One clock for all checks; of those of a token's times, the stricter in id-token.ts decides.
    const times = {
      [client.clockSkew]: Math.round((clock.now() - systemClock.now()) / 1000),
      [client.clockTolerance]: 60,
    }
    const configuration = new client.Configuration(pinned, clientId, times, clientAuth.mark)
    const authenticated = clientAuth.through(fetchWith)
    const send = dpopKey === undefined ? authenticated : dpop.withNonce(authenticated)
    configuration[client.customFetch] = send as client.CustomFetch
    // The endpoints were judged when the metadata came in; this only lifts a second, blunter check.
    if (issuer.startsWith('http:')) client.allowInsecureRequests(configuration)
    return configuration
  }

  /** Asks for tokens with a code that nobody issued: the answer tells whether the client is accepted, and nothing else. */
  const probeClient = async () => {
    const madeUp = {
      code: 'none',
      redirect_uri: options.redirectUri,
      code_verifier: client.randomPKCECodeVerifier(),
    }
    await client.genericGrantRequest(configure(await metadata.get(), fetch), 'authorization_code', madeUp)
  }

  /** What every call of a login or refresh goes through, and the client made for it. */
  const callsWith = (server: Metadata, dpopKey: DpopKey | undefined) => ({
    fetch: dpopKey === undefined ? fetch : dpop.prove(fetch, dpopKey),
    configure: (through: ProviderFetch) => configure(server, through, dpopKey),
  })

  const pushed = async (server: Metadata, query: URLSearchParams): Promise<string> => {
    if (server.pushed_authorization_request_endpoint === undefined)
      throw new ProviderUnavailable({ detail: 'the metadata names no pushed_authorization_request_endpoint' })
    try {
      return (await client.buildAuthorizationUrlWithPAR(configure(server, fetch), query)).href
    } catch (error) {
      throw pushFault(error)
    }
  }

  return {
    async authorizationUrl(request) {
      const server = await metadata.get()
      const algorithms = server.dpop_signing_alg_values_supported
      if (request.dpopKey !== undefined && algorithms?.includes(dpopAlgorithm) === false)
        throw new ProviderUnavailable({ detail: `the provider takes no DPoP proofs by ${dpopAlgorithm}` })
      const query = parameters.ofAuthorization(request, await client.calculatePKCECodeChallenge(request.codeVerifier))
      const pushes = options.par === 'auto' ? server.require_pushed_authorization_requests : options.par === 'always'
      return pushes ? pushed(server, query) : client.buildAuthorizationUrl(configure(server, fetch), query).href
    },

    async exchangeCode(callback, expected, onRedeemed) {
      const server = await metadata.get()
      const context = {
        server,
        ...callsWith(server, expected.dpopKey),
        rules,
        authority: issuer,
        redirectUri: options.redirectUri,
        parameters: parameters.ofCode(expected.challenge),
        userInfo: options.userInfo === 'auto' ? preset.userInfo : options.userInfo,
        keptClaims: options.keptClaims,
        keepIdToken: preset.logout.hint === 'id_token',
      }
      return exchangeCode(context, callback, expected, onRedeemed)
    },

    async refresh(refreshToken, identity, audience, dpopKey) {
      const stated = await metadata.get()
      const tokenEndpoint = endpointFor(identity.issuer, stated.token_endpoint, issuer)
      const server = { ...stated, token_endpoint: tokenEndpoint }
      const context = {
        ...callsWith(server, dpopKey),
        bound: dpopKey !== undefined,
        tokenEndpoint,
        rules: { ...rules, issuer: identity.issuer },
        parameters: parameters.ofToken(audience),
      }
      const result = await refresh(context, refreshToken, identity)
      const ofOneTenant = result.outcome === 'client_refused' && tokenEndpoint !== stated.token_endpoint
      return ofOneTenant ? { ...result, ofOneTenant } : result
    },

    renewedClaims: (identity, idToken) => renewedClaims(identity, idToken, options.keptClaims),

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

    async logoutUrl(hint) {
      const configuration = configure(await metadata.get(), fetch)
      return logoutUrlOf(configuration, preset.logout, options.postLogoutUri, hint)
    },

    async ready() {
      await metadata.get()
      await keys.ready()
      await clientAuth.ready(probeClient)
    },
  }
}
