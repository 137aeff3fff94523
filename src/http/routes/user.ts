import type { FastifyRequest } from 'fastify'
import type { Session } from '../../core/session.ts'
import { queryOf } from '../query.ts'
import { liveSession } from '../session.ts'

/**
 * The handler of `GET /user`: `{"user":{…},"session":{"idleExpiresIn":s,"absoluteExpiresIn":s,"logoutUrl":"…"}}`.
 * With `?anonymous=200` the answer without a session is `{"user":null}` and not 401.
 */
export function createUserRoute(deps: { logoutUrl: (session: Session) => string }) {
  return async (request: FastifyRequest) => {
    if (request.found?.state !== 'live' && queryOf(request).get('anonymous') === '200') return { user: null }
    const { session, idleExpiresInMs, absoluteExpiresInMs } = liveSession(request.found)
    return {
      user: session.identity.claims,
      session: {
        idleExpiresIn: Math.floor(idleExpiresInMs / 1000),
        absoluteExpiresIn: Math.floor(absoluteExpiresInMs / 1000),
        logoutUrl: deps.logoutUrl(session),
      },
    }
  }
}
