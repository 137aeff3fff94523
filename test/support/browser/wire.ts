import { type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http'
import { connect } from 'node:net'
import { isLoopback } from './cookies.ts'

/** An answer, read to its end. */
export interface BrowserResponse {
  url: string
  status: number
  headers: IncomingHttpHeaders
  /** Names and values in turn, exactly as they came. */
  rawHeaders: string[]
  rawSetCookie: string[]
  text: string
  body: Buffer
  /** @throws when the body is no JSON */
  json<T = Record<string, unknown>>(): T
}

/** An answer that is still coming in: an event stream, a download. */
export interface LiveResponse {
  url: string
  status: number
  headers: IncomingHttpHeaders
  rawHeaders: string[]
  rawSetCookie: string[]
  /** What has come so far. */
  text(): string
  /** Resolves with all that has come once it matches. @throws when it does not within `timeoutMs` or the answer ends */
  waitFor(pattern: RegExp, timeoutMs?: number): Promise<string>
  /** Resolves when the answer ends, however it does. */
  readonly ended: Promise<void>
  /** Hangs up. */
  close(): void
}

/** One request with exactly these headers, in this order and spelling, on a connection of its own; read to its end. */
export async function send(
  url: URL,
  method: string,
  headers: [string, string][],
  body?: string | Uint8Array,
): Promise<BrowserResponse> {
  const response = await exchange(url, method, headers, body)
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk)
  const bytes = Buffer.concat(chunks)
  const text = bytes.toString()
  return { ...head(url, response), text, body: bytes, json: () => JSON.parse(text) }
}

/** Like `send`, but returns as soon as the headers are there. */
export async function sendLive(url: URL, method: string, headers: [string, string][]): Promise<LiveResponse> {
  const response = await exchange(url, method, headers)
  let text = ''
  response.setEncoding('utf8')
  response.on('data', chunk => {
    text += chunk
  })
  response.on('error', () => undefined)
  const ended = new Promise<void>(resolve => response.once('close', resolve))
  const waitFor = (pattern: RegExp, timeoutMs = 5000) =>
    new Promise<string>((resolve, reject) => {
      const settle = (problem?: string) => {
        clearTimeout(timer)
        response.off('data', look)
        if (problem === undefined) resolve(text)
        else reject(new Error(`${problem} before ${pattern} came, after: ${text.slice(-500)}`))
      }
      const look = () => {
        if (pattern.test(text)) settle()
      }
      const timer = setTimeout(() => settle(`${timeoutMs} ms passed`), timeoutMs)
      response.on('data', look)
      void ended.then(() => (pattern.test(text) ? settle() : settle('the answer ended')))
      look()
    })
  return { ...head(url, response), text: () => text, waitFor, ended, close: () => response.destroy() }
}

function head(url: URL, { statusCode = 0, headers, rawHeaders }: IncomingMessage) {
  return { url: url.href, status: statusCode, headers, rawHeaders, rawSetCookie: headers['set-cookie'] ?? [] }
}

function exchange(
  url: URL,
  method: string,
  headers: [string, string][],
  body?: string | Uint8Array,
): Promise<IncomingMessage> {
  // Names like localhost mean 127.0.0.1 here, and nothing leaves the machine.
  if (!isLoopback(url.hostname))
    throw new Error(`the test browser was sent to ${url.origin}, which is not this machine`)
  const given = (name: string) => headers.some(([key]) => key.toLowerCase() === name)
  const own: [string, string][] = given('host') ? [] : [['Host', url.host]]
  const framed = body === undefined || given('content-length') || given('transfer-encoding')
  const length: [string, string][] = framed ? [] : [['Content-Length', String(Buffer.byteLength(body))]]
  return new Promise((resolve, reject) => {
    const outgoing = request({
      agent: false,
      host: url.hostname === '[::1]' ? '::1' : '127.0.0.1',
      port: url.port || 80,
      method,
      path: url.pathname + url.search,
      headers: [...own, ...headers, ...length].flat() as never,
    })
    outgoing.on('error', reject)
    outgoing.on('response', resolve)
    outgoing.end(body)
  })
}

/** When a raw exchange is over. */
export interface RawRequestOptions {
  /** So long after the last byte the answer counts as complete, unless the bytes ask the server to close. */
  idleMs?: number
  /** So long it may take in all. */
  timeoutMs?: number
  /** Closes the sending side after the bytes. */
  end?: boolean
}

/**
 * Writes exactly these bytes (a string is latin1) to a port of 127.0.0.1 and returns all that came back as latin1;
 * empty when the server closed or reset without a word.
 */
export function rawRequest(port: number, bytes: string | Uint8Array, options: RawRequestOptions = {}): Promise<string> {
  const { idleMs = 300, timeoutMs = 20_000, end = false } = options
  const data = typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes
  const closes = /^connection: *close\r$/im.test(Buffer.from(data).toString('latin1'))
  return new Promise((resolve, reject) => {
    const received: Buffer[] = []
    const socket = connect(port, '127.0.0.1')
    let idle: NodeJS.Timeout | undefined
    let connected = false
    const finish = () => {
      clearTimeout(idle)
      clearTimeout(limit)
      socket.destroy()
      resolve(Buffer.concat(received).toString('latin1'))
    }
    const limit = setTimeout(finish, timeoutMs)
    socket.on('connect', () => {
      connected = true
      if (end) socket.end(data)
      else socket.write(data)
    })
    socket.on('data', chunk => {
      received.push(chunk)
      clearTimeout(idle)
      if (!closes) idle = setTimeout(finish, idleMs)
    })
    socket.on('close', finish)
    socket.on('error', error => {
      if (connected) return finish()
      clearTimeout(limit)
      reject(error)
    })
  })
}
