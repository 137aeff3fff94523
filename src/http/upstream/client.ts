import type { IncomingHttpHeaders, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { type Dispatcher, Pool } from 'undici'
import type { GatewayError } from '../../core/errors.ts'
import { ambiguityOf, isCut, Standstill, unusable } from './faults.ts'

/** What the proxy plugin does not hand through; it rides on the headers. */
export const passage = Symbol('passage')

export interface Passage {
  /** Path and query, as they go over the wire: the plugin would spell them anew. */
  path: string
  /** Where the answer goes. */
  client: ServerResponse
}

declare module 'fastify' {
  interface FastifyRequest {
    [passage]: Passage | undefined
  }
}

/** A request to an upstream, as the proxy plugin makes it. */
export interface UpstreamRequest {
  path: string
  method: string
  headers: Record<string, string | string[] | undefined> & { [passage]?: Passage | undefined }
  body?: unknown
}

/** An answer whose body is still to come. */
export interface UpstreamAnswer {
  statusCode: number
  headers: IncomingHttpHeaders
  body: UpstreamBody
}

export interface UpstreamBody extends Readable {
  /** Filled when the body has come to its end (RFC 9110 §6.5). */
  trailers?: IncomingHttpHeaders
}

/** The connections to one upstream, as a dispatcher for the proxy plugin. */
export interface UpstreamClient {
  /**
   * A client that leaves before its answer is complete takes the request along. A GET or HEAD is sent once more, on a
   * connection of its own, when the first one ended without a byte in answer; nothing else ever is. Errors, of the
   * answer's body too, are {@link GatewayError}s.
   */
  request(request: UpstreamRequest, done: (error: GatewayError | null, answer?: UpstreamAnswer) => void): void
  destroy(): void
}

/** How an upstream is reached. */
export interface UpstreamClientOptions {
  origin: string
  /** Milliseconds until response headers, and for each standstill of a response that is no event stream. */
  timeoutMs: number
  /** Certificate authority in the place of those that Node knows. */
  ca: Buffer | undefined
}

/** A connection that is not there after this will not come; a shorter time limit of the upstream goes first. */
const connectTimeoutMs = 10_000

/**
 * Bodies go through as they are, in pieces no larger than they come, and no faster than they are read. Certificates are
 * verified, which the proxy plugin's own dispatcher does not do.
 */
export function createUpstreamClient({ origin, timeoutMs, ca }: UpstreamClientOptions): UpstreamClient {
  const options: Pool.Options = {
    connect: { timeout: Math.min(timeoutMs, connectTimeoutMs), ...(ca !== undefined && { ca }) },
    headersTimeout: timeoutMs,
    // undici's own would also end an event stream that is quiet.
    bodyTimeout: 0,
  }
  const kept = new Pool(origin, options)
  /** Its connections serve one request each. */
  const fresh = new Pool(origin, options)

  return {
    request(request, done) {
      send(kept, request, { timeoutMs, reset: false }, (failure, answer) => {
        if (failure === null) return done(null, answer)
        if (!failure.unheard || !isSafe(request)) return done(unusable(failure.error))
        send(fresh, request, { timeoutMs, reset: true }, (again, answer) =>
          done(again === null ? null : unusable(again.error), answer),
        )
      })
    },
    destroy() {
      void kept.destroy()
      void fresh.destroy()
    },
  }
}

/** Why there is no answer. */
interface Failure {
  error: Error
  /** The connection ended under the request, without a byte in answer: most likely it had ended before (RFC 9112 §9.3.1). */
  unheard: boolean
}

/** What an upstream may be asked twice, since it asks for nothing to be done (RFC 9110 §9.2.2). */
function isSafe({ method, body }: UpstreamRequest): boolean {
  return (method === 'GET' || method === 'HEAD') && !body
}

function send(
  pool: Dispatcher,
  { path, method, headers, body }: UpstreamRequest,
  { timeoutMs, reset }: { timeoutMs: number; reset: boolean },
  done: (failure: Failure | null, answer?: UpstreamAnswer) => void,
): void {
  const client = headers[passage]?.client
  let answer: UpstreamAnswer | undefined
  let standstill: NodeJS.Timeout | undefined
  let leave = () => {}
  let [started, begun] = [false, false]

  const settle = () => {
    clearTimeout(standstill)
    client?.off('close', leave)
  }

  const handler: Dispatcher.DispatchHandler & { onResponseStarted(): void } = {
    onRequestStart(controller) {
      settle()
      started = true
      leave = () => controller.abort(new Error('the client has gone'))
      if (client?.destroyed) leave()
      else client?.once('close', leave)
    },

    onResponseStarted() {
      begun = true
    },

    onResponseStart(controller, statusCode, given) {
      const standsStill = () => controller.abort(new Standstill())
      // Interim answers, which a browser has no use for (RFC 9110 §15.2), put off the answer once and not for ever.
      if (statusCode < 200) {
        standstill ??= setTimeout(standsStill, timeoutMs)
        return
      }
      clearTimeout(standstill)
      const ambiguity = ambiguityOf(statusCode, given)
      if (ambiguity !== null) return controller.abort(ambiguity)
      const watched = !isEventStream(given)
      const watch = () => {
        if (watched) standstill = setTimeout(standsStill, timeoutMs)
      }
      watch()
      const stream: UpstreamBody = new Readable({
        read() {
          if (!controller.paused) return
          controller.resume()
          watch()
        },
        destroy(error, destroyed) {
          // Nobody wants the rest.
          if (!stream.readableEnded) controller.abort(error ?? new Error('the answer is not wanted'))
          settle()
          destroyed(error)
        },
      })
      // It may fail while nobody reads it: during the refresh that a 401 sets off, say, or when it is set aside.
      stream.on('error', () => undefined)
      answer = { statusCode, headers: { ...given }, body: stream }
      // Whatever is said of its length: undici takes that of a 304 for one of a body to come (RFC 9110 §8.6).
      if (isBodiless(method, statusCode)) {
        clearTimeout(standstill)
        stream.push(null)
      }
      done(null, answer)
    },

    onResponseData(controller, chunk) {
      if (!controller.paused) standstill?.refresh()
      if (answer?.body.push(chunk)) return
      // A slow reader is the client's affair, not the upstream's.
      clearTimeout(standstill)
      controller.pause()
    },

    onResponseEnd(_controller, trailers) {
      settle()
      if (answer === undefined || isBodiless(method, answer.statusCode)) return
      answer.body.trailers = trailers
      answer.body.push(null)
    },

    onResponseError(_controller, error) {
      settle()
      if (answer === undefined) done({ error, unheard: started && !begun && isCut(error) })
      else if (!isBodiless(method, answer.statusCode)) answer.body.destroy(unusable(error))
    },
  }

  pool.dispatch(
    {
      path: headers[passage]?.path ?? path,
      method: method as Dispatcher.HttpMethod,
      headers,
      body: (body as Readable | string | undefined) || null,
      // `false` would keep the connection even after a HEAD that was answered with a body.
      ...(reset && { reset }),
    },
    handler,
  )
}

function isBodiless(method: string, statusCode: number): boolean {
  return method === 'HEAD' || statusCode === 204 || statusCode === 304
}

/** Whether an answer may be quiet for as long as it likes (HTML Living Standard §9.2). */
export function isEventStream(headers: IncomingHttpHeaders): boolean {
  return /^text\/event-stream\s*(;|$)/i.test(headers['content-type'] ?? '')
}
