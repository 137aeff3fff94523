import type { FastifyRequest } from 'fastify'
import type { Claims, Session } from '../../core/session.ts'
import { queryOf } from '../query.ts'
import { liveSession } from '../session.ts'

/** What the handler needs. */
export interface UserRouteDeps {
  /** Names of the claims that the browser may see; the session may hold others. */
  userClaims: readonly string[]
  logoutUrl: (session: Session) => string
}

/**
 * The handler of `GET /user`: `{"user":{…},"session":{"idleExpiresIn":s,"absoluteExpiresIn":s,"logoutUrl":"…"}}`.
 * With `?anonymous=200` the answer without a session is `{"user":null}` and not 401.
 */
export function createUserRoute(deps: UserRouteDeps) {
  // Without it, groups that are too many to be named would look like none.
  const shown = new Set(deps.userClaims.includes('groups') ? [...deps.userClaims, 'groups_overage'] : deps.userClaims)
  const visible = (claims: Claims): Claims =>
    Object.fromEntries(Object.entries(claims).filter(([name]) => shown.has(name)))

  return async (request: FastifyRequest) => {
    if (request.found?.state !== 'live' && queryOf(request).get('anonymous') === '200') return { user: null }
    const { session, idleExpiresInMs, absoluteExpiresInMs } = liveSession(request.found)
    return {
      user: visible(session.identity.claims),
      session: {
        idleExpiresIn: Math.floor(idleExpiresInMs / 1000),
        absoluteExpiresIn: Math.floor(absoluteExpiresInMs / 1000),
        logoutUrl: deps.logoutUrl(session),
      },
    }
  }
}
