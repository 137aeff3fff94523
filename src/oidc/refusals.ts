import type { Advice } from '../core/advice.ts'
import { checkedClaims } from '../core/challenge.ts'
import { standardCode } from '../core/error-code.ts'
import { ProviderUnavailable } from '../core/errors.ts'
import type { Place } from './advice.ts'
import { readAdvice } from './read-advice.ts'

/**
 * A definite no of the token endpoint: the refresh token is `dead`; the user has to act at the provider first
 * (`interaction`); the client itself is not accepted (`client_refused`), or what it asks for is wrong (`misconfigured`).
 * Only the first says anything about the session.
 */
export interface Refusal {
  outcome: 'dead' | 'interaction' | 'client_refused' | 'misconfigured'
  detail: string | undefined
  advice: Advice
  /** What the user has to do at the provider, to be sent along with the login (a `claims` parameter). */
  claims?: string
  /** It is one tenant that does not accept the client. */
  ofOneTenant?: boolean
  /** The provider has no more than a message for the user. */
  messageOnly?: boolean
}

/** Entra ID's number for one session whose requests repeat themselves. */
const loopDetected = 50196
/** Entra ID's numbers for passing faults, whatever `error` says. They only ever soften a decision. */
const passingNumbers = [90033, 90006, 90024, 50033, 50087, 90012, 90055, 90090, loopDetected]

/** Entra ID's `suberror` values that ask for the user (the list of Microsoft's own client library). */
const interactiveSuberrors = [
  'basic_action',
  'additional_action',
  'consent_required',
  'user_password_expired',
  'message_only',
]

/** Azure AD B2C gives none for the scopes of OpenID Connect alone. */
const noTokens: Advice = {
  cause: 'the token response has no access token, or none of a known type',
  mend: 'name an API in OIDC_SCOPE or UPSTREAM_<NAME>_SCOPE; at Azure AD B2C the client ID is a scope that brings one',
}

const classes: Record<string, Refusal['outcome'] | 'passing'> = {
  temporarily_unavailable: 'passing',
  server_error: 'passing',
  // Even with the nonce that it gave: its nonces change faster than it is asked.
  use_dpop_nonce: 'passing',
  interaction_required: 'interaction',
  consent_required: 'interaction',
  login_required: 'interaction',
  invalid_grant: 'dead',
  invalid_client: 'client_refused',
  unauthorized_client: 'client_refused',
}

/**
 * Reads an error answer of the token endpoint (RFC 6749 §5.2) by its standard members, never by its text.
 *
 * @throws {ProviderUnavailable} when the answer is no definite one
 */
export function classifyRefusal(status: number, body: unknown, place: Place = 'refresh'): Refusal {
  const { error, suberror, claims, error_codes } = (body ?? {}) as Record<string, unknown>
  const numbers: unknown[] = Array.isArray(error_codes) ? error_codes : []
  const isObject = typeof body === 'object' && body !== null
  // Somebody in between may have put a page in the place of the provider's answer.
  const ambiguous = status === 200
  const advice = readAdvice(body, place)
  // Some providers answer so for a refresh token that is over, and firewalls for one whose text they dislike.
  const isolated = (status >= 400 && typeof error !== 'string' && status !== 401) || numbers.includes(loopDetected)
  const passing = () =>
    new ProviderUnavailable({ detail: `the token endpoint answered ${status}`, advice, ambiguous, isolated })
  if (status === 200 && isObject)
    return { outcome: 'misconfigured', detail: 'the token endpoint gave no usable token response', advice: noTokens }
  if (typeof error !== 'string') throw passing()
  if (numbers.some(number => passingNumbers.some(known => known === number))) throw passing()
  const detail = `token endpoint: ${standardCode(error)}`
  if (claims !== undefined || interactiveSuberrors.some(known => known === suberror))
    return { ...demandIn(claims, suberror), outcome: 'interaction', detail, advice }
  const known = classes[error] ?? 'misconfigured'
  if (known === 'passing') throw passing()
  return { outcome: known, detail, advice }
}

function demandIn(claims: unknown, suberror: unknown): Pick<Refusal, 'claims' | 'messageOnly'> {
  const checked = checkedClaims(claims)
  return { ...(checked !== null && { claims: checked }), ...(suberror === 'message_only' && { messageOnly: true }) }
}
