import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import type { FastifyRequest } from 'fastify'
import { WebSocket, WebSocketServer } from 'ws'
import { BadRequest, GatewayError } from '../core/errors.ts'
import type { StoredSession } from '../core/session.ts'
import type { SessionWatch } from './session-watch.ts'
import type { Upgrade } from './upgrades.ts'

/** What an upstream said to a handshake instead of yes. */
export interface HandshakeRefusal {
  refusal: { statusCode: number; headers: IncomingHttpHeaders; stream: IncomingMessage }
}

/** A handshake with an upstream. */
export interface Handshake {
  /** With `http:` or `https:`. */
  url: URL
  headers: IncomingHttpHeaders
  /** Milliseconds. */
  timeoutMs: number
  ca: Buffer | undefined
  /** Of a message in either direction, in bytes. */
  maxMessage: number
}

/** The websockets that go through this replica. */
export interface WebSockets {
  /**
   * Asks the upstream for a websocket, with all subprotocols that the client offers.
   *
   * @throws {BadRequest} when the client's handshake is not sound, before the upstream hears of it
   * @throws {GatewayError} 502, 504
   */
  dial(request: FastifyRequest, handshake: Handshake): Promise<WebSocket | HandshakeRefusal>
  /** Accepts the client with the subprotocol that the upstream chose, and joins the two until one of them, or the session, ends. */
  join(
    request: FastifyRequest,
    upgrade: Upgrade,
    upstream: WebSocket,
    stored: StoredSession | null,
    maxMessage: number,
  ): void
  /** Closes all; clients will connect to another replica. */
  close(): void
}

/** The application's own range of close codes (RFC 6455 §7.4.2): the session has ended. */
const sessionEnded = 4401
const goingAway = 1001
/** A side that does not answer a ping for this long is gone; proxies on the way see traffic more often than that. */
const heartbeatMs = 30_000
/** How long a side may take to answer a close before it is cut off. */
const closeGraceMs = 500
/** Of data that one side has not taken yet, in bytes, before the other is read no further. */
const highWaterMark = 1024 * 1024

export function createWebSockets({ sessionWatch }: { sessionWatch: SessionWatch }): WebSockets {
  const links = new Set<{ close(code: number, reason: string): void }>()
  let closed = false

  return {
    dial(request, { url, headers, timeoutMs, ca, maxMessage }) {
      const protocols = offered(request)
      const address = new URL(url)
      address.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:'
      const socket = new WebSocket(address, protocols, {
        headers: headers as Record<string, string>,
        perMessageDeflate: false,
        followRedirects: false,
        maxPayload: maxMessage,
        ...(ca !== undefined && { ca }),
      })
      const gone = () => socket.terminate()
      request.raw.socket.once('close', gone)
      let late: NodeJS.Timeout | undefined
      return new Promise<WebSocket | HandshakeRefusal>((resolve, reject) => {
        late = setTimeout(() => {
          reject(new GatewayError('upstream_timeout', 'The API did not answer in time.'))
          socket.terminate()
        }, timeoutMs)
        socket.once('open', () => {
          // Nothing is lost that comes before the client is there to take it.
          socket.pause()
          resolve(socket)
        })
        socket.once('unexpected-response', (_outgoing, answer) =>
          resolve({ refusal: { statusCode: answer.statusCode ?? 502, headers: answer.headers, stream: answer } }),
        )
        socket.on('error', cause =>
          reject(new GatewayError('bad_upstream', 'The API gave no usable answer.', { cause })),
        )
      }).finally(() => {
        clearTimeout(late)
        request.raw.socket.off('close', gone)
      })
    },

    join(request, upgrade, upstream, stored, maxMessage) {
      const server = new WebSocketServer({
        noServer: true,
        clientTracking: false,
        perMessageDeflate: false,
        maxPayload: maxMessage,
        handleProtocols: () => upstream.protocol || false,
      })
      upgrade.release()
      server.handleUpgrade(request.raw, upgrade.socket, upgrade.head, client => {
        const link = joined(client, upstream, () => {
          links.delete(link)
          watched?.stop()
        })
        links.add(link)
        const watched =
          stored &&
          sessionWatch.watch(stored.session.id, { ended: () => link.close(sessionEnded, 'the session has ended') })
        // What happened since the session was read was told to nobody.
        void watched?.look()
        if (closed) link.close(goingAway, 'the gateway is stopping')
      })
      // A client that went away during the handshake is no client: nobody will close the upstream's side.
      if (upgrade.socket.destroyed) upstream.terminate()
    },

    close() {
      closed = true
      for (const link of links) link.close(goingAway, 'the gateway is stopping')
    },
  }
}

/** Two websockets as one, each message as it came, neither side faster than the other takes it. */
function joined(client: WebSocket, upstream: WebSocket, ended: () => void) {
  const sides = [client, upstream] as const
  let over = false

  const close = (code: number, reason: string) => {
    if (over) return
    over = true
    clearInterval(heartbeat)
    for (const side of sides) {
      side.removeAllListeners('message')
      side.resume()
      if (sendable(code)) side.close(code, reason)
      else if (code === unstated) side.close()
      else side.terminate()
      // One that does not answer would keep the connection open as long as it likes.
      setTimeout(() => side.terminate(), closeGraceMs).unref()
    }
    ended()
  }

  for (const [from, to] of [sides, [upstream, client] as const]) {
    from.on('message', (data, binary) => {
      to.send(data, { binary }, () => {
        if (from.isPaused && to.bufferedAmount < highWaterMark / 2) from.resume()
      })
      if (to.bufferedAmount > highWaterMark) from.pause()
    })
    from.once('close', (code, reason) => close(code, reason.toString()))
    // The close that follows an error says the rest.
    from.on('error', () => {})
  }

  const alive = new WeakSet<WebSocket>(sides)
  for (const side of sides) side.on('pong', () => alive.add(side))
  const heartbeat = setInterval(() => {
    for (const side of sides) {
      // One that is held back cannot be heard.
      if (!side.isPaused && !alive.delete(side)) side.terminate()
      else side.ping()
    }
  }, heartbeatMs)
  heartbeat.unref()

  upstream.resume()
  return { close }
}

/** No code was sent: none is sent on. */
const unstated = 1005

/** Whether a close code may go over the wire (RFC 6455 §7.4.1). */
function sendable(code: number): boolean {
  return (code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code)) || (code >= 3000 && code <= 4999)
}

/** The subprotocols of a sound client handshake (RFC 6455 §4.2.1). @throws {BadRequest} */
function offered({ method, headers }: FastifyRequest): string[] {
  const key = headers['sec-websocket-key'] ?? ''
  if (method !== 'GET' || !/^[A-Za-z0-9+/]{22}==$/.test(key) || headers['sec-websocket-version'] !== '13')
    throw new BadRequest('The websocket handshake is not valid.')
  const protocols = (headers['sec-websocket-protocol'] ?? '').split(',').map(name => name.trim())
  if (protocols.length === 1 && protocols[0] === '') return []
  if (new Set(protocols).size !== protocols.length || !protocols.every(name => /^[\w!#$%&'*+.^`|~-]+$/.test(name)))
    throw new BadRequest('The websocket subprotocols are not valid.')
  return protocols
}
