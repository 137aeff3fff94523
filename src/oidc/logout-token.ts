import type { JWTPayload } from 'jose'
import { LogoutTokenRefused } from '../core/errors.ts'
import { isSubject, leeway, type TokenRules, verifyJwt } from './jwt.ts'

/** What a verified logout token says; at least one of `subject` and `providerSessionId` is there. Times in seconds. */
export interface LogoutToken {
  issuer: string
  subject: string | undefined
  providerSessionId: string | undefined
  issuedAt: number
  /** Given to no other token of this issuer. */
  id: string
  /** From then on it is refused. */
  expiresAt: number
}

/** In seconds; a token that was held back says nothing of the sessions of today. */
const maximumAge = 300
const logoutEvent = 'http://schemas.openid.net/event/backchannel-logout'

/**
 * Verifies a logout token as OpenID Connect Back-Channel Logout 1.0 §2.6 says, where it leaves a choice on the strict
 * side: the signature as for ID tokens, `typ` required, so that no other token of the provider passes for one, `exp` and
 * `jti` required, at most 5 minutes old. Whether it was used before is not looked at.
 *
 * @throws {LogoutTokenRefused} when a rule is broken
 * @throws {ProviderUnavailable} when the keys cannot be had
 */
export async function verifyLogoutToken(token: string, rules: TokenRules): Promise<LogoutToken> {
  const kind = { required: ['exp', 'iat'], maximumAge, type: 'logout+jwt', invalid }
  const { payload } = await verifyJwt(token, rules, kind)
  const { sub, sid, iat = 0, exp = 0, jti } = payload
  if (typeof jti !== 'string' || jti === '') throw invalid('jti')
  if (!isLogout(payload.events)) throw invalid('events')
  // Its mere presence: an ID token must not pass for a logout token (§2.6, step 7).
  if (Object.hasOwn(payload, 'nonce')) throw invalid('nonce')
  if (sub !== undefined && !isSubject(sub)) throw invalid('sub')
  if (sid !== undefined && (typeof sid !== 'string' || sid === '')) throw invalid('sid')
  if (sub === undefined && sid === undefined) throw invalid('neither sub nor sid')
  return {
    issuer: String(payload.iss),
    subject: sub,
    providerSessionId: sid as string | undefined,
    issuedAt: iat,
    id: jti,
    expiresAt: Math.min(exp, iat + maximumAge) + leeway,
  }
}

function isLogout(events: JWTPayload[string]): boolean {
  if (!isObject(events) || !Object.hasOwn(events, logoutEvent)) return false
  return isObject(events[logoutEvent])
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function invalid(what: string): LogoutTokenRefused {
  return new LogoutTokenRefused(`logout token refused: ${what}`)
}
