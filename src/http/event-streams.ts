import type { ServerResponse } from 'node:http'
import type { SessionEvent } from '../core/events.ts'
import type { EndReason, StoredSession } from '../core/session.ts'
import type { Lookup } from '../store/store.ts'

/** The event streams that are open on this replica, by session. */
export interface EventStreams {
  /** Takes over a response whose head is not yet sent, for as long as the session or the client lasts. */
  open(stored: StoredSession, response: ServerResponse): void
  /** Tells the streams of a session what happened to it. */
  dispatch(event: SessionEvent): void
  /** Ends all streams; browsers will connect to another replica. */
  close(): void
}

/** What the streams need. */
export interface EventStreamsDeps {
  /** Reads a session without touching it. */
  look: (sessionId: string) => Promise<Lookup | null>
  /** How long before a deadline `expiring` is sent, in milliseconds. */
  warningMs: number
  headers: Record<string, string>
}

/** Keeps proxies from closing the stream, and finds a session that ended while no word of it came through. */
const heartbeatMs = 15_000

/**
 * Server-sent events (HTML Living Standard §9.2): `expiring` ahead of a deadline, `extended` when activity moved it away
 * again, `ended` with the reason. Word from other replicas makes them prompt; looking makes them certain.
 */
export function createEventStreams(deps: EventStreamsDeps): EventStreams {
  const streams = new Map<string, Set<Stream>>()
  let closed = false

  const open = (stored: StoredSession, response: ServerResponse) => {
    // A client that has hung up meanwhile is not told of again: its stream would go on for ever.
    if (response.destroyed) return
    const { id } = stored.session
    const stream = createStream(deps, stored, response)
    const siblings = streams.get(id) ?? new Set()
    streams.set(id, siblings.add(stream))
    response.once('close', () => {
      stream.stop()
      siblings.delete(stream)
      if (siblings.size === 0 && streams.get(id) === siblings) streams.delete(id)
    })
    // What happened since the session was read found no stream to tell.
    if (closed) stream.close()
    else void stream.look()
  }

  return {
    open,
    dispatch(event) {
      for (const stream of streams.get(event.sessionId) ?? []) {
        if (event.type === 'ended') stream.end(event.reason)
        else void stream.look()
      }
    },
    close() {
      closed = true
      for (const siblings of streams.values()) for (const stream of siblings) stream.close()
    },
  }
}

interface Stream {
  look(): Promise<void>
  end(reason: EndReason | null): void
  close(): void
  stop(): void
}

function createStream(deps: EventStreamsDeps, stored: StoredSession, response: ServerResponse): Stream {
  const { id } = stored.session
  let warned = false
  let warning: NodeJS.Timeout | undefined

  const send = (event: string, data: unknown) => {
    response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)
  }

  const end = (reason: EndReason | null) => {
    if (response.writableEnded) return
    send('ended', { reason })
    response.end()
  }

  const follow = ({ idleExpiresInMs, absoluteExpiresInMs }: StoredSession) => {
    const remainingMs = Math.min(idleExpiresInMs, absoluteExpiresInMs)
    const near = remainingMs <= deps.warningMs
    if (near !== warned) {
      const [idleExpiresIn, absoluteExpiresIn] = [idleExpiresInMs, absoluteExpiresInMs].map(ms => Math.floor(ms / 1000))
      send(near ? 'expiring' : 'extended', { idleExpiresIn, absoluteExpiresIn })
      warned = near
    }
    clearTimeout(warning)
    // Ahead of the deadline to warn of it, at the deadline to see whether it was the end.
    const waitMs = near ? remainingMs + 1 : remainingMs - deps.warningMs
    warning = setTimeout(() => void look(), Math.min(waitMs, 2 ** 31 - 1))
    warning.unref()
  }

  const look = async () => {
    try {
      const found = await deps.look(id)
      if (response.writableEnded || response.destroyed) return
      if (found?.state === 'live') follow(found.stored)
      else end(found === null ? null : found.reason)
    } catch {
      // No definite answer: the next heartbeat asks again.
    }
  }

  const heartbeat = setInterval(() => {
    response.write(': alive\n\n')
    void look()
  }, heartbeatMs)
  heartbeat.unref()

  response.writeHead(200, { ...deps.headers, 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' })
  response.write('retry: 3000\n\n')
  follow(stored)

  return {
    look,
    end,
    close: () => response.end(),
    stop() {
      clearInterval(heartbeat)
      clearTimeout(warning)
    },
  }
}
