import { type IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Connections } from './connections.ts'

/** A connection that asks to become another protocol's, with what has been read of that already. */
export interface Upgrade {
  socket: Socket
  head: Buffer
  /** Lets go of the answer to the request, so that the connection can be used in another way. */
  release(): void
}

/** What upgrades need of their server. */
export interface UpgradesDeps {
  connections: Connections
  /** Answers what cannot be served, and closes. */
  refuse: (socket: Socket) => void
}

const upgrades = new WeakMap<IncomingMessage, Upgrade>()

/**
 * Brings requests with `Upgrade` to the routes like any other, so that the same checks and the same answers apply. A route
 * that knows the protocol takes the connection over by {@link websocketUpgrade}; any other answers as if nothing had been
 * said of it, which a server may (RFC 9110 §7.8), h2c included.
 */
export function registerUpgrades(app: FastifyInstance, { connections, refuse }: UpgradesDeps): void {
  app.server.on('upgrade', (message: IncomingMessage, socket: Socket, head: Buffer) => {
    socket.on('error', () => socket.destroy())
    connections.letGo(socket)
    const { method, headers } = message
    // The parser has let go of the connection: a body would never come. And a connection has but one answer at a time.
    if (!['GET', 'HEAD'].includes(method ?? '') || hasBody(headers) || isBusy(connections.latest(socket)))
      return refuse(socket)
    // As after any other request, who hangs up is told nothing more; nobody else would notice, now that the parser is gone.
    const hangUp = () => socket.destroy()
    socket.once('end', hangUp)
    if (!asksForWebSocket(headers)) socket.resume()
    const response = new ServerResponse(message)
    response.shouldKeepAlive = false
    response.assignSocket(socket)
    const end = () => socket.destroySoon()
    response.once('finish', end)
    upgrades.set(message, {
      socket,
      head,
      release() {
        socket.off('end', hangUp)
        response.off('finish', end)
        response.detachSocket(socket)
      },
    })
    app.routing(message, response)
  })
}

/** The connection of a request that asks for a websocket (RFC 6455 §4.2.1), or null. */
export function websocketUpgrade({ raw, headers }: FastifyRequest): Upgrade | null {
  // HTTP/1.0 knows of no other protocol (RFC 9110 §7.8).
  const asked = asksForWebSocket(headers) && raw.httpVersion === '1.1'
  return (asked ? upgrades.get(raw) : undefined) ?? null
}

function asksForWebSocket({ upgrade }: IncomingMessage['headers']): boolean {
  return upgrade?.toLowerCase() === 'websocket'
}

/** Whether a response is still to be sent, or sent but not yet let go of by its connection. */
function isBusy(response: ServerResponse | undefined): boolean {
  return response !== undefined && (response.socket !== null || !response.writableFinished)
}

function hasBody(headers: IncomingMessage['headers']): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}
