import { createHash } from 'node:crypto'
import { errors, type JWTPayload, type JWTVerifyResult, jwtVerify } from 'jose'
import type { Clock } from '../core/clock.ts'
import { LoginRejected } from '../core/errors.ts'
import type { SigningKeys } from './signing-keys.ts'

/** What an ID token must fit. */
export interface IdTokenRules {
  issuer: string
  clientId: string
  algorithms: readonly string[]
  keys: SigningKeys
  clock: Clock
}

/** The claims of a verified ID token that the gateway relies on, and whatever else the provider put in. */
export type IdTokenClaims = JWTPayload & { sub: string }

/** Tolerated difference between the provider's clock and ours, in seconds. */
const leeway = 30
/** A token fresh from the token endpoint cannot be older, in seconds. */
const maximumAge = 600
/** 9999-12-31: a time beyond it is no time. */
const endOfTime = 253_402_300_799

/**
 * Verifies an ID token as OpenID Connect Core §3.1.3.7 and §3.1.3.8 say, where they leave a choice on the strict side:
 * the signature always, algorithms by configuration alone, this client as the only audience, `at_hash` when present. The
 * nonce is required, but in an ID token that comes with a refresh (§12.2).
 *
 * @throws {LoginRejected} when a rule is broken
 * @throws {ProviderUnavailable} when the keys cannot be had
 */
export async function verifyIdToken(
  idToken: string,
  rules: IdTokenRules,
  expected: { nonce: string; nonceOptional?: boolean; accessToken: string },
): Promise<IdTokenClaims> {
  const { payload, protectedHeader } = await verifyJws(idToken, rules)
  const refuse = (what: string): never => {
    throw invalid(what)
  }
  // A logout token or an access token from the same keys is no ID token (RFC 8725 §3.11).
  if (protectedHeader.typ !== undefined && protectedHeader.typ.toUpperCase() !== 'JWT') refuse('typ')
  if (payload.events !== undefined) refuse('events')
  if (typeof payload.sub !== 'string' || payload.sub === '' || payload.sub.length > 255) refuse('sub')
  if (![payload.aud].flat().every(audience => audience === rules.clientId)) refuse('aud')
  if (payload.azp !== undefined && payload.azp !== rules.clientId) refuse('azp')
  if ((payload.exp ?? Number.POSITIVE_INFINITY) > endOfTime) refuse('exp')
  const noNonce = expected.nonceOptional === true && payload.nonce === undefined
  if (payload.nonce !== expected.nonce && !noNonce) refuse('nonce')
  if (payload.at_hash !== undefined && payload.at_hash !== halfHash(expected.accessToken, protectedHeader.alg))
    refuse('at_hash')
  return payload as IdTokenClaims
}

async function verifyJws(idToken: string, rules: IdTokenRules): Promise<JWTVerifyResult> {
  // The decoders below overlook padding and blanks, which makes many tokens of one (RFC 7515 §2).
  if (!/^[\w-]+\.[\w-]+\.[\w-]+$/.test(idToken)) throw invalid('form')
  try {
    return await jwtVerify(idToken, rules.keys.find, {
      algorithms: [...rules.algorithms],
      issuer: rules.issuer,
      audience: rules.clientId,
      requiredClaims: ['sub', 'exp', 'iat'],
      maxTokenAge: maximumAge,
      clockTolerance: leeway,
      currentDate: new Date(rules.clock.now()),
    })
  } catch (error) {
    if (error instanceof errors.JWTClaimValidationFailed || error instanceof errors.JWTExpired)
      throw invalid(error.claim)
    if (error instanceof errors.JOSEError) throw invalid(error.code)
    // A header that makes the runtime's key import or verification throw is as invalid as one that jose refuses.
    if (error instanceof TypeError || error instanceof DOMException) throw invalid('signature')
    throw error
  }
}

/** The left half of the hash that goes with the algorithm, for `at_hash` (Core §3.1.3.6). */
function halfHash(value: string, algorithm: string): string {
  const bits = /(256|384|512)$/.exec(algorithm)?.[1] ?? '512'
  const digest = createHash(`sha${bits}`).update(value).digest()
  return digest.subarray(0, digest.length / 2).toString('base64url')
}

function invalid(what: string): LoginRejected {
  return new LoginRejected('invalid_response', { detail: `ID token refused: ${what}` })
}
