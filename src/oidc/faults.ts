import {
  AuthorizationResponseError,
  ClientError,
  ResponseBodyError,
  WWWAuthenticateChallengeError,
} from 'openid-client'
import { GatewayError, LoginRejected, ProviderUnavailable } from '../core/errors.ts'
import { refusesClient } from './client-refusal.ts'
import type { Revocation } from './provider.ts'

/** Answers of the authorization endpoint that mean: the user, or the user's absence, said no (OpenID Connect Core §3.1.2.6). */
const refusals = [
  'access_denied',
  'login_required',
  'interaction_required',
  'consent_required',
  'account_selection_required',
]

/**
 * What an error of openid-client means for a login. Its `cause` carries response bodies and parameters, so nothing of it
 * is passed on but the standard's own error code.
 */
export function loginFault(error: unknown): unknown {
  if (error instanceof GatewayError) return error
  // openid-client wraps whatever the fetch below it throws.
  if (error instanceof ClientError && error.cause instanceof GatewayError) return error.cause
  if (error instanceof AuthorizationResponseError)
    return new LoginRejected(refusals.includes(error.error) ? 'denied' : 'provider_error', {
      detail: `authorization endpoint: ${standardCode(error.error)}`,
    })
  // No fault of this login or its user; and none that another attempt would meet once the operator has mended it.
  if (error instanceof ResponseBodyError && refusesClient(error.error))
    return new ProviderUnavailable({ detail: `token endpoint: ${error.error}` })
  if (error instanceof ResponseBodyError)
    return new LoginRejected('provider_error', { detail: `token endpoint: ${standardCode(error.error)}` })
  if (error instanceof WWWAuthenticateChallengeError)
    return new LoginRejected('provider_error', { detail: `the provider refused with ${error.status}` })
  if (error instanceof ClientError || error instanceof TypeError)
    return new LoginRejected('invalid_response', { detail: `the provider's answer: ${codeOf(error)}` })
  return error
}

/** What an error of the revocation endpoint means (RFC 7009 §2.2.1): all but one are worth another try. */
export function revocationFault(error: unknown): Revocation {
  if (error instanceof ResponseBodyError && error.error === 'unsupported_token_type')
    return { outcome: 'not_supported' }
  const cause = error instanceof ClientError ? error.cause : error
  return { outcome: 'failed', retryAfter: cause instanceof ProviderUnavailable ? cause.askedToWait : undefined }
}

/** An error code as RFC 6749 §5.2 writes them; anything else is not repeated. */
function standardCode(code: string): string {
  return /^[a-z_]{1,64}$/.test(code) ? code : 'unknown error'
}

function codeOf(error: ClientError | TypeError): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : error.name
}
