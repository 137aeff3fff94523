import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

/** The connections of a server. */
export interface Connections {
  /** The last response that was begun on a connection. */
  latest(socket: Duplex): ServerResponse | undefined
  /**
   * Closes connections on which no answer is under way, now and as they come, and the others with their answer. Node waits
   * for ever when it closes for those on which a request, or nothing at all, has begun, since its time limits end with
   * that, and lets the others idle after their answer.
   */
  closeIdle(): void
  /** Somebody takes a connection over for another protocol, and also ends it. */
  letGo(socket: Duplex): void
}

export function watchConnections(server: Server): Connections {
  const sockets = new Set<Duplex>()
  const responses = new WeakMap<Duplex, ServerResponse>()
  /** Those that were begun before the ones ahead of them had been sent, by connection. */
  const queued = new WeakMap<Duplex, Set<ServerResponse>>()
  let closing = false

  const closeAfterAnswer = (socket: Duplex) => {
    const response = responses.get(socket)
    if (response === undefined || response.writableFinished) return void socket.destroy()
    response.shouldKeepAlive = false
    response.once('finish', () => (socket as Socket).destroySoon())
  }

  server.on('connection', (socket: Duplex) => {
    if (closing) return void socket.destroy()
    sockets.add(socket)
    socket.once('close', () => {
      sockets.delete(socket)
      for (const response of queued.get(socket) ?? []) if (response.socket === null) close(response)
    })
  })
  const begin = ({ socket }: IncomingMessage, response: ServerResponse) => {
    const before = responses.get(socket)
    responses.set(socket, response)
    if (before === undefined || before.writableFinished) return
    const queue = queued.get(socket) ?? new Set()
    queued.set(socket, queue.add(response))
    response.once('close', () => queue.delete(response))
  }
  server.prependListener('request', begin)
  server.prependListener('checkExpectation', begin)

  return {
    latest: socket => responses.get(socket),
    letGo: socket => void sockets.delete(socket),
    closeIdle() {
      closing = true
      for (const socket of sockets) closeAfterAnswer(socket)
    },
  }
}

/**
 * A response whose turn never comes, since its connection has ended, is told nothing of that by Node: whatever goes on for it
 * would go on for ever.
 */
function close(response: ServerResponse): void {
  response.destroy()
  response.emit('close')
}
