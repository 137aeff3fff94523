import type { ServerResponse } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Cors } from '../server/cors.ts'
import type { SessionWatch } from '../session-watch.ts'
import { admissionOf } from './admission.ts'
import type { Answer } from './answers.ts'
import { isBodiless, isEventStream, type UpstreamBody } from './exchange.ts'
import { setAside } from './repeatable.ts'
import { passTrailers } from './trailers.ts'

/** Sends an answer to the client. @throws {Error} when its head cannot be sent; then nothing has been */
export type Deliver = (request: FastifyRequest, reply: FastifyReply, answer: Answer) => void

/** The way out for the answers of all upstreams. */
export interface Delivery {
  deliver: Deliver
  /** Ends event streams, now and from now on: they would go on for as long as both sides live. */
  endStreams(): void
}

/** What has come as a whole goes out as that, anything else as it comes. */
export function createDelivery({ sessionWatch, cors }: { sessionWatch: SessionWatch; cors: Cors }): Delivery {
  const eventStreams = new Set<UpstreamBody>()
  let ending = false

  return {
    deliver(request, reply, answer) {
      // The rest of a request that was answered early would be taken for the next one.
      if (!request.raw.complete) answer.told.connection = 'close'
      if (Buffer.isBuffer(answer.body)) sendWhole(request, reply, answer, answer.body)
      else sendStream(request, reply, answer, answer.body)
    },
    endStreams() {
      ending = true
      for (const stream of eventStreams) stream.destroy()
    },
  }

  function watchEvents(request: FastifyRequest, stream: UpstreamBody): void {
    eventStreams.add(stream)
    stream.once('close', () => eventStreams.delete(stream))
    if (ending) setImmediate(() => stream.destroy())
    const { stored } = admissionOf(request)
    if (stored === null) return
    const watched = sessionWatch.watch(stored.session.id, { ended: () => stream.destroy() })
    stream.once('close', watched.stop)
    // What happened since the session was read was told to nobody.
    void watched.look()
  }

  /**
   * By Node alone: the framework's way, made for any payload and any hook, takes as long again. So no `onSend` hook sees
   * these answers, and what one would do has to be done here.
   */
  function sendWhole(request: FastifyRequest, reply: FastifyReply, { statusCode, told }: Answer, body: Buffer): void {
    const response = reply.raw
    if (response.destroyed) return void reply.hijack()
    // A 204 must not have one (RFC 9110 §8.6).
    if (statusCode === 204) delete told['content-length']
    else if (!isBodiless(request.method, statusCode)) told['content-length'] ??= String(body.length)
    response.writeHead(statusCode, cors.complete(told, request.headers.origin))
    reply.hijack()
    // As text it goes out in one piece with the head; these are the bytes, one by one.
    response.end(body.toString('latin1'), 'latin1')
  }

  function sendStream(request: FastifyRequest, reply: FastifyReply, answer: Answer, stream: UpstreamBody): void {
    if (stream.errored) throw stream.errored
    reply.code(answer.statusCode).headers(answer.told)
    passTrailers(request, reply, answer, stream)
    if (isEventStream(answer.headers)) watchEvents(request, stream)
    stream.prependOnceListener('error', () => {
      if (reply.raw.headersSent) return
      // What was said of the answer is not true of the problem in its place.
      for (const name of reply.raw.getHeaderNames()) reply.raw.removeHeader(name)
      for (const name of Object.keys(answer.told)) reply.removeHeader(name)
      setAside(answer)
    })
    stream.once('resume', () => setImmediate(sendHeaders, reply.raw, stream))
    reply.send(stream)
  }
}

/** Node keeps headers until there is a body; an event stream that is quiet at first would not even seem to be open. */
function sendHeaders(response: ServerResponse, stream: UpstreamBody): void {
  if (!response.headersSent && !stream.destroyed && !response.destroyed) response.flushHeaders()
}
