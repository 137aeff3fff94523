import type { Audit } from '../core/events.ts'
import { type EndReason, type StoredSession, sessionHandle, userHandle } from '../core/session.ts'
import type { Provider } from '../oidc/provider.ts'
import type { SessionStore } from '../store/store.ts'

/** Ends a session; the session as it was, or null when it was gone already. */
export type EndSession = (sessionId: string, reason: EndReason) => Promise<StoredSession | null>

/** Revokes a token that belongs to no session, in the background; never throws. */
export type RevokeToken = (token: string, sessionId?: string) => void

/**
 * The one door out of a session: first it is gone from the store, so that no replica serves it any more, then its
 * refresh token is revoked. The caller never waits for the provider.
 *
 * @throws {StoreUnavailable} when the session may still be there
 */
export function createEndSession(deps: { store: SessionStore; revokeToken: RevokeToken; audit: Audit }): EndSession {
  return async (sessionId, reason) => {
    const ended = await deps.store.takeSession(sessionId)
    if (ended === null) return null
    const { session, tokens } = ended
    deps.audit({
      event: 'session_ended',
      session: sessionHandle(sessionId),
      user: userHandle(session.identity),
      reason,
    })
    if (tokens.refreshToken !== undefined) deps.revokeToken(tokens.refreshToken, sessionId)
    return ended
  }
}

/** Revokes tokens at the provider and records what became of each. */
export function createRevokeToken(deps: { provider: Pick<Provider, 'revoke'>; audit: Audit }): RevokeToken {
  return (token, sessionId) => {
    const session = sessionId === undefined ? undefined : sessionHandle(sessionId)
    // Provider.revoke never rejects.
    void deps.provider.revoke(token).then(outcome => {
      deps.audit({ event: 'refresh_token_revocation', session, outcome })
    })
  }
}
