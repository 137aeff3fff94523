import { type Challenge, checkedClaims, handlesChallenges, mergeClaims } from '../core/challenge.ts'
import { type DpopKey, dpopThumbprint } from '../core/dpop.ts'
import { ownScopes, type Preset } from '../core/presets.ts'
import type { Audience } from './refresh.ts'

/** What shapes the gateway's requests to the provider. */
export interface RequestOptions {
  preset: Preset
  redirectUri: string
  /** Of the login and of all upstreams: a refresh cannot ask for what was never granted (RFC 6749 §6). */
  scope: string
  /** Of the login alone. */
  loginScope: string
  /** Resource indicators of the upstreams (RFC 8707). */
  resources: readonly string[]
  authorizeParameters: ReadonlyMap<string, string>
  /** How the provider is to answer an authorization request. */
  responseMode: 'query' | 'form_post'
}

/** What a login sends to the authorization endpoint beyond what is configured. */
export interface AuthorizationRequest {
  state: string
  nonce: string
  codeVerifier: string
  /** To which the code will be bound. */
  dpopKey: DpopKey | undefined
  prompt: string | undefined
  loginHint: string | undefined
  /** What this login is to satisfy. */
  challenge?: Challenge | undefined
}

/** The parameters of each request, but for those that authenticate the client. */
export interface RequestParameters {
  ofAuthorization(request: AuthorizationRequest, codeChallenge: string): URLSearchParams
  /** What a code is redeemed for, where that is not all that was asked for with it. */
  ofCode(challenge: Challenge | undefined): Record<string, string>
  /** What names an upstream's token in a refresh; where each token is for one resource, also what names the login's. */
  ofToken(audience: Audience): Record<string, string>
}

export function createRequestParameters(options: RequestOptions): RequestParameters {
  const { preset } = options
  const resourceName = preset.resourceParameter

  /** A request's `claims`; at Entra ID with the word that challenges are understood here. */
  const claimsOf = (...claims: (string | undefined)[]) =>
    mergeClaims(...claims, preset.challenge === 'entra' ? handlesChallenges : undefined)

  return {
    ofAuthorization(request, codeChallenge) {
      const configured = checkedClaims(options.authorizeParameters.get('claims')) ?? undefined
      // What the operator asks of every login goes before what an upstream asks of this one.
      const claims = claimsOf(configured, request.challenge?.claims)
      const { prompt, loginHint, dpopKey } = request
      const query = new URLSearchParams({
        ...Object.fromEntries(options.authorizeParameters),
        redirect_uri: options.redirectUri,
        scope: scopeWith(options.scope, request.challenge?.scope),
        state: request.state,
        nonce: request.nonce,
        code_challenge: codeChallenge,
        code_challenge_method: 'S256',
        ...(options.responseMode !== 'query' && { response_mode: options.responseMode }),
        ...(prompt !== undefined && { prompt: withPrompt(preset.authorizeParameters.prompt, prompt) }),
        ...(loginHint !== undefined && { login_hint: loginHint }),
        ...demandsOf(request.challenge, preset.challenge),
        ...(claims !== undefined && { claims }),
        // A code that is bound cannot be redeemed with another key (RFC 9449 §10).
        ...(dpopKey !== undefined && { dpop_jkt: dpopThumbprint(dpopKey) }),
      })
      const resources = resourceName === null ? [] : new Set(options.resources)
      for (const resource of resources) {
        // `resource` may be repeated (RFC 8707 §2); `audience` is no standard's, and may not.
        if (resourceName === 'resource' || !query.has('audience')) query.append(String(resourceName), resource)
      }
      return query
    },

    ofCode(challenge) {
      const claims = preset.challenge === 'entra' ? claimsOf(challenge?.claims) : undefined
      return {
        ...(preset.oneResourcePerToken && { scope: options.loginScope }),
        ...(claims !== undefined && { claims }),
      }
    },

    ofToken({ scope, resource, claims }) {
      const scopes = preset.oneResourcePerToken ? scopesOfOneResource(scope, options.loginScope) : scope
      const demanded = claimsOf(claims)
      return {
        ...(scopes !== undefined && { scope: scopes }),
        ...(demanded !== undefined && { claims: demanded }),
        ...(resource !== undefined && resourceName !== null && { [resourceName]: resource }),
      }
    },
  }
}

/** What the provider always has to be asked stays, unless nobody may be asked anything (OpenID Connect Core §3.1.2.1). */
function withPrompt(always: string | undefined, asked: string): string {
  if (always === undefined || asked === 'none') return asked
  return [...new Set([...always.split(' '), asked])].join(' ')
}

/** The login's scopes, or an upstream's with those of the login that bring an ID token and a refresh token. */
function scopesOfOneResource(scope: string | undefined, loginScope: string): string {
  if (scope === undefined) return loginScope
  const own = loginScope.split(' ').filter(name => ownScopes.includes(name))
  return [...new Set([...scope.split(' '), ...own])].join(' ')
}

/** The parameters that ask for another authentication (RFC 9470 §4). */
function demandsOf(challenge: Challenge | undefined, style: Preset['challenge']): Record<string, string> {
  const { acrValues, maxAge } = challenge ?? {}
  const demands: Record<string, string> = {}
  if (acrValues !== undefined) demands.acr_values = acrValues
  // Entra ID does not know max_age; a user who signs in now is young enough for any.
  if (maxAge !== undefined && style === 'entra') demands.prompt = 'login'
  else if (maxAge !== undefined) demands.max_age = String(maxAge)
  return demands
}

function scopeWith(scope: string, more: string | undefined): string {
  return more === undefined ? scope : [...new Set(`${scope} ${more}`.split(' '))].join(' ')
}
