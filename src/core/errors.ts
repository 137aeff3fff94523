import type { Advice } from './advice.ts'
import type { Challenge } from './challenge.ts'
import { type EndReason, expired } from './session.ts'

/** Every code that an answer of the gateway can carry, with its status and title (RFC 9457 §3.1). */
export const problems = {
  bad_request: { status: 400, title: 'The request is not understood' },
  not_authenticated: { status: 401, title: 'No session' },
  session_expired: { status: 401, title: 'The session has expired' },
  session_revoked: { status: 401, title: 'The session was ended' },
  step_up_required: { status: 401, title: 'Another sign-in is asked for' },
  forbidden: { status: 403, title: 'Not allowed' },
  tenant_not_allowed: { status: 403, title: 'Users of this organisation may not sign in here' },
  csrf: { status: 403, title: 'Refused: the request may come from another site' },
  not_found: { status: 404, title: 'Nothing here' },
  method_not_allowed: { status: 405, title: 'The method is not allowed here' },
  request_timeout: { status: 408, title: 'The request took too long to arrive' },
  precondition_failed: { status: 412, title: 'The file has changed' },
  payload_too_large: { status: 413, title: 'The request body is too large' },
  uri_too_long: { status: 414, title: 'The request target is too long' },
  unsupported_media_type: { status: 415, title: 'The media type is not supported' },
  range_not_satisfiable: { status: 416, title: 'The file has no such part' },
  too_many_requests: { status: 429, title: 'Too many requests' },
  headers_too_large: { status: 431, title: 'The request headers are too large' },
  internal_error: { status: 500, title: 'The gateway failed' },
  bad_upstream: { status: 502, title: 'The API gave no usable answer' },
  provider_unavailable: { status: 503, title: 'The identity provider cannot be reached' },
  store_unavailable: { status: 503, title: 'The session store cannot be reached' },
  upstream_timeout: { status: 504, title: 'The API did not answer in time' },
} as const satisfies Record<string, { status: number; title: string }>

export type ProblemCode = keyof typeof problems

interface ErrorDetails {
  /** What the operator should know. Goes to the log, never into an answer. */
  detail?: string
  /** As `detail`: the likely cause and mend of a fault of the provider's. */
  advice?: Advice
  cause?: unknown
  /** Seconds after which a retry makes sense. */
  retryAfter?: number
}

/** The base of every error that the gateway raises on purpose. `message` is fit for the browser, `detail` is not. */
export class GatewayError extends Error {
  readonly code: ProblemCode
  readonly detail: string | undefined
  readonly advice: Advice | undefined
  readonly retryAfter: number | undefined

  constructor(code: ProblemCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = new.target.name
    this.code = code
    this.detail = details.detail
    this.advice = details.advice
    this.retryAfter = details.retryAfter
  }

  get status(): number {
    return problems[this.code].status
  }
}

/** The request itself is wrong; the same request will fail again. */
export class BadRequest extends GatewayError {
  constructor(message: string) {
    super('bad_request', message)
  }
}

/** The client has done this too often. `retryAfter` is in seconds. */
export class TooManyRequests extends GatewayError {
  constructor(retryAfter: number) {
    super('too_many_requests', 'There were too many such requests. Try again later.', { retryAfter })
  }
}

/** The request fails the route's CSRF rule. */
export class CsrfRefused extends GatewayError {
  constructor(message: string) {
    super('csrf', message)
  }
}

/** There is no live session; a login helps. With the reason, if the session's end is remembered. */
export class NotAuthenticated extends GatewayError {
  readonly reason: EndReason | null

  constructor(reason: EndReason | null) {
    if (reason === null) super('not_authenticated', 'There is no session.')
    else super(expired(reason) ? 'session_expired' : 'session_revoked', endSentences[reason])
    this.reason = reason
  }
}

const endSentences: Record<EndReason, string> = {
  idle: 'The session has ended: it was not used for too long.',
  absolute: 'The session has ended: it had lasted for as long as a session may.',
  tokens_expired: 'The session has ended: its access token is over and cannot be renewed.',
  refresh_token_dead: 'The session has ended: the identity provider does not renew it any more.',
  rotation_lost: 'The session has ended: its renewal was interrupted.',
  identity_changed: 'The session has ended: the identity provider answered for somebody else.',
  logout: 'The session was ended by signing out.',
  ended_elsewhere: 'The session was ended from another device.',
  too_many: 'The session was ended: there were too many others.',
  replaced: 'The session was ended by a new sign-in.',
  admin: 'The session was ended by an administrator.',
  backchannel_logout: 'The session was ended by the identity provider.',
  frontchannel_logout: 'The session was ended by signing out at the identity provider.',
}

/** Redis gave no definite answer. The session is kept and a retry makes sense. */
export class StoreUnavailable extends GatewayError {
  constructor(details: ErrorDetails = {}) {
    super('store_unavailable', 'The session store cannot be reached. Try again shortly.', { retryAfter: 2, ...details })
  }
}

/** The provider gave no definite answer. The session is kept and a retry makes sense. */
export class ProviderUnavailable extends GatewayError {
  /** Whether the provider may have processed the request all the same: the answer was lost, not the question. */
  readonly ambiguous: boolean
  /** Whether it may be this request alone that gets such an answer: it says nothing of the provider's health. */
  readonly isolated: boolean
  /** Seconds that the provider itself asked to wait. */
  readonly askedToWait: number | undefined

  constructor({
    ambiguous = false,
    isolated = false,
    ...details
  }: ErrorDetails & { ambiguous?: boolean; isolated?: boolean } = {}) {
    super('provider_unavailable', 'The identity provider cannot be reached. Try again shortly.', {
      retryAfter: 5,
      ...details,
    })
    this.ambiguous = ambiguous
    this.isolated = isolated
    this.askedToWait = details.retryAfter
  }
}

/** The provider or an upstream wants to see the user again first. The session is kept. */
export class StepUpRequired extends GatewayError {
  readonly challenge: Challenge | undefined
  /** Of the login that would help, good once and for this session alone; none before the request's answer. */
  readonly handle: string | undefined

  constructor({ challenge, handle, ...details }: ErrorDetails & { challenge?: Challenge; handle?: string } = {}) {
    super('step_up_required', 'You are asked to sign in again for this.', details)
    this.challenge = challenge
    this.handle = handle
  }
}

/** The user has signed in again for this, more than once in a short time, and it was never enough. */
export class StepUpFailed extends GatewayError {
  constructor(details: ErrorDetails = {}) {
    super(
      'forbidden',
      'You have signed in again for this, and it is still not allowed. It can be tried again in some minutes.',
      details,
    )
  }
}

/** The provider gives no token for this API, now or later. The session and its other APIs are not touched by it. */
export class TokenRefused extends GatewayError {
  constructor(code: 'forbidden' | 'bad_upstream', details: ErrorDetails = {}) {
    super(code, 'The identity provider gives no access to this API.', details)
  }
}

/** Why a callback opened no session. Each has a sentence of its own on the page that the user sees. */
export type LoginRejection =
  | 'stale'
  | 'denied'
  | 'consent_required'
  | 'interaction_required'
  | 'provider_error'
  | 'invalid_response'
  | 'tenant_not_allowed'
  | 'too_weak'
  | 'another_user'

/** A callback that must not open a session: its answer is a page, never a retry. */
export class LoginRejected extends GatewayError {
  readonly reason: LoginRejection

  constructor(reason: LoginRejection, details: ErrorDetails = {}) {
    const code = reason === 'tenant_not_allowed' ? reason : 'bad_request'
    super(code, 'The sign-in was not completed.', details)
    this.reason = reason
  }
}

/** A logout token that ends nothing, now or later. The answer does not say what is wrong with it. */
export class LogoutTokenRefused extends GatewayError {
  constructor(detail: string) {
    super('bad_request', 'The logout token is not accepted.', { detail })
  }
}

/**
 * A logout that the provider asked for and that may not have happened; the same request may succeed later. A 400 all the
 * same: it is the one status with which a client tells its provider so (OpenID Connect Back-Channel Logout 1.0 §2.8).
 */
export class LogoutFailed extends GatewayError {
  constructor(cause: GatewayError) {
    const { detail = cause.code, retryAfter = 5 } = cause
    super('bad_request', 'The logout could not be completed. Try again shortly.', { detail, retryAfter, cause })
  }
}
