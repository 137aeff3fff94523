import type { ProviderRequest } from './journal.ts'
import type { JwsKey, JwsPart, SigningKey } from './keys.ts'

/** A JSON object off the wire. */
export type Json = Record<string, unknown>

/** An ID token about to be handed out, with all that a forger needs. */
export interface IdTokenDraft {
  header: Json
  payload: Json
  /** The honest token. */
  token: string
  grant: 'authorization_code' | 'refresh_token'
  accessToken: string
  /** The provider's signing key, private half included. */
  key: SigningKey
  /** A compact JWS over exactly this header and payload, by the signing key unless another is given. */
  sign(header: JwsPart, payload: JwsPart, key?: JwsKey): string
}

type Changed<T> = T | Promise<T>

/**
 * What the provider's answers go through before they leave. Assign any of these; `provider.reset()` makes all of them
 * honest again. Where JSON is expected, a string is sent as it stands.
 */
export interface Tamper {
  discovery(metadata: Json): Changed<Json | string>
  jwks(jwks: { keys: Json[] }): Changed<object | string>
  /** Undefined leaves the ID token out. */
  idToken(draft: IdTokenDraft): Changed<string | undefined>
  /** Successful token responses; `request` tells which grant was asked for. */
  tokenResponse(response: Json, request: ProviderRequest): Changed<object | string>
  userinfo(claims: Json): Changed<object | string>
  /** The redirect URI with the answer in its query, successful or not; with `form_post` the query becomes the form. */
  authorizationResponse(url: URL): Changed<URL>
}

/** A tamper that changes nothing. */
export function honest(): Tamper {
  return {
    discovery: metadata => metadata,
    jwks: jwks => jwks,
    idToken: draft => draft.token,
    tokenResponse: response => response,
    userinfo: claims => claims,
    authorizationResponse: url => url,
  }
}
