import type { FastifyRequest } from 'fastify'
import { NotAuthenticated } from '../core/errors.ts'
import { type StoredSession, sessionIdOf } from '../core/session.ts'
import type { SessionUse, Use } from '../flows/use-session.ts'
import type { Lookup } from '../store/store.ts'
import type { Cookies } from './cookies.ts'

/**
 * Reads the session of a request: no store command without a cookie of the right form, one with it.
 *
 * @throws {StoreUnavailable} when it is not known whether there is a session
 */
export type ReadSession = (request: FastifyRequest, options: Use) => Promise<Lookup | null>

export function createReadSession(deps: { cookies: Cookies; use: SessionUse['use'] }): ReadSession {
  return async (request, options) => {
    const cookie = deps.cookies.session(request.headers.cookie)
    return cookie === null ? null : await deps.use(sessionIdOf(cookie), options)
  }
}

/** The live session. @throws {NotAuthenticated} when there is none, saying why if that is known */
export function liveSession(found: Lookup | null): StoredSession {
  if (found?.state === 'live') return found.stored
  throw new NotAuthenticated(found === null ? null : found.reason)
}
