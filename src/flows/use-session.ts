import type { Elapsed } from '../core/clock.ts'
import type { StoredSession } from '../core/session.ts'
import { succeeds } from '../core/succeeds.ts'
import { type Lifetimes, type Lookup, type SessionStore, type Touch, touchIntervalMs } from '../store/store.ts'
import type { NoteEnded } from './end-session.ts'

/** How a session is used: whether a user stands behind it, and which access token is wanted with it. */
export type Use = Pick<Touch, 'active' | 'slot'>

/** Reads sessions for requests and keeps account of their activity. */
export interface SessionUse {
  /** As {@link use}, for a session that is at hand; null when it has to be asked for. */
  atHand(id: string, options: Use): StoredSession | null
  /**
   * Reads a session. Activity is never lost while this process lives, but costs a write only every few seconds: what is
   * not written with the read is remembered and told to the store, with its age, at the next {@link flush}. That holds
   * for what comes while the store is away, too.
   *
   * @throws {StoreUnavailable} when it is not known whether there is a session
   */
  use(id: string, options: Use): Promise<Lookup | null>
  /** Writes the activity that is remembered; what cannot be written now is kept. Never throws. */
  flush(): Promise<void>
}

/** Activity that was not written when it happened. */
interface Pending {
  /** Oldest first. */
  instants: readonly number[]
  /** The store was away then: for all it knows nobody was there, and the next question must tell it first. */
  missed: boolean
}

/** While the store is away nobody can tell made-up cookies from sessions: no more than this many are remembered. */
const mostRemembered = 100_000

export function createSessionUse(deps: {
  store: Pick<SessionStore, 'sessionAtHand' | 'getSession' | 'touchSessions'>
  noteEnded: NoteEnded
  elapsed: Elapsed
  lifetimes: Lifetimes
}): SessionUse {
  const { store, noteEnded, elapsed } = deps
  const intervalMs = touchIntervalMs(deps.lifetimes)
  const idleTimeoutMs = deps.lifetimes.idleTimeout * 1000
  /** Activity that the store does not know of, by session. */
  const pending = new Map<string, Pending>()

  const forget = (id: string, told: Pending | undefined) => {
    if (pending.get(id) === told) pending.delete(id)
  }

  /** Adds what the store could not be told. Of many instants those are kept from which each deadline leads to the next. */
  const remember = (id: string, at: number) => {
    const before = pending.get(id)
    if (before === undefined && pending.size >= mostRemembered) return
    const instants = [...(before?.instants ?? []), at].sort((a, b) => a - b)
    const kept: number[] = []
    for (const [index, instant] of instants.entries()) {
      const [last, next] = [kept.at(-1), instants[index + 1]]
      if (last === undefined || next === undefined || next - last >= idleTimeoutMs) kept.push(instant)
    }
    pending.set(id, { instants: kept, missed: true })
  }

  const activities = (id: string, instants: readonly number[]) => instants.map(at => ({ id, ageMs: elapsed() - at }))

  /** Whether a flush is late: a deadline may hang on what it would tell. */
  const isOverdue = (activity: Pending | undefined, now: number): activity is Pending =>
    activity !== undefined && (activity.missed || now - (activity.instants[0] ?? now) >= intervalMs)

  const noteActive = (id: string, at: number) => {
    const last = pending.get(id)?.instants.at(-1) ?? at
    pending.set(id, { instants: [Math.max(at, last)], missed: false })
  }

  /** Reads a session and tells earlier activity along where that is overdue. */
  const read = async (id: string, use: Use, now: number) => {
    const before = pending.get(id)
    const overdue = isOverdue(before, now)
    if (overdue && before.instants.length > 1) await store.touchSessions(activities(id, before.instants.slice(0, -1)))
    const pendingAgeMs = overdue ? now - (before.instants.at(-1) ?? now) : null
    const { found, touched } = await store.getSession(id, { ...use, pendingAgeMs })
    if (overdue || touched || found?.state !== 'live') forget(id, before)
    if (found?.state === 'live' && use.active && !touched) noteActive(id, now)
    return found
  }

  return {
    atHand(id, use) {
      const now = elapsed()
      if (isOverdue(pending.get(id), now)) return null
      const stored = store.sessionAtHand(id, use)
      if (stored !== null && use.active) noteActive(id, now)
      return stored
    },

    async use(id, use) {
      const now = elapsed()
      try {
        const found = await read(id, use, now)
        if (found?.state === 'ended' && found.justEnded !== null) noteEnded(found.justEnded)
        return found
      } catch (error) {
        // The user was there all the same: a fault of the store logs nobody out.
        if (use.active) remember(id, now)
        throw error
      }
    },

    async flush() {
      const batch = [...pending]
      if (batch.length === 0) return
      const told = batch.flatMap(([id, { instants }]) => activities(id, instants))
      const written = await succeeds(store.touchSessions(told))
      if (written) for (const [id, activity] of batch) forget(id, activity)
    },
  }
}
