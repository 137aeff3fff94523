import type { Elapsed } from '../core/clock.ts'
import type { Lookup, SessionStore } from '../store/store.ts'
import type { NoteEnded } from './end-session.ts'

/** Reads sessions for requests and keeps account of their activity. */
export interface SessionUse {
  /**
   * Reads a session. Activity is never lost while this process lives, but costs a write only every few seconds: what is
   * not written with the read is remembered and told to the store, with its age, at the next {@link flush}.
   *
   * @throws {StoreUnavailable} when it is not known whether there is a session
   */
  use(id: string, options: { active: boolean }): Promise<Lookup | null>
  /** Writes the activity that is remembered; what cannot be written now is kept. Never throws. */
  flush(): Promise<void>
}

export function createSessionUse(deps: { store: SessionStore; noteEnded: NoteEnded; elapsed: Elapsed }): SessionUse {
  const { store, noteEnded, elapsed } = deps
  /** Activity that the store does not know of: when it was, by session. */
  const pending = new Map<string, number>()

  const forget = (id: string, at: number | undefined) => {
    if (pending.get(id) === at) pending.delete(id)
  }

  return {
    async use(id, { active }) {
      const now = elapsed()
      const before = pending.get(id)
      const pendingAgeMs = before === undefined ? null : now - before
      const { found, touched } = await store.getSession(id, { active, pendingAgeMs })
      // The store has taken the earlier activity along, or has no session to which it matters.
      forget(id, before)
      if (found?.state === 'live' && active && !touched) pending.set(id, now)
      if (found?.state === 'ended' && found.justEnded !== null) noteEnded(found.justEnded)
      return found
    },

    async flush() {
      const batch = [...pending]
      if (batch.length === 0) return
      const activities = batch.map(([id, at]) => ({ id, ageMs: elapsed() - at }))
      const written = await store.touchSessions(activities).then(
        () => true,
        () => false,
      )
      if (written) for (const [id, at] of batch) forget(id, at)
    },
  }
}
