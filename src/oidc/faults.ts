import {
  AuthorizationResponseError,
  ClientError,
  ResponseBodyError,
  WWWAuthenticateChallengeError,
} from 'openid-client'
import { standardCode } from '../core/error-code.ts'
import { GatewayError, LoginRejected, type LoginRejection, ProviderUnavailable } from '../core/errors.ts'
import type { Revocation } from './provider.ts'
import { idTokenAdvice, readAdvice } from './read-advice.ts'
import { classifyRefusal, type Refusal } from './refusals.ts'

/** Answers of the authorization endpoint that mean: the user, or the user's absence, said no (OpenID Connect Core §3.1.2.6). */
const refusals: ReadonlyMap<string, LoginRejection> = new Map([
  ['access_denied', 'denied'],
  ['consent_required', 'consent_required'],
  ['login_required', 'interaction_required'],
  ['interaction_required', 'interaction_required'],
  ['account_selection_required', 'interaction_required'],
])

/** What stands for a 503 and a 500 in a redirect, which has no status of its own (RFC 6749 §4.1.2.1). */
const passing = ['temporarily_unavailable', 'server_error']

/**
 * What an error of openid-client means for a login. Its `cause` carries response bodies and parameters, so nothing of it
 * is passed on but the standard's own error code and what can be said of it.
 */
export function loginFault(error: unknown): unknown {
  if (error instanceof GatewayError) return error
  // openid-client wraps whatever the fetch below it throws.
  if (error instanceof ClientError && error.cause instanceof GatewayError) return error.cause
  if (error instanceof AuthorizationResponseError) {
    const detail = `authorization endpoint: ${standardCode(error.error)}`
    const advice = readAdvice(Object.fromEntries(error.cause), 'authorization')
    if (passing.includes(error.error)) return new ProviderUnavailable({ detail, advice })
    return new LoginRejected(refusals.get(error.error) ?? 'provider_error', { detail, advice })
  }
  if (error instanceof ResponseBodyError) return tokenFault(error)
  if (error instanceof WWWAuthenticateChallengeError)
    return new LoginRejected('provider_error', {
      detail: `the provider refused with ${error.status}`,
      advice: {
        cause:
          'UserInfo does not take the access token of the login, or something in front of the provider asks for a password',
        mend: 'set OIDC_USERINFO=never, or see what stands between the gateway and the provider',
      },
    })
  if (error instanceof ClientError || error instanceof TypeError) {
    const { claim, algorithm } = refusedFor(error)
    return new LoginRejected('invalid_response', {
      detail: `the provider's answer: ${codeOf(error)}${claim === undefined ? '' : ` (${claim})`}`,
      advice: idTokenAdvice(claim ?? '', algorithm),
    })
  }
  return error
}

/** What the token endpoint says instead of redeeming a code (RFC 6749 §5.2). */
function tokenFault(error: ResponseBodyError): unknown {
  let outcome: Refusal['outcome']
  try {
    outcome = classifyRefusal(error.status, error.cause, 'code').outcome
  } catch (passing) {
    return passing
  }
  const advice = readAdvice(error.cause, 'code')
  const detail = `token endpoint: ${standardCode(error.error)}`
  // No fault of this login or its user; and none that another attempt would meet once the operator has mended it.
  if (outcome === 'client_refused') return new ProviderUnavailable({ detail, advice })
  const { suberror } = error.cause
  const wantsConsent = [error.error, suberror].includes('consent_required')
  const rejection = wantsConsent ? 'consent_required' : outcome === 'interaction' ? 'interaction_required' : undefined
  return new LoginRejected(rejection ?? refusals.get(error.error) ?? 'provider_error', { detail, advice })
}

/** Claims whose names may be repeated. */
const claims = ['iss', 'aud', 'azp', 'nonce', 'iat', 'exp', 'nbf', 'sub']

/** Which claim or algorithm of an ID token openid-client objects to. */
function refusedFor({ cause }: Error): { claim: string | undefined; algorithm: unknown } {
  const found = ((cause as Error | undefined)?.cause ?? {}) as {
    claim?: unknown
    header?: { alg?: unknown }
    reason?: unknown
  }
  // A header comes along with other faults as well; a reason only with this one.
  const algorithm = found.reason === undefined ? undefined : found.header?.alg
  return { claim: claims.find(name => name === found.claim), algorithm }
}

/** What an error of a pushed authorization request means: there is no login for now, whoever is at fault. */
export function pushFault(error: unknown): unknown {
  if (error instanceof ClientError && error.cause instanceof GatewayError) return error.cause
  const unavailable = (what: string) => new ProviderUnavailable({ detail: `pushed authorization request: ${what}` })
  if (error instanceof ResponseBodyError) return unavailable(standardCode(error.error))
  if (error instanceof WWWAuthenticateChallengeError) return unavailable(`refused with ${error.status}`)
  return error instanceof ClientError || error instanceof TypeError ? unavailable(codeOf(error)) : error
}

/** What an error of the revocation endpoint means (RFC 7009 §2.2.1): all but one are worth another try. */
export function revocationFault(error: unknown): Revocation {
  if (error instanceof ResponseBodyError && error.error === 'unsupported_token_type')
    return { outcome: 'not_supported' }
  const cause = error instanceof ClientError ? error.cause : error
  return { outcome: 'failed', retryAfter: cause instanceof ProviderUnavailable ? cause.askedToWait : undefined }
}

function codeOf(error: ClientError | TypeError): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : error.name
}
