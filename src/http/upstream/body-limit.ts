import { Transform } from 'node:stream'
import type { FastifyRequest } from 'fastify'
import { BadRequest, GatewayError } from '../../core/errors.ts'

/**
 * Refuses what is known to be wrong before a byte of the body is read: one that is announced as too large, and one where
 * none belongs, which the proxy would have to drop in silence (RFC 9110 §9.3.1).
 *
 * @param most in bytes
 * @throws {GatewayError} 413 @throws {BadRequest}
 */
export function checkBody({ method, headers }: FastifyRequest, most: number): void {
  const length = Number(headers['content-length'] ?? 0)
  if (length > most) throw tooLarge()
  if ((method === 'GET' || method === 'HEAD') && (length > 0 || headers['transfer-encoding'] !== undefined))
    throw new BadRequest(`A ${method} request must not have a body.`)
}

/** The body of a request whose length is not announced, which fails when it turns out to be too large. */
export function limitedBody(body: NodeJS.ReadableStream, most: number): Transform {
  let length = 0
  const counted = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      length += chunk.length
      if (length > most) done(tooLarge())
      else done(null, chunk)
    },
  })
  body.once('error', error => counted.destroy(error))
  body.once('aborted', () => counted.destroy())
  // Nobody reads the refusal who is not let finish what they are sending.
  counted.once('close', () => body.resume())
  return body.pipe(counted)
}

function tooLarge(): GatewayError {
  return new GatewayError('payload_too_large', 'The request body is too large.')
}
