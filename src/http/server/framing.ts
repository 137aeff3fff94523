import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import { BadRequest } from '../../core/errors.ts'

/**
 * What is wrong with the way in which a request says whom it is for and where it ends, or null. Node lets these pass, each
 * of which another server on the way reads differently: what is the body of one request there is another request here, and
 * goes to an upstream past all that the other one holds against requests (RFC 9112 §6.1, §6.3, §11.2).
 */
export function framingFault({ httpVersion, headers, rawHeaders }: IncomingMessage): string | null {
  // Without a version, too, which a parser takes for 0.9.
  if (httpVersion !== '1.1' && httpVersion !== '1.0') return 'Only HTTP/1.1 and HTTP/1.0 are spoken here.'
  if (countOf(rawHeaders, 'host') > 1) return 'The Host header must be sent once.'
  const coding = headers['transfer-encoding']
  if (coding === undefined) return null
  if (httpVersion === '1.0') return 'HTTP/1.0 knows no Transfer-Encoding.'
  if (headers['content-length'] !== undefined) return 'Content-Length and Transfer-Encoding exclude each other.'
  return coding.toLowerCase() === 'chunked' ? null : 'The only Transfer-Encoding is chunked.'
}

/**
 * Answers requests with a {@link framingFault} with 400 and then closes their connection. What follows them on it may have
 * been read already, and is not served: it may be a part of them.
 */
export function registerFraming(app: FastifyInstance): void {
  const faults = new WeakMap<IncomingMessage, string>()
  const closing = new WeakSet<Duplex>()

  const judge = (message: IncomingMessage, response: unknown) => {
    const fault = closing.has(message.socket) ? 'The connection is being closed.' : framingFault(message)
    if (fault === null) return
    faults.set(message, fault)
    closing.add(message.socket)
    if (isResponse(response)) response.shouldKeepAlive = false
  }
  // Ahead of every hook, since hooks of several requests take turns. A server that has no listener for upgrades ignores them.
  for (const event of ['request', 'checkExpectation', 'upgrade'])
    if (app.server.listenerCount(event) > 0) app.server.prependListener(event, judge)
  // Without a promise: what follows still runs before the parser reads on.
  app.addHook('onRequest', ({ raw }, _reply, done) => {
    const fault = faults.get(raw)
    done(fault === undefined ? undefined : new BadRequest(fault))
  })
}

/** An upgrade comes with its connection in that place, which closes after any answer. */
function isResponse(value: unknown): value is ServerResponse {
  return value instanceof Object && 'shouldKeepAlive' in value
}

function countOf(rawHeaders: readonly string[], wanted: string): number {
  let count = 0
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] ?? ''
    if (name.length === wanted.length && name.toLowerCase() === wanted) count += 1
  }
  return count
}
