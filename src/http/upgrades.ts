import { type IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'

/** A connection that asks to become another protocol's, with what has been read of that already. */
export interface Upgrade {
  socket: Socket
  head: Buffer
  /** Lets go of the answer to the request, so that the connection can be used in another way. */
  release(): void
}

const upgrades = new WeakMap<IncomingMessage, Upgrade>()

/**
 * Brings requests with `Upgrade` to the routes like any other, so that the same checks and the same answers apply. A route
 * that knows the protocol takes the connection over by {@link websocketUpgrade}; any other answers as if nothing had been
 * said of it, which a server may (RFC 9110 §7.8), h2c included.
 */
export function registerUpgrades(app: FastifyInstance, { refuse }: { refuse: (socket: Socket) => void }): void {
  app.server.on('upgrade', (message: IncomingMessage, socket: Socket, head: Buffer) => {
    socket.on('error', () => socket.destroy())
    // The parser has let go of the connection: a body would never come.
    const { method, headers } = message
    if (!['GET', 'HEAD'].includes(method ?? '') || hasBody(headers)) return refuse(socket)
    const response = new ServerResponse(message)
    response.shouldKeepAlive = false
    response.assignSocket(socket)
    const end = () => socket.destroySoon()
    response.once('finish', end)
    upgrades.set(message, {
      socket,
      head,
      release() {
        response.off('finish', end)
        response.detachSocket(socket)
      },
    })
    app.routing(message, response)
  })
}

/** The connection of a request that asks for a websocket (RFC 6455 §4.2.1), or null. */
export function websocketUpgrade({ raw, headers }: FastifyRequest): Upgrade | null {
  const asked = headers.upgrade?.toLowerCase() === 'websocket'
  return (asked ? upgrades.get(raw) : undefined) ?? null
}

function hasBody(headers: IncomingMessage['headers']): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}
