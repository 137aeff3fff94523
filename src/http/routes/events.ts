import type { FastifyReply, FastifyRequest } from 'fastify'
import type { EventStreams } from '../event-streams.ts'
import { liveSession } from '../session.ts'

/** The handler of `GET /events`: the request's answer goes on for as long as the session does. */
export function createEventsRoute(deps: { streams: EventStreams }) {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    const stored = liveSession(request.found)
    reply.hijack()
    deps.streams.open(stored, reply.raw)
  }
}
