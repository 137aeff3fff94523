import type { Clock } from '../core/clock.ts'
import { leaseMs, type OutboxStore, type QueuedRevocation } from './store.ts'

interface Entry {
  token: string
  reason: QueuedRevocation['reason']
  attempts: number
  queuedAt: number
  dueAt: number
}

/** The outbox in memory: as good as this process. */
export function createMemoryOutbox(clock: Clock) {
  const entries = new Map<string, Entry>()

  const add = (id: string, token: string, reason: QueuedRevocation['reason'], dueInMs = 0) => {
    entries.set(id, { token, reason, attempts: 0, queuedAt: clock.now() + dueInMs, dueAt: clock.now() + dueInMs })
  }

  /** How long an entry waits that nobody has claimed. */
  const waitsMs = (id: string) => {
    const entry = entries.get(id)
    return entry?.attempts === 0 ? Math.max(0, entry.dueAt - clock.now()) : 0
  }

  const store: OutboxStore = {
    bucketOf: () => 0,
    async queueRevocation(id, token, { reason, dueInMs }) {
      add(id, token, reason, dueInMs)
    },
    async claimRevocations(_bucket, limit) {
      const now = clock.now()
      const due = [...entries].filter(([, entry]) => entry.dueAt <= now).slice(0, limit)
      const found = due.map(([id, entry]) => {
        entry.attempts += 1
        entry.dueAt = now + leaseMs
        const { token, reason, attempts } = entry
        return { id, token, reason, attempts, queuedForMs: now - entry.queuedAt }
      })
      const waits = [...entries.values()].map(entry => entry.dueAt - now)
      return { found, nextInMs: waits.length === 0 ? null : Math.max(0, Math.min(...waits)) }
    },
    async settleRevocation(id, retryInMs) {
      const entry = entries.get(id)
      if (retryInMs === null) entries.delete(id)
      else if (entry !== undefined) entry.dueAt = clock.now() + retryInMs
    },
  }

  return { store, add, waitsMs }
}
