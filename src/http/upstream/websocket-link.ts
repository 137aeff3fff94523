import type { Socket } from 'node:net'
import { WebSocket } from 'ws'

/** One end of a websocket that goes through here. */
export interface Side {
  websocket: WebSocket
  connection: Socket
}

/** RFC 6455 §7.4.1. */
const [protocolError, tooBig] = [1002, 1009]
/** A side of which nothing is heard for this long after a ping is gone; proxies on the way see traffic more often than that. */
const heartbeatMs = 30_000
/** How long a side may take to answer a close that the other side asked for: what it sent before may still be on its way. */
const lingerMs = 10_000
/** Of data that one side has sent and the other has not taken yet, in bytes, before the one is read no further. */
const highWaterMark = 1024 * 1024
/** What a message on its way takes in memory beside its content, in bytes. */
const messageCost = 512

/** Two websockets that are one. */
export interface Link {
  /** Closes both sides with a code and a reason, and cuts off after some milliseconds who does not answer that. */
  close(code: number, reason: string | Buffer, graceMs: number): void
}

/** Makes two websockets one, each message as it came, neither side faster than the other takes it. */
export function joinSides(client: Side, upstream: Side, ended: () => void): Link {
  const sides = [client.websocket, upstream.websocket] as const
  let over = false

  const close = (code: number, reason: string | Buffer, graceMs: number) => {
    if (over) return
    over = true
    clearInterval(heartbeat)
    for (const side of sides) {
      side.removeAllListeners('message')
      side.resume()
      if (side.readyState === WebSocket.CLOSED) continue
      if (sendable(code)) side.close(code, reason)
      else if (code === unstated) side.close()
      // Cut off as the other was, but behind what that has sent.
      else side.ping(undefined, undefined, () => side.terminate())
      // One that does not answer would keep the connection open as long as it likes.
      const late = setTimeout(() => side.terminate(), graceMs).unref()
      side.once('close', () => clearTimeout(late))
    }
    ended()
  }

  for (const [from, to] of [sides, [upstream.websocket, client.websocket] as const]) {
    let owed = 0
    from.on('message', (data, binary) => {
      const size = (data as Buffer).length + messageCost
      owed += size
      if (owed > highWaterMark) from.pause()
      to.send(data, { binary }, () => {
        owed -= size
        if (from.isPaused && owed < highWaterMark / 2) from.resume()
      })
    })
    from.once('close', (code, reason) => close(code, reason, lingerMs))
    // The side at fault has been told more exactly.
    from.on('error', error => close(isTooBig(error) ? tooBig : protocolError, '', lingerMs))
  }

  const heartbeat = startHeartbeat([client, upstream])
  upstream.websocket.resume()
  return { close }
}

/** Cuts off sides of which nothing more is heard. Any byte will do: a pong has to wait behind a message that is long. */
function startHeartbeat(sides: readonly Side[]): NodeJS.Timeout {
  const heard = new Map<Side, number>()
  const beat = () => {
    for (const side of sides) {
      const { websocket, connection } = side
      // One that is held back cannot be heard.
      const held = websocket.isPaused
      if (!held && heard.get(side) === connection.bytesRead) websocket.terminate()
      else websocket.ping()
      heard.set(side, held ? -1 : connection.bytesRead)
    }
  }
  return setInterval(beat, heartbeatMs).unref()
}

function isTooBig(error: Error): boolean {
  return 'code' in error && error.code === 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH'
}

/** No code was sent: none is sent on. */
const unstated = 1005

/** Whether a close code may go over the wire (RFC 6455 §7.4.1). */
function sendable(code: number): boolean {
  return (code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code)) || (code >= 3000 && code <= 4999)
}
