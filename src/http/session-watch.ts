import type { SessionEvent } from '../core/events.ts'
import type { EndReason, StoredSession } from '../core/session.ts'
import type { Lookup } from '../store/store.ts'

/** Something that is open for as long as a session lives. */
export interface Watcher {
  /** The session is over; nothing comes after this. Null: nobody knows why. */
  ended(reason: EndReason | null): void
  /** What a look at the session found; not each change brings one, and not each look a change. */
  seen?(stored: StoredSession): void
}

/** A watcher that has been set up. */
export interface Watched {
  /** Looks at the session now. Never throws: without a definite answer nothing is told. */
  look(): Promise<void>
  stop(): void
}

/** Tells whatever is open for a session, on this replica, when it ends: at the latest a second after that. */
export interface SessionWatch {
  watch(sessionId: string, watcher: Watcher): Watched
  /** Takes the store's word of what happened to a session. */
  dispatch(event: SessionEvent): void
}

/** What watching needs. */
export interface SessionWatchDeps {
  /** Reads a session without touching it. */
  look: (sessionId: string) => Promise<Lookup | null>
  /** Those of many sessions that have to be looked at because they may have ended. */
  missingAmong: (sessionIds: readonly string[]) => Promise<readonly string[]>[]
}

/** How often it is asked which sessions are still there: word of an end may not have come through. */
const askEveryMs = 400
/** How often a session is looked at for which something is open: word that it goes on may not have come through. */
const lookEveryMs = 15_000

/** Word from other replicas makes it prompt; asking makes it certain. */
export function createSessionWatch(deps: SessionWatchDeps): SessionWatch {
  const sessions = new Map<string, { watchers: Set<Watcher>; timer: NodeJS.Timeout }>()
  let asking: NodeJS.Timeout | undefined

  const end = (sessionId: string, reason: EndReason | null) => {
    const entry = sessions.get(sessionId)
    if (entry === undefined) return
    forget(sessionId)
    for (const watcher of entry.watchers) watcher.ended(reason)
  }

  const forget = (sessionId: string) => {
    clearInterval(sessions.get(sessionId)?.timer)
    sessions.delete(sessionId)
    if (sessions.size > 0) return
    clearInterval(asking)
    asking = undefined
  }

  const look = async (sessionId: string) => {
    try {
      const found = await deps.look(sessionId)
      if (found?.state !== 'live') return end(sessionId, found === null ? null : found.reason)
      for (const watcher of sessions.get(sessionId)?.watchers ?? []) watcher.seen?.(found.stored)
    } catch {
      // No definite answer: the next look asks again.
    }
  }

  const ask = () => {
    for (const answer of deps.missingAmong([...sessions.keys()]))
      void answer.then(
        missing => missing.forEach(id => void look(id)),
        () => {},
      )
  }

  return {
    watch(sessionId, watcher) {
      const timer = () => setInterval(() => void look(sessionId), lookEveryMs).unref()
      const entry = sessions.get(sessionId) ?? { watchers: new Set(), timer: timer() }
      sessions.set(sessionId, entry)
      entry.watchers.add(watcher)
      asking ??= setInterval(ask, askEveryMs).unref()
      return {
        look: () => look(sessionId),
        stop() {
          entry.watchers.delete(watcher)
          if (entry.watchers.size === 0 && sessions.get(sessionId) === entry) forget(sessionId)
        },
      }
    },

    dispatch(event) {
      if (event.type === 'ended') end(event.sessionId, event.reason)
      else if (sessions.has(event.sessionId)) void look(event.sessionId)
    },
  }
}
