import type { FastifyReply, FastifyRequest } from 'fastify'
import { sameToken } from '../../core/random.ts'
import type { LogoutFlow } from '../../flows/logout.ts'
import type { Cookies } from '../cookies.ts'
import { sendPage } from '../page.ts'
import { queryOf } from '../query.ts'

/** What the logout's endpoints need. */
export interface LogoutRouteDeps {
  logout: LogoutFlow
  cookies: Cookies
  postLogoutPath: string
  /** Paths of the endpoints themselves. */
  logoutUrl: string
  continueUrl: string
  /** How a script is told of a path: absolute, where it may be of another origin. */
  addressOf: (path: string) => string
}

/** The handlers of `GET /logout`, `POST /logout` and the one-time address that the latter gives. */
export function createLogoutRoutes(deps: LogoutRouteDeps) {
  const { logout, cookies, postLogoutPath, logoutUrl, continueUrl, addressOf } = deps

  /**
   * Drops a cookie that names no session. One that was not sent stays: a link on another site comes without the Strict
   * cookie, and must not log the user out.
   */
  const clearDead = (request: FastifyRequest, reply: FastifyReply) => {
    if (cookies.session(request.headers.cookie) !== null) cookies.clearSession(reply)
  }

  return {
    /** A link alone ends no session: without the session's own logout token a person is asked. */
    async navigate(request: FastifyRequest, reply: FastifyReply) {
      if (request.found?.state !== 'live') {
        clearDead(request, reply)
        return reply.redirect(postLogoutPath, 302)
      }
      const { session } = request.found.stored
      const token = queryOf(request).get('token') ?? ''
      if (!sameToken(token, session.logoutToken))
        return sendPage(reply, {
          status: 200,
          title: 'Sign out?',
          text: 'You are about to end your session.',
          form: { action: logoutUrl, fields: { token: session.logoutToken }, label: 'Sign out' },
        })
      const address = await logout.end(session.id)
      cookies.clearSession(reply)
      return reply.redirect(address, 302)
    },

    /** Without a session the answer has the same shape, so that a repeated logout is no error. */
    async byScript(request: FastifyRequest, reply: FastifyReply) {
      if (request.found?.state !== 'live') {
        clearDead(request, reply)
        return { logoutUrl: addressOf(postLogoutPath) }
      }
      const handle = await logout.endByScript(request.found.stored.session.id)
      cookies.clearSession(reply)
      return { logoutUrl: addressOf(`${continueUrl}?handle=${handle}`) }
    },

    async continue(request: FastifyRequest, reply: FastifyReply) {
      return reply.redirect(await logout.continue(queryOf(request).get('handle') ?? ''), 302)
    },
  }
}
