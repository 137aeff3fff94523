import { errors } from 'jose'
import * as client from 'openid-client'
import type { Advice } from '../core/advice.ts'
import { GatewayError, LoginRejected, ProviderUnavailable } from '../core/errors.ts'
import type { Identity } from '../core/session.ts'
import type { TokenResponse } from '../core/token-set.ts'
import type { ProviderFetch } from './fetch.ts'
import { type IdTokenClaims, UntimelyIdToken, verifyIdToken } from './id-token.ts'
import type { TokenRules } from './jwt.ts'
import { classifyRefusal, type Refusal } from './refusals.ts'
import { type RawAnswer, takeAnswer } from './token-request.ts'
import { readTokenResponse } from './token-response.ts'

/** Which access token is asked for. */
export interface Audience {
  scope: string | undefined
  resource: string | undefined
  /** What the token has to satisfy beyond its scope: a `claims` parameter. */
  claims?: string | undefined
}

/**
 * What a refresh came to. `refreshed` with the claims of a new ID token, if one came and could be verified; `impostor`:
 * the provider answered with somebody else's identity, and these tokens must not be used. `unusable`: nothing in the
 * answer is of use but the refresh token, which has replaced the one presented.
 */
export type Refresh =
  | { outcome: 'refreshed'; tokens: TokenResponse; claims: IdTokenClaims | null }
  | { outcome: 'impostor'; tokens: TokenResponse; detail: string | undefined; advice: Advice }
  | { outcome: 'unusable'; refreshToken: string; detail: string | undefined; advice: Advice }
  | Refusal

/** What a refresh needs beside the token. */
export interface RefreshContext {
  /** Makes a client that sends its requests through this. */
  configure: (fetch: ProviderFetch) => client.Configuration
  fetch: ProviderFetch
  tokenEndpoint: string
  /** What names the access token that is asked for. */
  parameters: Readonly<Record<string, string>>
  rules: TokenRules
  /** Whether the tokens are bound to a key. */
  bound: boolean
}

/**
 * Presents a refresh token once (RFC 6749 §6). The raw answer is taken before anything of it is judged: whatever is wrong
 * with an ID token that comes along, or with the keys to verify it, the new refresh token is not thrown away.
 *
 * @throws {ProviderUnavailable} when there is no definite answer; `ambiguous` if the token may have been used up
 */
export async function refresh(context: RefreshContext, refreshToken: string, identity: Identity): Promise<Refresh> {
  const taken = takeAnswer(context.fetch, context.tokenEndpoint)
  const parameters = { ...context.parameters, refresh_token: refreshToken }
  let wire: client.TokenEndpointResponse
  try {
    wire = await client.genericGrantRequest(context.configure(taken.fetch), 'refresh_token', parameters)
  } catch (error) {
    return refusalOf(error, taken.answer())
  }
  const read = readTokenResponse(wire, context)
  if ('fault' in read) return unusable(taken.answer()?.body, read.fault, {})
  const { tokens } = read
  const idToken = (taken.answer()?.body as { id_token?: unknown } | undefined)?.id_token
  if (idToken === undefined) return { outcome: 'refreshed', tokens, claims: null }
  return verifyIdentity(context.rules, idToken, tokens, identity)
}

/** An ID token on refresh must speak of the same user and login (OpenID Connect Core §12.2). */
async function verifyIdentity(
  rules: TokenRules,
  idToken: unknown,
  tokens: TokenResponse,
  identity: Identity,
): Promise<Refresh> {
  const impostor = (detail: string | undefined, advice: Advice = {}): Refresh => ({
    outcome: 'impostor',
    tokens,
    detail,
    advice,
  })
  // The key set may lag behind a change of keys, and is not asked for again and again; or two of its keys have no name, or
  // the same one. That is no user's fault.
  const find: typeof rules.keys.find = async (header, token) => {
    try {
      return await rules.keys.find(header, token)
    } catch (error) {
      if (error instanceof errors.JWKSNoMatchingKey || error instanceof errors.JWKSMultipleMatchingKeys)
        throw new ProviderUnavailable({ detail: 'no key fits, or more than one', cause: error })
      throw error
    }
  }
  try {
    const expected = { nonce: identity.nonce, nonceOptional: true, accessToken: tokens.accessToken }
    const claims = await verifyIdToken(String(idToken), { ...rules, keys: { ...rules.keys, find } }, expected)
    if (claims.sub !== identity.subject) return impostor('ID token refused: another sub')
    if (claims.oid !== undefined && identity.directory !== undefined && claims.oid !== identity.directory.objectId)
      return impostor('ID token refused: another oid')
    if (identity.authTime !== undefined && claims.auth_time !== undefined && claims.auth_time !== identity.authTime)
      return impostor('ID token refused: another auth_time')
    return { outcome: 'refreshed', tokens, claims }
  } catch (error) {
    // Without keys, or with a clock that runs behind, nothing can be said of the ID token, so nothing of it is used; the
    // tokens are as good as without one.
    if (error instanceof ProviderUnavailable || error instanceof UntimelyIdToken)
      return { outcome: 'refreshed', tokens, claims: null }
    if (error instanceof LoginRejected) return impostor(error.detail, error.advice)
    throw error
  }
}

/** Whether the answer is good or not, a refresh token in it has taken the place of the one presented. */
function unusable(body: unknown, detail: string | undefined, advice: Advice): Refresh {
  const { refresh_token: refreshToken } = (body ?? {}) as Record<string, unknown>
  if (typeof refreshToken !== 'string' || refreshToken === '') return { outcome: 'misconfigured', detail, advice }
  return { outcome: 'unusable', refreshToken, detail, advice }
}

function refusalOf(error: unknown, raw: RawAnswer | undefined): Refresh {
  const cause = error instanceof client.ClientError ? error.cause : error
  if (cause instanceof GatewayError) throw cause
  if (raw === undefined) throw new ProviderUnavailable({ detail: 'the token endpoint gave no answer', ambiguous: true })
  const refusal = classifyRefusal(raw.status, raw.body, 'refresh')
  return raw.status === 200 ? unusable(raw.body, refusal.detail, refusal.advice) : refusal
}
