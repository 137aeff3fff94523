import type { IncomingMessage } from 'node:http'
import { connect, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { type ClientOptions, WebSocket, WebSocketServer } from 'ws'
import { sessionCookie } from './stage.ts'
import type { TestUpstream } from './upstream.ts'

/** One end of a websocket, with what has come of it. */
export interface TestSocket {
  readonly ws: WebSocket
  /** Text as strings, the rest as bytes. */
  readonly messages: (string | Buffer)[]
  /** Resolves when it is closed. */
  readonly closed: Promise<{ code: number; reason: string; at: number }>
}

/** The upstream's ends of the websockets that were asked for, as they came. */
export interface SocketServer {
  readonly sockets: TestSocket[]
  /** The one of this number, once it is there. */
  socket(index?: number): Promise<TestSocket>
}

/** How an upstream takes websockets. */
export interface AcceptOptions {
  /** The subprotocol that it chooses; by default none. */
  choose?: (offered: Set<string>) => string | false
  /** Called as soon as a websocket is open. */
  open?: (ws: WebSocket, request: IncomingMessage) => void
}

/** Makes an upstream take websockets. */
export function acceptSockets(upstream: TestUpstream, { choose, open }: AcceptOptions = {}): SocketServer {
  const handleProtocols = choose ?? (() => false as const)
  const server = new WebSocketServer({ noServer: true, handleProtocols, maxPayload: 64 * 1024 * 1024 })
  const sockets: TestSocket[] = []
  upstream.upgrade = (message: IncomingMessage, socket: Duplex, head: Buffer) =>
    server.handleUpgrade(message, socket, head, ws => {
      sockets.push(follow(ws))
      open?.(ws, message)
    })
  return {
    sockets,
    async socket(index = 0) {
      await within(`websocket ${index} of the upstream`, () => sockets.length > index)
      return sockets[index] as TestSocket
    },
  }
}

/** Who asks for a websocket, and as whom. */
export interface OpenOptions {
  /** Session cookie; none when absent. */
  cookie?: string | undefined
  /** Null: none. */
  origin?: string | null
  protocols?: string[]
  headers?: Record<string, string>
  options?: ClientOptions
}

/** A websocket as a page of the application at `origin` opens it. @throws when it is refused, or takes too long */
export async function openSocket(url: string, { cookie, origin, protocols = [], headers, options }: OpenOptions) {
  const ws = new WebSocket(url.replace(/^http/, 'ws'), protocols, {
    handshakeTimeout: 10_000,
    perMessageDeflate: false,
    maxPayload: 64 * 1024 * 1024,
    ...options,
    headers: {
      ...(origin !== null && { origin: origin ?? new URL(url).origin }),
      ...(cookie !== undefined && { cookie: `${sessionCookie}=${cookie}` }),
      ...headers,
    },
  })
  const socket = follow(ws)
  await new Promise<void>((resolve, reject) => {
    ws.once('open', resolve)
    ws.once('error', reject)
  })
  return socket
}

/** A websocket of which the test writes and reads the frames itself. @throws when it is refused */
export async function rawSocket(url: string, { cookie, origin }: OpenOptions): Promise<Socket> {
  const { host, hostname, port, pathname, origin: own } = new URL(url)
  const socket = connect(Number(port), hostname)
  socket.on('error', () => undefined)
  const lines = [
    `GET ${pathname} HTTP/1.1`,
    `Host: ${host}`,
    `Origin: ${origin ?? own}`,
    `Cookie: ${sessionCookie}=${cookie}`,
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Version: 13',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
  ]
  socket.write(`${lines.join('\r\n')}\r\n\r\n`)
  const answer = await new Promise<string>(resolve => socket.once('data', chunk => resolve(chunk.toString('latin1'))))
  if (!answer.startsWith('HTTP/1.1 101 ')) throw new Error(answer)
  return socket
}

/** Waits for what must happen. @throws when it does not */
export async function within(what: string, holds: () => unknown, timeoutMs = 10_000): Promise<void> {
  const limit = performance.now() + timeoutMs
  while (!(await holds())) {
    if (performance.now() > limit) throw new Error(`${what}: not within ${timeoutMs} ms`)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}

function follow(ws: WebSocket): TestSocket {
  const messages: (string | Buffer)[] = []
  ws.on('message', (data, binary) => messages.push(binary ? (data as Buffer) : String(data)))
  ws.on('error', () => undefined)
  const closed = new Promise<{ code: number; reason: string; at: number }>(resolve =>
    ws.once('close', (code, reason) => resolve({ code, reason: String(reason), at: performance.now() })),
  )
  return { ws, messages, closed }
}
