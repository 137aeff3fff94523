import type { EndReason } from './session.ts'

/** What the audit log records. Sessions and users appear by handle, never by cookie, name or e-mail. */
export type AuditEvent =
  | { event: 'login_succeeded'; session: string; user: string }
  | { event: 'login_rejected'; reason: string; detail: string | undefined }
  | { event: 'session_ended'; session: string; user: string; reason: EndReason }
  | { event: 'session_not_ended'; session: string; reason: EndReason }
  | { event: 'refresh_token_revocation'; session: string | undefined; outcome: Revocation }
  | { event: 'csrf_refused'; route: string; detail: string }
  | { event: 'record_unreadable'; session: string }

/** What became of a token at the provider's revocation endpoint (RFC 7009). */
export type Revocation = 'revoked' | 'not_supported' | 'failed'

/** Takes audit events; must not throw. */
export type Audit = (event: AuditEvent) => void
