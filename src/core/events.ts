import type { Advice, Diagnosis } from './advice.ts'
import type { EndReason } from './session.ts'

/** What the audit log records. Sessions and users appear by handle, never by cookie, name or e-mail. */
export type AuditEvent =
  | { event: 'login_succeeded'; session: string; user: string }
  /** `reference` is on the page that the user sees. */
  | ({ event: 'login_rejected'; reason: string; detail: string | undefined; reference: string } & Advice)
  | { event: 'step_up_attempted'; session: string; upstream: string; attempt: number }
  | { event: 'session_ended'; session: string; user: string; reason: EndReason }
  | { event: 'session_not_ended'; session: string; reason: EndReason }
  | {
      event: 'revocation'
      session: string
      reason: RevocationReason
      outcome: RevocationOutcome
      attempts: number
    }
  | { event: 'tokens_refreshed'; session: string; upstream: string }
  | ({
      event: 'refresh_failed'
      session: string
      upstream: string
      outcome: string
      detail: string | undefined
    } & Advice)
  | { event: 'scope_changed'; session: string; upstream: string; gained: string[]; lost: string[] }
  | { event: 'refresh_token_reuse_suspected'; severity: 'high'; session: string; user: string }
  | { event: 'refresh_token_dead'; severity: 'medium'; session: string; user: string }
  | { event: 'rotation_lost'; severity: 'high'; session: string }
  | { event: 'identity_changed'; severity: 'high'; session: string; user: string }
  | ({ event: 'client_refused'; severity: 'high'; detail: string } & Advice & Diagnosis)
  /** `cause` and `mend` are there when the fault is one of the common ones; `address` is without query. */
  | ({
      event: 'provider_unusable'
      severity: 'high'
      document: ProviderDocument
      address: string
      detail: string | undefined
    } & Advice)
  | { event: 'provider_usable'; document: ProviderDocument }
  | { event: 'client_accepted' }
  | { event: 'client_credential_changed'; from: string; to: string }
  | { event: 'csrf_refused'; route: string; detail: string }
  | { event: 'provider_logout'; channel: LogoutChannel; ended: number }
  | { event: 'provider_logout_failed'; channel: LogoutChannel; detail: string | undefined }
  | { event: 'logout_token_refused'; detail: string | undefined }
  /** Said once in a while: `repeated` is how many more there were, from any address, since the last time. */
  | { event: 'rate_limited'; limit: RateLimited; address: string; repeated?: number }
  | { event: 'record_unreadable'; session: string }
  | { event: 'admin_refused' }
  | { event: 'forward_auth_refused' }

/** What of the provider no login can do without. */
export type ProviderDocument = 'metadata' | 'key set'

/** What a client did too often: sign in and out; send cookies that name nothing; send what is said to be the provider's. */
export type RateLimited = 'login' | 'invalid' | 'provider_logout'

/** How a provider says that somebody has signed out there: by itself, or through the user's browser. */
export type LogoutChannel = 'back' | 'front'

/**
 * What became of a refresh token: revoked at the provider; not revocable there; not yet revoked, to be tried again; or
 * given up after too long a time.
 */
export type RevocationOutcome = 'revoked' | 'not_supported' | 'pending' | 'gave_up'

/**
 * Why a refresh token is revoked: its session ended; or it belongs to none, because a login failed, a session ended
 * during a refresh, or another holder had stored a newer token.
 */
export type RevocationReason = EndReason | 'login_failed' | 'ended_meanwhile' | 'superseded'

/** Takes audit events; must not throw. */
export type Audit = (event: AuditEvent) => void

/** What open event streams want to know of a session, from whichever replica. */
export type SessionEvent =
  | { type: 'ended'; sessionId: string; reason: EndReason }
  | { type: 'extended'; sessionId: string }
  | { type: 'refreshed'; sessionId: string }
