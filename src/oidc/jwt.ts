import { decodeProtectedHeader, errors, type JWTVerifyResult, jwtVerify } from 'jose'
import type { Clock } from '../core/clock.ts'
import type { SigningKeys } from './signing-keys.ts'

/** What a token that the provider signs for this client must fit. */
export interface TokenRules {
  issuer: string
  clientId: string
  algorithms: readonly string[]
  keys: SigningKeys
  clock: Clock
  /** Where each tenant is an issuer of its own: those allowed, or all that the issuer's own rule lets pass. */
  tenants?: { allowed: readonly string[] | undefined } | undefined
}

/** What a kind of token demands beyond that. */
export interface TokenKind {
  required: readonly string[]
  /** Of `iat`, in seconds. */
  maximumAge: number
  /** The explicit type that the header must state (RFC 8725 §3.11), with or without `application/`, in any case. */
  type?: string
  /** Makes the error of a refusal from what is wrong; with the algorithm that the header states, if that is it. */
  invalid: (what: string, algorithm?: unknown) => Error
}

/** Tolerated difference between the provider's clock and ours, in seconds. */
export const leeway = 30
/** 9999-12-31: a time beyond it is no time. */
const endOfTime = 253_402_300_799

/**
 * Verifies what all tokens have in common: the signature always, algorithms by configuration alone, the exact issuer, this
 * client as the only audience, times within bounds.
 *
 * @throws {Error} the kind's own, when a rule is broken
 * @throws {ProviderUnavailable} when the keys cannot be had
 */
export async function verifyJwt(token: string, rules: TokenRules, kind: TokenKind): Promise<JWTVerifyResult> {
  // The decoders overlook padding and blanks, which makes many tokens of one (RFC 7515 §2).
  if (!/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) throw kind.invalid('form')
  const verified = await verifyAgain(token, rules, kind)
  const { aud, exp = Number.POSITIVE_INFINITY } = verified.payload
  if (![aud].flat().every(audience => audience === rules.clientId)) throw kind.invalid('aud')
  if (exp > endOfTime) throw kind.invalid('exp')
  return verified
}

/** A user as a provider may name one. */
export function isSubject(sub: unknown): sub is string {
  return typeof sub === 'string' && sub !== '' && sub.length <= 255
}

/** Verifies, and once more when the keys at hand may be those of before. */
async function verifyAgain(token: string, rules: TokenRules, kind: TokenKind): Promise<JWTVerifyResult> {
  try {
    return await verifySigned(token, rules, kind).catch(async error => {
      if (!(error instanceof errors.JWSSignatureVerificationFailed) || !(await rules.keys.renew())) throw error
      return verifySigned(token, rules, kind)
    })
  } catch (error) {
    throw refusalOf(error, token, kind)
  }
}

function verifySigned(token: string, rules: TokenRules, kind: TokenKind): Promise<JWTVerifyResult> {
  return jwtVerify(token, rules.keys.find, {
    algorithms: [...rules.algorithms],
    issuer: rules.issuer,
    audience: rules.clientId,
    requiredClaims: [...kind.required],
    maxTokenAge: kind.maximumAge,
    clockTolerance: leeway,
    currentDate: new Date(rules.clock.now()),
    ...(kind.type !== undefined && { typ: kind.type }),
  })
}

/** What is said of a token that was not verified. */
function refusalOf(error: unknown, token: string, { invalid }: TokenKind): unknown {
  if (error instanceof errors.JWTClaimValidationFailed || error instanceof errors.JWTExpired)
    return invalid(error.claim)
  if (error instanceof errors.JOSEAlgNotAllowed) return invalid(error.code, decodeProtectedHeader(token).alg)
  if (error instanceof errors.JOSEError) return invalid(error.code)
  // A header that makes the runtime's key import or verification throw is as invalid as one that jose refuses.
  if (error instanceof TypeError || error instanceof DOMException) return invalid('signature')
  return error
}
