import type { IncomingHttpHeaders, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { Pool } from 'undici'

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
  /** Errors are those of undici and Node, by code. A client that leaves before its answer is complete takes the request along. */
  request(request: UpstreamRequest, done: (error: Error | null, answer?: UpstreamAnswer) => void): void
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
  const pool = new Pool(origin, {
    connect: { timeout: Math.min(timeoutMs, connectTimeoutMs), ...(ca !== undefined && { ca }) },
    headersTimeout: timeoutMs,
    // undici's own would also end an event stream that is quiet.
    bodyTimeout: 0,
  })

  return {
    request({ path, method, headers, body }, done) {
      const client = headers[passage]?.client
      let answer: UpstreamAnswer | undefined
      let standstill: NodeJS.Timeout | undefined
      let leave = () => {}

      const settle = () => {
        clearTimeout(standstill)
        client?.off('close', leave)
      }

      pool.dispatch(
        {
          path: headers[passage]?.path ?? path,
          method,
          headers,
          body: (body as Readable | string | undefined) || null,
        },
        {
          onRequestStart(controller) {
            settle()
            leave = () => controller.abort(new Error('the client has gone'))
            if (client?.destroyed) leave()
            else client?.once('close', leave)
          },

          onResponseStart(controller, statusCode, given) {
            // Interim answers, which a browser has no use for (RFC 9110 §15.2).
            if (statusCode < 200) return
            const watched = !isEventStream(given)
            const watch = () => {
              if (watched) standstill = setTimeout(() => controller.abort(new Standstill()), timeoutMs)
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
            answer = { statusCode, headers: { ...given }, body: stream }
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
            if (answer === undefined) return
            answer.body.trailers = trailers
            answer.body.push(null)
          },

          onResponseError(_controller, error) {
            settle()
            if (answer === undefined) done(error)
            else answer.body.destroy(error)
          },
        },
      )
    },
    destroy: () => void pool.destroy(),
  }
}

/** Whether an answer may be quiet for as long as it likes (HTML Living Standard §9.2). */
export function isEventStream(headers: IncomingHttpHeaders): boolean {
  return /^text\/event-stream\s*(;|$)/i.test(headers['content-type'] ?? '')
}

/** Whether an error of {@link UpstreamClient.request} means that something took too long. */
export function isTimeout(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return ['UND_ERR_HEADERS_TIMEOUT', 'UND_ERR_CONNECT_TIMEOUT', 'ETIMEDOUT'].includes(String(code))
}

class Standstill extends Error {
  readonly code = 'UPSTREAM_STANDSTILL'

  constructor() {
    super('the answer stands still')
  }
}
