import type { FastifyRequest } from 'fastify'
import { NotAuthenticated } from '../core/errors.ts'
import { type StoredSession, sessionIdOf } from '../core/session.ts'
import type { SessionUse, Use } from '../flows/use-session.ts'
import type { Lookup } from '../store/store.ts'
import type { Cookies } from './cookies.ts'
import type { Eventual } from './eventual.ts'
import type { RateLimit } from './rate-limit.ts'

/**
 * Reads the session of a request: no store command without a cookie of the right form, hardly ever more than one with it.
 *
 * @throws {TooManyRequests} when too many cookies that name nothing came from the request's address; one that names a
 * session is served all the same, since many users may share an address
 * @throws {StoreUnavailable} when it is not known whether there is a session
 */
export type ReadSession = (request: FastifyRequest, options: Use) => Eventual<Lookup | null>

/** What the reading needs. */
export interface ReadSessionDeps {
  cookies: Cookies
  sessionUse: Pick<SessionUse, 'atHand' | 'use'>
  /** Of cookies that name nothing. */
  invalid: RateLimit
}

export function createReadSession({ cookies, sessionUse, invalid }: ReadSessionDeps): ReadSession {
  const ask = async (request: FastifyRequest, id: string, options: Use) => {
    const found = await sessionUse.use(id, options)
    if (found === null) await invalid.use(request.client.address)
    return found
  }

  return (request, options) => {
    const cookie = cookies.session(request.headers.cookie)
    if (cookie === null) return null
    const id = sessionIdOf(cookie)
    const stored = sessionUse.atHand(id, options)
    return stored === null ? ask(request, id, options) : { state: 'live', stored }
  }
}

/** The live session. @throws {NotAuthenticated} when there is none, saying why if that is known */
export function liveSession(found: Lookup | null): StoredSession {
  if (found?.state === 'live') return found.stored
  throw new NotAuthenticated(found === null ? null : found.reason)
}
