import type { ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import type { EndpointKind, ProviderRequest } from './journal.ts'

/** A body to send: text, bytes, a value to be sent as JSON, or chunks as they come (see `drip`, `endless`). */
export type AnswerBody = string | Uint8Array | object

/** An answer word for word. */
export interface RawAnswer {
  status: number
  headers?: Record<string, string | string[]>
  body?: AnswerBody
  /** The connection is reset after this many bytes of the body, whose full length was announced. */
  cutAfter?: number
}

/** `pass`: as if nothing was scripted. `reset`: the connection breaks. `hang`: no answer until the provider closes. */
export type Answer = RawAnswer | 'pass' | 'reset' | 'hang'

/** An answer, or a function that makes one; it may wait, which makes the provider slow. */
export type Responder = Answer | ((request: ProviderRequest) => Answer | Promise<Answer>)

/** How long and when a scripted answer applies. */
export interface RespondOptions {
  /** How many requests get it; all of them when absent. `pass` counts too. */
  times?: number
  /** `before` (default): the provider never sees the request. `after`: it has done its work, only its answer is replaced. */
  when?: 'before' | 'after'
  /** Only requests for which this holds; all when absent. */
  matches?(request: ProviderRequest): boolean
}

/** A scripted answer in force. */
export interface Scripted {
  /** How often it was used. */
  readonly calls: number
  stop(): void
}

/** The answers scripted for the endpoints; the one scripted first is used up first. */
export interface Script {
  respond(kind: EndpointKind | '*', responder: Responder, options?: RespondOptions): Scripted
  /** The scripted answer to a request at this stage, `pass` when there is none. */
  answerTo(request: ProviderRequest, when: 'before' | 'after'): Promise<Answer>
  reset(): void
}

/** A script with nothing in it. */
export function createScript(): Script {
  const entries = new Set<{
    kind: EndpointKind | '*'
    responder: Responder
    left: number
    when: 'before' | 'after'
    matches(request: ProviderRequest): boolean
    calls: number
  }>()
  return {
    respond: (kind, responder, { times = Number.POSITIVE_INFINITY, when = 'before', matches = () => true } = {}) => {
      const entry = { kind, responder, left: times, when, matches, calls: 0 }
      entries.add(entry)
      return {
        get calls() {
          return entry.calls
        },
        stop: () => {
          entries.delete(entry)
        },
      }
    },
    answerTo: async (request, when) => {
      const fits = (kind: string) => kind === '*' || kind === request.kind
      const entry = [...entries].find(e => e.when === when && e.left > 0 && fits(e.kind) && e.matches(request))
      if (!entry) return 'pass'
      entry.left -= 1
      entry.calls += 1
      return typeof entry.responder === 'function' ? entry.responder(request) : entry.responder
    },
    reset: () => entries.clear(),
  }
}

/** Sends an answer word for word; a client that goes away meanwhile is no error. */
export async function sendRaw(res: ServerResponse, answer: RawAnswer): Promise<void> {
  const headers = { ...answer.headers }
  const has = (name: string) => Object.keys(headers).some(key => key.toLowerCase() === name)
  const { body = '' } = answer
  if (isChunks(body)) {
    res.writeHead(answer.status, headers)
    await pipeline(Readable.from(body, { objectMode: false }), res).catch(() => undefined)
    return
  }
  const isJson = typeof body === 'object' && !(body instanceof Uint8Array)
  if (isJson && !has('content-type')) headers['content-type'] = 'application/json'
  const bytes = Buffer.from(isJson ? JSON.stringify(body) : (body as string))
  if (!has('content-length')) headers['content-length'] = String(bytes.length)
  res.writeHead(answer.status, headers)
  if (answer.cutAfter === undefined) {
    res.end(bytes)
    return
  }
  res.write(bytes.subarray(0, answer.cutAfter), () => res.socket?.resetAndDestroy())
}

function isChunks(body: AnswerBody): body is Iterable<Uint8Array> | AsyncIterable<Uint8Array> {
  if (typeof body === 'string' || body instanceof Uint8Array || Array.isArray(body)) return false
  return Symbol.iterator in body || Symbol.asyncIterator in body
}

/** A body that arrives `bytes` at a time with a pause between: the slow drip. */
export async function* drip(text: string, bytes = 1, everyMs = 100): AsyncGenerator<Buffer> {
  const whole = Buffer.from(text)
  for (let at = 0; at < whole.length; at += bytes) {
    yield whole.subarray(at, at + bytes)
    await sleep(everyMs, undefined, { ref: false })
  }
}

/** A body that never ends. */
export function* endless(chunk = 'x'.repeat(16_384)): Generator<Buffer> {
  const bytes = Buffer.from(chunk)
  while (true) yield bytes
}
