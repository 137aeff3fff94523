import type { IncomingHttpHeaders } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import { WebSocket, WebSocketServer } from 'ws'
import { BadRequest, GatewayError } from '../../core/errors.ts'
import type { StoredSession } from '../../core/session.ts'
import type { Upgrade } from '../server/upgrades.ts'
import type { SessionWatch } from '../session-watch.ts'
import type { UpstreamAnswer } from './exchange.ts'
import { badUpstream, upstreamTimeout } from './faults.ts'
import { joinSides, type Link, type Side } from './websocket-link.ts'

/** What an upstream said to a handshake instead of yes. */
export interface HandshakeRefusal {
  refusal: UpstreamAnswer
}

/** A handshake with an upstream. */
export interface Handshake {
  /** With `http:` or `https:`. */
  origin: string
  /** Path and query, as they go over the wire. */
  target: string
  headers: IncomingHttpHeaders
  /** Milliseconds. */
  timeoutMs: number
  ca: Buffer | undefined
  /** Of a message in either direction, in bytes. */
  maxMessage: number
}

/** An upstream that has said yes. */
export interface Dialled extends Side {
  /** The subprotocol that it chose, or none. */
  protocol: string | undefined
}

/** The websockets that go through this replica. */
export interface WebSockets {
  /**
   * Asks the upstream for a websocket, with all subprotocols that the client offers. A client that hangs up meanwhile takes
   * the connection along.
   *
   * @throws {BadRequest} when the client's handshake is not sound, before the upstream hears of it; when it has gone
   * @throws {GatewayError} 502, 504
   */
  dial(request: FastifyRequest, upgrade: Upgrade, handshake: Handshake): Promise<Dialled | HandshakeRefusal>
  /** Accepts the client with the subprotocol that the upstream chose, and joins the two until one of them, or the session, ends. */
  join(
    request: FastifyRequest,
    upgrade: Upgrade,
    upstream: Dialled,
    stored: StoredSession | null,
    maxMessage: number,
  ): void
  /** Closes all; clients will connect to another replica. */
  close(): void
}

/** The application's own range of close codes (RFC 6455 §7.4.2): the session has ended. */
const sessionEnded = 4401
/** RFC 6455 §7.4.1. */
const goingAway = 1001
/** How long a side may take to answer a close that the gateway asks for before it is cut off. */
const promptMs = 500

export function createWebSockets({ sessionWatch }: { sessionWatch: SessionWatch }): WebSockets {
  const links = new Set<Link>()
  const dialling = new Set<(error: GatewayError) => void>()
  let closed = false

  return {
    dial(request, { socket: client }, { origin, target, headers, timeoutMs, ca, maxMessage }) {
      const protocols = offered(request)
      if (client.destroyed) throw new BadRequest('The client has gone.')
      let answered: { connection: Socket; protocol: string | undefined } | undefined
      const websocket = new WebSocket(origin.replace(/^http/, 'ws'), protocols, {
        headers: headers as Record<string, string>,
        perMessageDeflate: false,
        followRedirects: false,
        maxPayload: maxMessage,
        ...(ca !== undefined && { ca }),
        finishRequest(outgoing) {
          // A URL would spell it anew.
          outgoing.path = target
          outgoing.prependOnceListener('upgrade', answer => {
            const protocol = answer.headers['sec-websocket-protocol']
            answered = { connection: answer.socket, protocol }
            // To choose none of those offered is fine (RFC 6455 §4.2.2), but not with this library.
            if (protocol === undefined && protocols[0] !== undefined)
              answer.headers['sec-websocket-protocol'] = protocols[0]
          })
          outgoing.end()
        },
      })
      let late: NodeJS.Timeout | undefined
      let gone = () => {}
      let giveUp = (_error: GatewayError) => {}
      return new Promise<Dialled | HandshakeRefusal>((resolve, reject) => {
        giveUp = error => {
          reject(error)
          websocket.terminate()
        }
        dialling.add(giveUp)
        gone = () => giveUp(new BadRequest('The client has gone.'))
        client.once('close', gone)
        const tooLate = () => giveUp(upstreamTimeout())
        late = setTimeout(tooLate, timeoutMs)
        websocket.once('open', () => {
          // Nothing is lost that comes before the client is there to take it.
          websocket.pause()
          if (answered !== undefined) resolve({ websocket, ...answered })
        })
        websocket.once('unexpected-response', (_outgoing, answer) => {
          const { statusCode = 0, headers } = answer
          // A yes that does not say to what (RFC 9110 §15.2.2).
          if (statusCode < 200) giveUp(badUpstream())
          else resolve({ refusal: { statusCode, headers, body: answer } })
        })
        websocket.on('error', cause => reject(badUpstream({ cause })))
      }).finally(() => {
        clearTimeout(late)
        dialling.delete(giveUp)
        client.off('close', gone)
      })
    },

    join(request, upgrade, upstream, stored, maxMessage) {
      const server = new WebSocketServer({
        noServer: true,
        clientTracking: false,
        perMessageDeflate: false,
        maxPayload: maxMessage,
        handleProtocols: () => upstream.protocol ?? false,
      })
      let accepted = false
      upgrade.release()
      server.handleUpgrade(request.raw, upgrade.socket, upgrade.head, websocket => {
        accepted = true
        const link = joinSides({ websocket, connection: upgrade.socket }, upstream, () => {
          links.delete(link)
          watched?.stop()
        })
        links.add(link)
        const ended = () => link.close(sessionEnded, 'the session has ended', promptMs)
        const watched = stored && sessionWatch.watch(stored.session.id, { ended })
        // What happened since the session was read was told to nobody.
        void watched?.look()
        if (closed) link.close(goingAway, 'the gateway is stopping', promptMs)
      })
      // A client that went away during the handshake is no client: nobody would close the upstream's side.
      if (!accepted) upstream.websocket.terminate()
    },

    close() {
      closed = true
      for (const giveUp of dialling)
        giveUp(new GatewayError('bad_upstream', 'The gateway is stopping. Try again.', { retryAfter: 1 }))
      for (const link of links) link.close(goingAway, 'the gateway is stopping', promptMs)
    },
  }
}

/** The subprotocols of a sound client handshake (RFC 6455 §4.2.1). @throws {BadRequest} */
function offered({ method, headers }: FastifyRequest): string[] {
  const key = headers['sec-websocket-key'] ?? ''
  if (method !== 'GET' || !/^[A-Za-z0-9+/]{22}==$/.test(key) || headers['sec-websocket-version'] !== '13')
    throw new BadRequest('The websocket handshake is not valid.')
  const header = headers['sec-websocket-protocol']
  if (header === undefined) return []
  const protocols = header.split(',').map(name => name.trim())
  if (new Set(protocols).size !== protocols.length || !protocols.every(name => /^[\w!#$%&'*+.^`|~-]+$/.test(name)))
    throw new BadRequest('The websocket subprotocols are not valid.')
  return protocols
}
