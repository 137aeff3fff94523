import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'

/** Safe methods without a body alone (RFC 9110 §9.2.1): anything else may have done its work, or cannot be sent again. */
export function isRepeatable({ method, headers }: FastifyRequest): boolean {
  const bodiless = headers['content-length'] === undefined && headers['transfer-encoding'] === undefined
  return bodiless && (method === 'GET' || method === 'HEAD')
}

/** Forgets an upstream's answer, of which nothing has been sent, so that another can take its place. */
export function setAside(
  reply: FastifyReply,
  { headers, stream }: { headers: IncomingHttpHeaders; stream: { resume(): unknown } },
): void {
  stream.resume()
  for (const name of Object.keys(headers)) reply.removeHeader(name)
}
