import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'

/** The connections of a server. */
export interface Connections {
  /** The last response that was begun on a connection. */
  latest(socket: Duplex): ServerResponse | undefined
  /**
   * Closes connections on which no answer is under way, now and as they come: also those on which a request, or nothing at
   * all, has begun. Node waits for these for ever when it closes, since its time limits end with that.
   */
  closeIdle(): void
}

export function watchConnections(server: Server): Connections {
  const sockets = new Set<Duplex>()
  const responses = new WeakMap<Duplex, ServerResponse>()
  let closing = false

  const isIdle = (socket: Duplex) => responses.get(socket)?.writableFinished ?? true

  server.on('connection', (socket: Duplex) => {
    if (closing) return void socket.destroy()
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  // Whoever takes a connection over also ends it.
  server.on('upgrade', (_request: IncomingMessage, socket: Duplex) => sockets.delete(socket))
  server.prependListener('request', (_request: IncomingMessage, response: ServerResponse) => {
    responses.set(response.req.socket, response)
  })

  return {
    latest: socket => responses.get(socket),
    closeIdle() {
      closing = true
      for (const socket of sockets) if (isIdle(socket)) socket.destroy()
    },
  }
}
