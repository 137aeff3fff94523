import type { IncomingHttpHeaders, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import type { Dispatcher } from 'undici'
import { ambiguityOf, isCut, Standstill, unusable } from './faults.ts'

/** A request to an upstream. */
export interface UpstreamRequest {
  method: string
  /** Path and query, as they go over the wire. */
  target: string
  headers: IncomingHttpHeaders
  body: Readable | null
  /** Whether it may be sent again when nobody knows what has become of it. */
  repeatable: boolean
  /** Where the answer goes. */
  client: ServerResponse
}

/** What an upstream answers. */
export interface UpstreamAnswer {
  statusCode: number
  headers: IncomingHttpHeaders
  /** All of it, when it came at once; else what is still to come. */
  body: Buffer | UpstreamBody
}

/** A body in pieces no larger than they come, and no faster than they are read. */
export interface UpstreamBody extends Readable {
  /** Filled when the body has come to its end (RFC 9110 §6.5). */
  trailers?: IncomingHttpHeaders
}

/** Why there is no answer. */
export interface Failure {
  error: Error
  /** The connection ended under the request, without a byte in answer: most likely it had ended before (RFC 9112 §9.3.1). */
  unheard: boolean
}

/** Takes an answer, or why there is none. */
export type Done<F> = (failure: F | null, answer?: UpstreamAnswer) => void

const nothing = Buffer.alloc(0)

/**
 * Sends a request once. A client that leaves before its answer is complete takes the request along. Errors of the answer's
 * body say already what they are to the client.
 *
 * @param timeoutMs from an interim answer to the answer, and for each standstill of one that is no event stream
 * @param reset whether the connection ends with the answer
 */
export function exchange(
  pool: Dispatcher,
  { method, target, headers, body, client }: UpstreamRequest,
  { timeoutMs, reset }: { timeoutMs: number; reset: boolean },
  done: Done<Failure>,
): void {
  let controller: Dispatcher.DispatchController | undefined
  let head: { statusCode: number; headers: IncomingHttpHeaders } | undefined
  /** What has come of the body, for as long as all of it may have come at once. */
  let pieces: Buffer[] | null = null
  let stream: UpstreamBody | undefined
  let standstill: NodeJS.Timeout | undefined
  let heard = false

  const leave = () => controller?.abort(new Error('the client has gone'))
  const standsStill = () => controller?.abort(new Standstill())
  const settle = () => {
    clearTimeout(standstill)
    client.off('close', leave)
  }

  const push = (piece: Buffer) => {
    if (controller?.paused === false) standstill?.refresh()
    if (stream?.push(piece)) return
    // A slow reader is the client's affair, not the upstream's.
    clearTimeout(standstill)
    controller?.pause()
  }

  /** The rest is still to come. */
  const openStream = () => {
    if (head === undefined || pieces === null) return
    const watched = !isEventStream(head.headers)
    const watch = () => {
      if (watched) standstill = setTimeout(standsStill, timeoutMs)
    }
    watch()
    const opened: UpstreamBody = new Readable({
      read() {
        if (!controller?.paused) return
        watch()
        // What is there already comes at once, and may well be too much again.
        controller.resume()
      },
      destroy(error, destroyed) {
        // Nobody wants the rest.
        if (!opened.readableEnded) controller?.abort(error ?? new Error('the answer is not wanted'))
        settle()
        destroyed(error)
      },
    })
    // It may fail while nobody reads it: during the refresh that a 401 sets off, say, or when it is set aside.
    opened.on('error', () => undefined)
    stream = opened
    const come = pieces
    pieces = null
    for (const piece of come) push(piece)
    done(null, { ...head, body: opened })
  }

  const handler: Dispatcher.DispatchHandler & { onResponseStarted(): void } = {
    onRequestStart(given) {
      settle()
      controller = given
      if (client.destroyed) leave()
      else client.on('close', leave)
    },

    onResponseStarted() {
      heard = true
    },

    onResponseStart(_controller, statusCode, given) {
      // Interim answers, which a browser has no use for (RFC 9110 §15.2), put off the answer once and not for ever.
      if (statusCode < 200) {
        standstill ??= setTimeout(standsStill, timeoutMs)
        return
      }
      clearTimeout(standstill)
      const ambiguity = ambiguityOf(statusCode, given)
      if (ambiguity !== null) return controller?.abort(ambiguity)
      head = { statusCode, headers: given }
      // undici takes the length that a 304 tells for that of a body to come (RFC 9110 §8.6).
      if (isBodiless(method, statusCode)) return done(null, { ...head, body: nothing })
      pieces = []
      // What has been read of the connection is parsed before any microtask runs, and most answers are there by then.
      if (given.trailer === undefined) queueMicrotask(openStream)
      else openStream()
    },

    onResponseData(_controller, piece) {
      if (pieces === null) push(piece)
      else pieces.push(piece)
    },

    onResponseEnd(_controller, trailers) {
      settle()
      if (stream !== undefined) {
        stream.trailers = trailers
        stream.push(null)
      } else if (head !== undefined && pieces !== null) {
        const whole = pieces.length === 1 && pieces[0] !== undefined ? pieces[0] : Buffer.concat(pieces)
        pieces = null
        done(null, { ...head, body: whole })
      }
    },

    onResponseError(_controller, error) {
      settle()
      if (stream !== undefined) return void stream.destroy(unusable(error))
      if (head !== undefined && pieces === null) return
      pieces = null
      done({ error, unheard: controller !== undefined && !heard && isCut(error) })
    },
  }

  pool.dispatch(
    {
      path: target,
      method: method as Dispatcher.HttpMethod,
      headers,
      body,
      // `false` would keep the connection even after a HEAD that was answered with a body.
      ...(reset && { reset }),
    },
    handler,
  )
}

/** Whether an answer has no body, whatever it says of its length (RFC 9112 §6.3). */
export function isBodiless(method: string, statusCode: number): boolean {
  return method === 'HEAD' || statusCode === 204 || statusCode === 304
}

/** Whether an answer may be quiet for as long as it likes (HTML Living Standard §9.2). */
export function isEventStream(headers: IncomingHttpHeaders): boolean {
  return /^text\/event-stream\s*(;|$)/i.test(headers['content-type'] ?? '')
}
