import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Answer } from './answers.ts'

/** How a request is sent to an upstream, and its answer received. */
export interface Sending {
  /** What the upstream is told, made of what the client said. */
  requestHeaders(request: FastifyRequest, headers: IncomingHttpHeaders): IncomingHttpHeaders
  /** What the client is told, made of what the upstream said. */
  toldHeaders(headers: IncomingHttpHeaders, request: FastifyRequest): IncomingHttpHeaders
  receive(request: FastifyRequest, reply: FastifyReply, answer: Answer): unknown
}
