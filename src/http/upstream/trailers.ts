import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Answer } from './answers.ts'
import { isBodiless, type UpstreamBody } from './exchange.ts'
import { responseHeaders } from './headers.ts'

/** What a trailer must not change after the fact: framing, routing, caching, credentials (RFC 9110 §6.5.1). */
const unfit =
  /^(content-.*|host|age|cache-control|expires|date|location|retry-after|vary|warning|www-authenticate|.*authorization)$/

/**
 * Passes on the trailers that an upstream announced, to a client that can take them: only a chunked HTTP/1.1 body has any
 * (RFC 9112 §7.1.2).
 */
export function passTrailers(
  request: FastifyRequest,
  reply: FastifyReply,
  { statusCode, headers }: Answer,
  stream: UpstreamBody,
): void {
  if (headers.trailer === undefined || headers['content-length'] !== undefined) return
  if (request.raw.httpVersion !== '1.1' || isBodiless(request.method, statusCode)) return
  const names = new Set(
    // Repeated headers come as a list, whatever their type says.
    String(headers.trailer)
      .toLowerCase()
      .split(/[,\s]+/)
      .filter(name => /^[\w-]+$/.test(name) && !unfit.test(name)),
  )
  if (names.size === 0) return
  reply.header('trailer', [...names].join(', '))
  // Ahead of the end that the reply makes of it.
  stream.prependOnceListener('end', () => {
    const { connection } = headers
    const trailers = { ...stream.trailers, ...(connection !== undefined && { connection }) }
    const kept = Object.entries(responseHeaders(trailers)).filter(([name]) => names.has(name))
    reply.raw.addTrailers(Object.fromEntries(kept) as Record<string, string>)
  })
}
