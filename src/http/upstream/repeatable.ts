import type { FastifyRequest } from 'fastify'
import type { UpstreamAnswer } from './exchange.ts'

/** Safe methods without a body alone (RFC 9110 §9.2.1): anything else may have done its work, or cannot be sent again. */
export function isRepeatable({ method, headers }: FastifyRequest): boolean {
  const bodiless = headers['content-length'] === undefined && headers['transfer-encoding'] === undefined
  return bodiless && (method === 'GET' || method === 'HEAD')
}

/** Lets an answer go of which nothing has been sent, so that another can take its place. */
export function setAside({ body }: UpstreamAnswer): void {
  if (!Buffer.isBuffer(body)) body.resume()
}
