import type { ServerResponse } from 'node:http'
import type { EndReason, StoredSession } from '../core/session.ts'
import type { SessionWatch } from './session-watch.ts'

/** The event streams that are open on this replica. */
export interface EventStreams {
  /** Takes over a response whose head is not yet sent, for as long as the session or the client lasts. */
  open(stored: StoredSession, response: ServerResponse): void
  /** Ends all streams; browsers will connect to another replica. */
  close(): void
}

/** What the streams need. */
export interface EventStreamsDeps {
  sessionWatch: SessionWatch
  /** How long before a deadline `expiring` is sent, in milliseconds. */
  warningMs: number
  headers: Record<string, string>
}

/** Keeps proxies from closing a quiet stream. */
const heartbeatMs = 15_000

/**
 * Server-sent events (HTML Living Standard §9.2): `expiring` ahead of a deadline, `extended` when activity moved it away
 * again, `ended` with the reason.
 */
export function createEventStreams(deps: EventStreamsDeps): EventStreams {
  const streams = new Set<{ close(): void }>()
  let closed = false

  return {
    open(stored, response) {
      // A client that has hung up meanwhile is not told of again: its stream would go on for ever.
      if (response.destroyed) return
      const stream = openStream(deps, stored, response)
      streams.add(stream)
      response.once('close', () => {
        stream.stop()
        streams.delete(stream)
      })
      if (closed) stream.close()
    },
    close() {
      closed = true
      for (const stream of streams) stream.close()
    },
  }
}

function openStream(
  { sessionWatch, warningMs, headers }: EventStreamsDeps,
  stored: StoredSession,
  response: ServerResponse,
) {
  let warned = false
  let warning: NodeJS.Timeout | undefined

  const send = (event: string, data: unknown) => {
    response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)
  }

  const follow = ({ idleExpiresInMs, absoluteExpiresInMs }: StoredSession) => {
    if (response.writableEnded || response.destroyed) return
    const remainingMs = Math.min(idleExpiresInMs, absoluteExpiresInMs)
    const near = remainingMs <= warningMs
    if (near !== warned) {
      const [idleExpiresIn, absoluteExpiresIn] = [idleExpiresInMs, absoluteExpiresInMs].map(ms => Math.floor(ms / 1000))
      send(near ? 'expiring' : 'extended', { idleExpiresIn, absoluteExpiresIn })
      warned = near
    }
    clearTimeout(warning)
    // Ahead of the deadline to warn of it, at the deadline to see whether it was the end.
    const waitMs = near ? remainingMs + 1 : remainingMs - warningMs
    warning = setTimeout(() => void watched.look(), Math.min(waitMs, 2 ** 31 - 1))
    warning.unref()
  }

  const end = (reason: EndReason | null) => {
    if (response.writableEnded) return
    send('ended', { reason })
    response.end()
  }

  const heartbeat = setInterval(() => void response.write(': alive\n\n'), heartbeatMs)
  heartbeat.unref()
  response.writeHead(200, { ...headers, 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' })
  response.write('retry: 3000\n\n')
  const watched = sessionWatch.watch(stored.session.id, { ended: end, seen: follow })
  follow(stored)
  // What happened since the session was read found no stream to tell.
  void watched.look()

  return {
    close: () => void response.end(),
    stop() {
      watched.stop()
      clearInterval(heartbeat)
      clearTimeout(warning)
    },
  }
}
