import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'

/** One request as an API behind the gateway sees it. */
export interface UpstreamRequest {
  method: string
  url: string
  httpVersion: string
  /** Names and values in turn, exactly as they came. */
  rawHeaders: string[]
  headers: IncomingMessage['headers']
  body: Buffer
  /** The bytes of this request on the wire; of pipelined requests the first has those that arrived with it. */
  raw: Buffer
  at: number
  /** False until the body has been read to its end. */
  complete: boolean
  /** True once the caller has gone before the answer was complete. */
  aborted: boolean
}

/** An upstream that writes everything down. */
export interface TestUpstream {
  readonly url: string
  readonly port: number
  /** Requests whose headers came, in order. */
  readonly requests: UpstreamRequest[]
  /** Connections accepted so far. */
  readonly connections: number
  /** Answers requests read to their end; by default an echo in JSON. `res.socket` takes raw bytes. */
  respond: (request: UpstreamRequest, res: ServerResponse) => void
  /** When set, gets requests as soon as their headers are there and reads the body itself; nothing else answers. */
  early: ((message: IncomingMessage, res: ServerResponse) => void) | undefined
  /** Handles upgrades (hand it to a websocket server); refused with 400 when not set. */
  upgrade: ((message: IncomingMessage, socket: Duplex, head: Buffer) => void) | undefined
  /** Messages of the HTTP parser about requests it refused. */
  readonly parseErrors: string[]
  /** All bytes received on all connections, one after the other, as latin1. */
  rawText(): string
  /** The first complete request for which this holds, waiting for it up to `timeoutMs`. */
  waitFor(matches: (request: UpstreamRequest) => boolean, timeoutMs?: number): Promise<UpstreamRequest>
  /** Forgets requests and bytes, and puts the echo back. */
  clear(): void
  close(): Promise<void>
}

/** Starts a recording echo upstream on 127.0.0.1. */
export async function startUpstream(): Promise<TestUpstream> {
  const sockets = new Set<Socket>()
  const requests: UpstreamRequest[] = []
  const parseErrors: string[] = []
  const arrivals = new Set<(request: UpstreamRequest) => void>()
  let transcript: Buffer[] = []
  let connections = 0
  /** Bytes of a connection since its last complete request. */
  const unclaimed = new WeakMap<Duplex, Buffer[]>()
  const turns = new WeakMap<Duplex, Promise<unknown>>()

  const claim = (socket: Duplex): Buffer => {
    const raw = Buffer.concat(unclaimed.get(socket) ?? [])
    unclaimed.set(socket, [])
    return raw
  }
  const complete = (request: UpstreamRequest, message: IncomingMessage, body: Buffer) => {
    Object.assign(request, { body, raw: claim(message.socket), complete: true })
    for (const tell of arrivals) tell(request)
  }

  const http = createHttpServer(async (message, res) => {
    const request = describe(message)
    requests.push(request)
    res.on('close', () => {
      request.aborted = !res.writableFinished
    })
    if (upstream.early) return upstream.early(message, res)
    // Pipelined requests are completed one after the other.
    const earlier = turns.get(message.socket)
    const reading = readAll(message)
    turns.set(message.socket, reading)
    await earlier
    const body = await reading
    if (body === null) return
    complete(request, message, body)
    upstream.respond(request, res)
  })
  http.on('upgrade', (message, socket, head) => {
    const request = describe(message)
    requests.push(request)
    complete(request, message, Buffer.alloc(0))
    if (upstream.upgrade) upstream.upgrade(message, socket, head)
    else socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n')
  })
  http.on('clientError', (error, socket) => {
    parseErrors.push(error.message)
    socket.destroy()
  })

  const server = createServer(socket => {
    connections += 1
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => undefined)
    http.emit('connection', socket)
    // After the parser took the socket over, and ahead of it: a listener set earlier would get nothing.
    socket.prependListener('data', (chunk: Buffer) => {
      const copy = Buffer.from(chunk)
      transcript.push(copy)
      unclaimed.set(socket, [...(unclaimed.get(socket) ?? []), copy])
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo

  const upstream: TestUpstream = {
    url: `http://127.0.0.1:${port}`,
    port,
    requests,
    get connections() {
      return connections
    },
    respond: echo,
    early: undefined,
    upgrade: undefined,
    parseErrors,
    rawText: () => Buffer.concat(transcript).toString('latin1'),
    waitFor: (matches, timeoutMs = 5000) =>
      new Promise((resolve, reject) => {
        const present = requests.find(request => request.complete && matches(request))
        if (present) return resolve(present)
        const timer = setTimeout(() => {
          arrivals.delete(look)
          reject(new Error(`no such request reached the upstream within ${timeoutMs} ms`))
        }, timeoutMs)
        const look = (request: UpstreamRequest) => {
          if (!matches(request)) return
          clearTimeout(timer)
          arrivals.delete(look)
          resolve(request)
        }
        arrivals.add(look)
      }),
    clear: () => {
      requests.length = 0
      parseErrors.length = 0
      transcript = []
      upstream.respond = echo
      upstream.early = undefined
      upstream.upgrade = undefined
    },
    close: () => closeAll(server, sockets),
  }
  return upstream
}

/** A listener that nothing may ever talk to. */
export interface Evil {
  readonly url: string
  readonly port: number
  /** Connections so far; 0 in a sound system. */
  readonly connections: number
  /** What was said to it, as latin1. */
  rawText(): string
  close(): Promise<void>
}

/** Starts the attacker's listener on 127.0.0.1. */
export async function startEvil(): Promise<Evil> {
  const sockets = new Set<Socket>()
  const heard: Buffer[] = []
  let connections = 0
  const server = createServer(socket => {
    connections += 1
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => undefined)
    socket.on('data', chunk => {
      heard.push(chunk)
      socket.end('HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nevil')
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    get connections() {
      return connections
    },
    rawText: () => Buffer.concat(heard).toString('latin1'),
    close: () => closeAll(server, sockets),
  }
}

function describe({ method = '', url = '', httpVersion, rawHeaders, headers }: IncomingMessage): UpstreamRequest {
  const pending = { body: Buffer.alloc(0), raw: Buffer.alloc(0), complete: false, aborted: false }
  return { method, url, httpVersion, rawHeaders, headers, at: Date.now(), ...pending }
}

function echo({ method, url, headers, body }: UpstreamRequest, res: ServerResponse): void {
  res.writeHead(200, { 'content-type': 'application/json' })
  res.end(JSON.stringify({ method, url, headers, body: body.toString() }))
}

/** The whole body; null when the caller went away before its end. */
async function readAll(message: IncomingMessage): Promise<Buffer | null> {
  const chunks: Buffer[] = []
  try {
    for await (const chunk of message) chunks.push(chunk)
  } catch {
    return null
  }
  return Buffer.concat(chunks)
}

function closeAll(server: ReturnType<typeof createServer>, sockets: Set<Socket>): Promise<void> {
  return new Promise(resolve => {
    server.close(() => resolve())
    for (const socket of sockets) socket.destroy()
  })
}
