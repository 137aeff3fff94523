import type { Clock } from '../core/clock.ts'
import type { Session, StoredSession } from '../core/session.ts'
import type { TokenSet } from '../core/token-set.ts'
import type { Transaction } from '../core/transaction.ts'
import { type Lifetimes, logoutLifetime, type Store } from './store.ts'

interface Entry<T> {
  value: T
  expiresAt: number
}

interface SessionEntry {
  session: Session
  tokens: TokenSet
  idleExpiresAt: number
  absoluteExpiresAt: number
}

/** The store in this process's memory: for development, and the plain statement of what a store does. */
export function createMemoryStore(options: { clock: Clock; lifetimes: Lifetimes }): Store {
  const { clock, lifetimes } = options
  const sessions = new Map<string, SessionEntry>()
  const transactions = createOnceMap<Transaction>(clock)
  const logouts = createOnceMap<string>(clock)

  const stored = (entry: SessionEntry): StoredSession => {
    const now = clock.now()
    return structuredClone({
      session: entry.session,
      tokens: entry.tokens,
      idleExpiresInMs: entry.idleExpiresAt - now,
      absoluteExpiresInMs: entry.absoluteExpiresAt - now,
    })
  }

  return {
    async putTransaction(id, transaction) {
      transactions.put(id, structuredClone(transaction), transaction.expiresAt)
    },
    async takeTransaction(id) {
      return transactions.take(id)
    },

    async createSession(session, tokens) {
      const now = clock.now()
      const absoluteExpiresAt = now + lifetimes.absoluteTimeout * 1000
      const idleExpiresAt = Math.min(now + lifetimes.idleTimeout * 1000, absoluteExpiresAt)
      sessions.set(session.id, structuredClone({ session, tokens, idleExpiresAt, absoluteExpiresAt }))
    },
    async getSession(id, { slide }) {
      const entry = sessions.get(id)
      if (entry === undefined) return null
      const now = clock.now()
      if (slide && now < entry.idleExpiresAt && now < entry.absoluteExpiresAt)
        entry.idleExpiresAt = Math.min(now + lifetimes.idleTimeout * 1000, entry.absoluteExpiresAt)
      return stored(entry)
    },
    async takeSession(id) {
      const entry = sessions.get(id)
      sessions.delete(id)
      return entry === undefined ? null : stored(entry)
    },

    async putLogout(id, address) {
      logouts.put(id, address, clock.now() + logoutLifetime * 1000)
    },
    async takeLogout(id) {
      return logouts.take(id)
    },

    async ping() {},
    async close() {},
  }
}

/** Values that are taken at most once, and forgotten when their time is over. */
function createOnceMap<T>(clock: Clock) {
  const entries = new Map<string, Entry<T>>()
  return {
    put(id: string, value: T, expiresAt: number) {
      const now = clock.now()
      for (const [key, entry] of entries) if (entry.expiresAt <= now) entries.delete(key)
      entries.set(id, { value, expiresAt })
    },
    take(id: string): T | null {
      const entry = entries.get(id)
      entries.delete(id)
      return entry !== undefined && entry.expiresAt > clock.now() ? entry.value : null
    },
  }
}
