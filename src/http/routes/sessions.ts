import type { FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError } from '../../core/errors.ts'
import type { SessionsFlow } from '../../flows/sessions.ts'
import { liveSession } from '../session.ts'

/** The handlers of `POST /activity`, `GET /sessions`, `DELETE /sessions/{id}` and `DELETE /sessions`. */
export function createSessionsRoutes(deps: { sessions: SessionsFlow }) {
  const { sessions } = deps
  const own = (request: FastifyRequest) => liveSession(request.found).session

  return {
    /** The user is there: the guard has counted it. */
    async activity(_request: FastifyRequest, reply: FastifyReply) {
      return reply.code(204).send()
    },

    async list(request: FastifyRequest) {
      return { sessions: await sessions.list(own(request)) }
    },

    async endOne(request: FastifyRequest, reply: FastifyReply) {
      const { id } = request.params as { id: string }
      if (!(await sessions.endOne(own(request), id))) throw new GatewayError('not_found', 'You have no such session.')
      return reply.code(204).send()
    },

    async endOthers(request: FastifyRequest) {
      return { ended: await sessions.endOthers(own(request)) }
    },
  }
}
