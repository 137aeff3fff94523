import type { Clock } from '../core/clock.ts'
import {
  directoryIndex,
  type EndReason,
  handleIndex,
  providerSessionIndex,
  type Session,
  type StoredSession,
  sessionHandle,
  userIndex,
} from '../core/session.ts'
import type { IndexStore } from '../store/store.ts'
import type { EndSession } from './end-session.ts'

/** A session as its user sees it in a list. Times are ISO 8601. */
export interface SessionView {
  /** Neither the cookie nor the provider's name of the session. */
  id: string
  createdAt: string
  lastActiveAt: string
  userAgent: string
  address: string
  current: boolean
}

/** Which sessions an administrator ends. */
export type AdminSelector =
  | { session: string }
  | { iss: string; sid: string }
  | { iss: string; sub: string }
  | { tid: string; oid: string }

/**
 * Looking at sessions, and ending others than one's own.
 *
 * @throws {StoreUnavailable} from every method
 */
export interface SessionsFlow {
  /** All live sessions of the same user, oldest first. */
  list(own: Session): Promise<SessionView[]>
  /** Ends one of the user's sessions by its id in the list; false when the user has no such session. */
  endOne(own: Session, id: string): Promise<boolean>
  /** Ends all of the user's sessions but this one; how many there were. */
  endOthers(own: Session): Promise<number>
  /** Ends the oldest sessions of a user who has more than are allowed. */
  enforceLimit(own: Session): Promise<void>
  /** Ends what an administrator selects, logins in flight included; how many there were. */
  endSelected(selector: AdminSelector): Promise<number>
  /** Ends the sessions of an index that are `meant`, and all its logins in flight; how many sessions there were. */
  endIndexed(index: string, reason: EndReason, meant?: (session: Session) => boolean): Promise<number>
}

/** What it needs. */
export interface SessionsDeps {
  store: IndexStore
  endSession: EndSession
  clock: Clock
  idleTimeoutMs: number
  maximumPerUser: number
}

export function createSessionsFlow({
  store,
  endSession,
  clock,
  idleTimeoutMs,
  maximumPerUser,
}: SessionsDeps): SessionsFlow {
  const ofUser = (own: Session) => store.findSessions(userIndex(own.identity))

  const endAll = async (sessions: StoredSession[], reason: EndReason) => {
    const ended = await Promise.all(sessions.map(({ session }) => endSession(session.id, reason)))
    return ended.filter(result => result !== null).length
  }

  const endIndexed: SessionsFlow['endIndexed'] = async (index, reason, meant = () => true) => {
    // First the mark, then the sessions: a login in flight either is found among these or finds the mark.
    await store.markIndexEnded(index, reason)
    const sessions = await store.findSessions(index)
    return endAll(
      sessions.filter(({ session }) => meant(session)),
      reason,
    )
  }

  return {
    endIndexed,

    async list(own) {
      const now = clock.now()
      return (await ofUser(own)).map(({ session, idleExpiresInMs }) => ({
        id: sessionHandle(session.id),
        createdAt: new Date(session.createdAt).toISOString(),
        lastActiveAt: new Date(Math.min(now, now + idleExpiresInMs - idleTimeoutMs)).toISOString(),
        userAgent: session.client.userAgent,
        address: session.client.address,
        current: session.id === own.id,
      }))
    },

    async endOne(own, id) {
      const target = (await ofUser(own)).find(({ session }) => sessionHandle(session.id) === id)
      return target !== undefined && (await endSession(target.session.id, 'ended_elsewhere')) !== null
    },

    async endOthers(own) {
      const others = (await ofUser(own)).filter(({ session }) => session.id !== own.id)
      return endAll(others, 'ended_elsewhere')
    },

    async enforceLimit(own) {
      const sessions = await ofUser(own)
      await endAll(sessions.slice(0, Math.max(0, sessions.length - maximumPerUser)), 'too_many')
    },

    endSelected: selector => endIndexed(indexOf(selector), 'admin'),
  }
}

function indexOf(selector: AdminSelector): string {
  if ('session' in selector) return handleIndex(selector.session)
  if ('tid' in selector) return directoryIndex({ tenantId: selector.tid, objectId: selector.oid })
  if ('sid' in selector) return providerSessionIndex(selector.iss, selector.sid)
  return userIndex({ issuer: selector.iss, subject: selector.sub })
}
