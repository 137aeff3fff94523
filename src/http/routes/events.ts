import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Cors } from '../cors.ts'
import type { EventStreams } from '../event-streams.ts'
import { liveSession } from '../session.ts'

/** The handler of `GET /events`: the request's answer goes on for as long as the session does. */
export function createEventsRoute({ streams, cors }: { streams: EventStreams; cors: Cors }) {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    const stored = liveSession(request.found)
    reply.hijack()
    for (const [name, value] of Object.entries(cors.headersFor(request.headers.origin)))
      reply.raw.setHeader(name, value)
    streams.open(stored, reply.raw)
  }
}
