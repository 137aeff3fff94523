import { hash, randomToken } from './random.ts'
import type { TokenSet } from './token-set.ts'

/** Claims by name, as the provider gave them; inert data. */
export type Claims = Record<string, unknown>

/** Whom the provider authenticated: the verified ID token, enriched from UserInfo. */
export interface Identity {
  issuer: string
  /** The provider's stable name of the user; with the issuer the only key to a user, never e-mail or name. */
  subject: string
  /** The provider's own session (claim `sid`), when it says. */
  providerSessionId: string | undefined
  /** What `/user` may show. */
  claims: Claims
}

/** A server-side session; the browser holds only the cookie whose hash is `id`. */
export interface Session {
  id: string
  identity: Identity
  /** The secret in `logoutUrl` that keeps others from signing the user out. */
  logoutToken: string
  /** Milliseconds since the epoch. */
  createdAt: number
}

/** A session as the store gives it, with the time left by the store's own clock. */
export interface StoredSession {
  session: Session
  tokens: TokenSet
  /** Milliseconds, not above zero when the deadline has passed. */
  idleExpiresInMs: number
  absoluteExpiresInMs: number
}

/** Why a session ended. */
export type EndReason = 'idle' | 'absolute' | 'tokens_expired' | 'logout' | 'replaced'

/** Opens a session under a cookie never used before (OWASP ASVS 7.2.4). */
export function openSession(identity: Identity, now: number): { cookie: string; session: Session } {
  const cookie = randomToken()
  return {
    cookie,
    session: { id: sessionIdOf(cookie), identity, logoutToken: randomToken(), createdAt: now },
  }
}

/** The store's name of a session: the cookie cannot be had from it. */
export function sessionIdOf(cookie: string): string {
  return hash(cookie)
}

/** What logs call a session: good to correlate lines, useless as a cookie or a key of the store. */
export function sessionHandle(sessionId: string): string {
  return hash(`handle:${sessionId}`).slice(0, 16)
}

/** What logs call a user. */
export function userHandle(identity: Pick<Identity, 'issuer' | 'subject'>): string {
  return hash(JSON.stringify([identity.issuer, identity.subject])).slice(0, 16)
}

/** Whether a stored session is past a deadline, and which; the absolute one is told first. */
export function endReason(stored: StoredSession): 'idle' | 'absolute' | null {
  if (stored.absoluteExpiresInMs <= 0) return 'absolute'
  if (stored.idleExpiresInMs <= 0) return 'idle'
  return null
}
