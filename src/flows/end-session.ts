import type { Audit } from '../core/events.ts'
import { type EndReason, indexesOf, sessionHandle, userHandle } from '../core/session.ts'
import type { EndedSession, IndexStore, SessionStore } from '../store/store.ts'

/**
 * Ends a session: it is gone from the store, and its refresh token is in the outbox, in one step. Null when it was gone.
 * The token is revoked at once, or when `revokeInMs` are over.
 *
 * @throws {StoreUnavailable} when the session may still be there
 */
export type EndSession = (sessionId: string, reason: EndReason, revokeInMs?: number) => Promise<EndedSession | null>

/** What follows the end of a session, whoever ended it and why. */
export type NoteEnded = (ended: EndedSession) => void

/** The one door out of a session. */
export function createEndSession(deps: { store: Pick<SessionStore, 'endSession'>; noteEnded: NoteEnded }): EndSession {
  return async (sessionId, reason, revokeInMs) => {
    const ended = await deps.store.endSession(sessionId, reason, revokeInMs)
    if (ended !== null) deps.noteEnded(ended)
    return ended
  }
}

/** Records the end of a session, takes it out of the indexes and sees to it that its token is revoked soon. */
export function createNoteEnded(deps: {
  store: Pick<IndexStore, 'removeFromIndexes'>
  audit: Audit
  /** Told that the outbox has an entry under this id. */
  revokeSoon: (id: string) => void
}): NoteEnded {
  return ({ session, reason }) => {
    const [handle, user] = [sessionHandle(session.id), userHandle(session.identity)]
    deps.audit({ event: 'session_ended', session: handle, user, reason })
    // Index entries are hints: one that stays is passed over by readers.
    deps.store.removeFromIndexes(session.id, indexesOf(session)).catch(() => {})
    deps.revokeSoon(session.id)
  }
}
