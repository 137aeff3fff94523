import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Concurrency } from '../concurrency.ts'
import type { EventStreams } from '../event-streams.ts'
import type { Cors } from '../server/cors.ts'
import { liveSession } from '../session.ts'

/** What the event streams need. */
export interface EventsRouteDeps {
  streams: EventStreams
  cors: Cors
  /** Of streams that a session has open. */
  open: Concurrency
}

/** The handler of `GET /events`: the request's answer goes on for as long as the session does. */
export function createEventsRoute({ streams, cors, open }: EventsRouteDeps) {
  return async (request: FastifyRequest, reply: FastifyReply) => {
    const stored = liveSession(request.found)
    open.enter(stored.session.id, reply.raw)
    reply.hijack()
    for (const [name, value] of Object.entries(cors.headersFor(request.headers.origin)))
      reply.raw.setHeader(name, value)
    streams.open(stored, reply.raw)
  }
}
