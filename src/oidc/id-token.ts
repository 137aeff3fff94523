import { createHash } from 'node:crypto'
import type { JWTPayload } from 'jose'
import { LoginRejected } from '../core/errors.ts'
import { isSubject, type TokenRules, verifyJwt } from './jwt.ts'
import { idTokenAdvice } from './read-advice.ts'
import { checkTenant } from './tenants.ts'

/** The claims of a verified ID token that the gateway relies on, and whatever else the provider put in. */
export type IdTokenClaims = JWTPayload & { sub: string }

/** A token fresh from the token endpoint cannot be older, in seconds. */
const maximumAge = 600

/**
 * Verifies an ID token as OpenID Connect Core §3.1.3.7 and §3.1.3.8 say, where they leave a choice on the strict side:
 * the signature always, algorithms by configuration alone, this client as the only audience, `at_hash` when present. The
 * nonce is required, but in an ID token that comes with a refresh (§12.2). With tenants, the token's must be right, too.
 *
 * @throws {LoginRejected} when a rule is broken
 * @throws {ProviderUnavailable} when the keys cannot be had
 */
export async function verifyIdToken(
  idToken: string,
  rules: TokenRules,
  expected: { nonce: string; nonceOptional?: boolean; accessToken: string },
): Promise<IdTokenClaims> {
  const kind = { required: ['sub', 'exp', 'iat'], maximumAge, invalid }
  const { payload, protectedHeader } = await verifyJwt(idToken, rules, kind)
  const refuse = (what: string): never => {
    throw invalid(what)
  }
  // A logout token or an access token from the same keys is no ID token (RFC 8725 §3.11).
  if (protectedHeader.typ !== undefined && protectedHeader.typ.toUpperCase() !== 'JWT') refuse('typ')
  if (payload.events !== undefined) refuse('events')
  if (!isSubject(payload.sub)) refuse('sub')
  if (payload.azp !== undefined && payload.azp !== rules.clientId) refuse('azp')
  const noNonce = expected.nonceOptional === true && payload.nonce === undefined
  if (payload.nonce !== expected.nonce && !noNonce) refuse('nonce')
  if (payload.at_hash !== undefined && payload.at_hash !== halfHash(expected.accessToken, protectedHeader.alg))
    refuse('at_hash')
  if (rules.tenants !== undefined)
    checkTenant(payload, await rules.keys.issuersOf(protectedHeader.kid), rules.tenants.allowed)
  return payload as IdTokenClaims
}

/** The left half of the hash that goes with the algorithm, for `at_hash` (Core §3.1.3.6). */
function halfHash(value: string, algorithm: string): string {
  const bits = /(256|384|512)$/.exec(algorithm)?.[1] ?? '512'
  const digest = createHash(`sha${bits}`).update(value).digest()
  return digest.subarray(0, digest.length / 2).toString('base64url')
}

/** A genuine token whose times do not fit ours. */
export class UntimelyIdToken extends LoginRejected {}

const times = ['exp', 'iat', 'nbf']

function invalid(what: string, algorithm?: unknown): LoginRejected {
  const advice = idTokenAdvice(what, algorithm)
  const Refused = times.includes(what) ? UntimelyIdToken : LoginRejected
  return new Refused('invalid_response', { detail: `ID token refused: ${what}`, advice })
}
