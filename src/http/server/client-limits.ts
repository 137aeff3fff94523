import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'
import type { Connections } from './connections.ts'

/** How long a client may take, in milliseconds. */
export interface ClientLimits {
  /** For the headers of a request; 408 after it. */
  headersMs: number
  /** For a whole request; 408 after it. */
  requestMs: number
  /** To read on, while there is something to be read; then the connection is closed. */
  unreadMs: number
  /** Between two looks at the first two. */
  checkMs: number
}

const secondMs = 1000
/** A client on a bad line; slower ones are taken for those that only hold a connection. */
const bytesPerSecond = 64 * 1024

/** The limits of a server whose largest request body has so many bytes. */
export function clientLimitsFor(largestBody: number): ClientLimits {
  return {
    headersMs: 20 * secondMs,
    requestMs: 60 * secondMs + Math.ceil(largestBody / bytesPerSecond) * secondMs,
    unreadMs: 60 * secondMs,
    checkMs: 5 * secondMs,
  }
}

/** The limits as fastify takes them; {@link closeUnread} belongs with them. */
export function serverOptionsOf({ headersMs, requestMs, unreadMs, checkMs }: ClientLimits) {
  return {
    requestTimeout: requestMs,
    connectionTimeout: unreadMs,
    http: { headersTimeout: headersMs, connectionsCheckingInterval: checkMs },
  }
}

/**
 * Closes connections on which nothing has moved for the connection timeout while part of an answer was still unread, also
 * after an upgrade, and those that rest for too long. Node would close those of quiet event streams and of slow upstreams,
 * too, were there no listener.
 */
export function closeUnread({ server }: FastifyInstance, connections: Pick<Connections, 'latest'>): void {
  server.on('connection', (socket: Socket) => socket.on('timeout', destroyUnread))
  server.on('timeout', (socket: Socket) => {
    if (connections.latest(socket)?.writableFinished !== false) socket.destroy()
  })
}

function destroyUnread(this: Socket): void {
  if (this.writableLength > 0) this.destroy()
}
