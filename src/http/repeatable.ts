import type { FastifyRequest } from 'fastify'

/** Safe methods without a body alone (RFC 9110 §9.2.1): anything else may have done its work, or cannot be sent again. */
export function isRepeatable({ method, headers }: FastifyRequest): boolean {
  const bodiless = headers['content-length'] === undefined && headers['transfer-encoding'] === undefined
  return bodiless && (method === 'GET' || method === 'HEAD')
}
