import type { FastifyRequest } from 'fastify'
import { NotAuthenticated } from '../core/errors.ts'
import { endReason, type StoredSession, sessionIdOf } from '../core/session.ts'
import type { EndSession } from '../flows/end-session.ts'
import type { SessionStore } from '../store/store.ts'
import type { Cookies } from './cookies.ts'

/** What a request's cookie names, when it names something. */
export type FoundSession = { state: 'live'; stored: StoredSession } | { state: 'expired' }

/**
 * Reads the session of a request: no store command without a cookie of the right form, one with it. A session past a
 * deadline ends here and now.
 *
 * @throws {StoreUnavailable} when it is not known whether there is a session
 */
export type ReadSession = (request: FastifyRequest, options: { slide: boolean }) => Promise<FoundSession | null>

export function createReadSession(deps: {
  cookies: Cookies
  store: Pick<SessionStore, 'getSession'>
  endSession: EndSession
}): ReadSession {
  return async (request, options) => {
    const cookie = deps.cookies.session(request.headers.cookie)
    if (cookie === null) return null
    const stored = await deps.store.getSession(sessionIdOf(cookie), options)
    if (stored === null) return null
    const reason = endReason(stored)
    if (reason === null) return { state: 'live', stored }
    await deps.endSession(stored.session.id, reason)
    return { state: 'expired' }
  }
}

/** The live session. @throws {NotAuthenticated} when there is none, saying whether there was */
export function liveSession(found: FoundSession | null): StoredSession {
  if (found?.state === 'live') return found.stored
  throw found?.state === 'expired'
    ? new NotAuthenticated('session_expired', 'The session has ended: it was not used for too long, or is too old.')
    : new NotAuthenticated('not_authenticated', 'There is no session.')
}
