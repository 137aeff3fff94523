import type { Clock } from '../core/clock.ts'
import type { SessionEvent } from '../core/events.ts'
import { type EndReason, refreshTokenId, type Session, type StoredSession } from '../core/session.ts'
import { type StepUp, stepUpLifetime } from '../core/step-up.ts'
import type { AccessToken } from '../core/token-set.ts'
import type { Transaction } from '../core/transaction.ts'
import { createMemoryOutbox } from './memory-outbox.ts'
import {
  type EndedSession,
  forcedCooldownMs,
  type Lifetimes,
  loginSlot,
  logoutLifetime,
  refreshLeaseMs,
  refusalRestMs,
  type Store,
  type TokenRefusal,
  tombstoneMs,
  touchIntervalMs,
  warningMs,
} from './store.ts'

interface SessionEntry {
  session: Session
  access: Map<string, AccessToken>
  refresh: string | undefined
  idToken: string | undefined
  version: number
  idle: number
  absolute: number
  lease: { owner: string; until: number } | null
  /** Who began a refresh and has not ended it. */
  pending: string | null
  /** Whether an earlier one never did. */
  unsure: boolean
  /** By slot, or '' for the session as a whole. */
  forcedAt: Map<string, number>
  refused: Map<string, { refusal: TokenRefusal; until: number }>
}

/** The store in this process's memory: for development, and the plain statement of what a store does. */
export function createMemoryStore(options: { clock: Clock; lifetimes: Lifetimes }): Store {
  const { clock, lifetimes } = options
  const idleMs = lifetimes.idleTimeout * 1000
  const intervalMs = touchIntervalMs(lifetimes)
  const sessions = new Map<string, SessionEntry>()
  const transactions = createOnceMap<Transaction>(clock)
  const logouts = createOnceMap<string>(clock)
  const stepUps = createOnceMap<StepUp>(clock)
  const stepUpCounts = createOnceMap<{ count: number }>(clock)
  const spentTokens = createOnceMap<true>(clock)
  const tombstones = createOnceMap<EndReason>(clock)
  const indexes = new Map<string, Set<string>>()
  const endedIndexes = new Map<string, { at: number; reason: EndReason }>()
  const listeners: ((event: SessionEvent) => void)[] = []
  const outbox = createMemoryOutbox(clock)

  const publish = (event: SessionEvent) => {
    for (const listener of listeners) listener(event)
  }

  const live = ({ session, access, version, idle, absolute }: SessionEntry, slot: string | undefined): StoredSession =>
    structuredClone({
      session,
      accessToken: (slot !== undefined && access.get(slot)) || null,
      version,
      idleExpiresInMs: idle - clock.now(),
      absoluteExpiresInMs: absolute - clock.now(),
    })

  const overdue = ({ idle, absolute }: SessionEntry): EndReason | null =>
    clock.now() >= absolute ? 'absolute' : clock.now() >= idle ? 'idle' : null

  const touch = (id: string, entry: SessionEntry, at: number) => {
    const deadline = Math.min(at + idleMs, entry.absolute)
    if (at >= entry.idle || deadline <= entry.idle) return
    const warned = entry.idle - clock.now() < warningMs(lifetimes)
    entry.idle = deadline
    if (warned) publish({ type: 'extended', sessionId: id })
  }

  const finish = (id: string, reason: EndReason, revokeInMs = 0): EndedSession | null => {
    const entry = sessions.get(id)
    if (entry === undefined) return null
    sessions.delete(id)
    tombstones.put(id, reason, clock.now() + tombstoneMs)
    if (entry.refresh !== undefined) outbox.add(refreshTokenId(id, entry.version), entry.refresh, reason, revokeInMs)
    publish({ type: 'ended', sessionId: id, reason })
    return { session: entry.session, reason, idToken: entry.idToken }
  }

  return {
    ...outbox.store,
    buckets: 1,

    async putTransaction(id, transaction) {
      transactions.put(id, structuredClone(transaction), transaction.expiresAt)
    },
    async takeTransaction(id) {
      const transaction = transactions.take(id)
      return transaction && { transaction, takenAt: clock.now() }
    },

    async createSession(session, tokens, withinMs = Number.POSITIVE_INFINITY) {
      const absolute = clock.now() + Math.min(lifetimes.absoluteTimeout * 1000, withinMs)
      const idle = Math.min(clock.now() + idleMs, absolute)
      sessions.set(session.id, {
        session: structuredClone(session),
        access: new Map([[loginSlot, structuredClone(tokens.access)]]),
        refresh: tokens.refresh,
        idToken: tokens.idToken,
        version: 0,
        idle,
        absolute,
        lease: null,
        pending: null,
        unsure: false,
        forcedAt: new Map(),
        refused: new Map(),
      })
    },
    // Nothing needs to be kept of what is here.
    sessionAtHand: () => null,
    async getSession(id, { slot, active, pendingAgeMs }) {
      const entry = sessions.get(id)
      if (entry === undefined) {
        const reason = tombstones.get(id)
        return { found: reason && { state: 'ended', reason, justEnded: null }, touched: false }
      }
      if (pendingAgeMs !== null) touch(id, entry, clock.now() - pendingAgeMs)
      const reason = overdue(entry)
      if (reason !== null) return { found: { state: 'ended', reason, justEnded: finish(id, reason) }, touched: false }
      const touched = active && clock.now() - (entry.idle - idleMs) >= intervalMs
      if (touched) touch(id, entry, clock.now())
      return { found: { state: 'live', stored: live(entry, slot) }, touched }
    },
    async touchSessions(activities) {
      for (const { id, ageMs } of activities) {
        const entry = sessions.get(id)
        if (entry !== undefined) touch(id, entry, clock.now() - ageMs)
      }
    },
    missingAmong: ids => [Promise.resolve(ids.filter(id => !sessions.has(id)))],
    async endSession(id, reason, revokeInMs) {
      return finish(id, reason, revokeInMs)
    },

    async beginRefresh(id, { slot, owner, version, forced, demanding = false }) {
      const entry = sessions.get(id)
      if (entry === undefined) return { state: 'gone' }
      if (entry.version !== version) return { state: 'changed', stored: live(entry, slot) }
      const now = clock.now()
      const holder = entry.lease !== null && entry.lease.until > now ? entry.lease.owner : null
      if (holder !== null && holder !== owner) return { state: 'held' }
      const refused = entry.refused.get(refusalKey(slot, demanding))
      if (refused !== undefined && now < refused.until && holder === null)
        return { state: 'refused', refusal: refused.refusal }
      const forcedFor = demanding ? slot : ''
      const forcedAt = entry.forcedAt.get(forcedFor) ?? Number.NEGATIVE_INFINITY
      if (forced && holder === null && now - forcedAt < forcedCooldownMs) return { state: 'cooldown' }
      if (forced && holder === null) entry.forcedAt.set(forcedFor, now)
      entry.lease = { owner, until: now + refreshLeaseMs }
      const mayReturn = entry.pending !== null && entry.pending !== owner
      entry.unsure ||= mayReturn
      entry.pending = owner
      const refreshToken = entry.refresh ?? null
      return { state: 'granted', stored: live(entry, slot), refreshToken, interrupted: entry.unsure, mayReturn }
    },
    async renewRefresh(id, owner) {
      const lease = sessions.get(id)?.lease
      if (lease?.owner === owner) lease.until = clock.now() + refreshLeaseMs
    },
    async saveRefresh(id, owner, version, { slot, access, refresh, session }) {
      const entry = sessions.get(id)
      if (entry?.lease?.owner === owner) entry.lease = null
      if (entry === undefined) {
        const waitsMs = outbox.waitsMs(refreshTokenId(id, version))
        outbox.add(refreshTokenId(id, version + 1), refresh, 'ended_meanwhile', waitsMs)
        return 'gone'
      }
      if (entry.version > version) return 'superseded'
      entry.version += 1
      entry.pending = null
      entry.unsure = false
      entry.refused.delete(slot)
      if (access !== null) entry.access.set(slot, structuredClone(access))
      entry.refresh = refresh
      if (session !== undefined) entry.session = structuredClone(session)
      publish({ type: 'refreshed', sessionId: id })
      return 'saved'
    },
    async abandonRefresh(id, owner, { unsure, refused }) {
      const entry = sessions.get(id)
      if (entry?.lease?.owner === owner) entry.lease = null
      if (entry?.pending === owner) {
        entry.pending = null
        entry.unsure ||= unsure
      }
      if (refused !== undefined)
        entry?.refused.set(refusalKey(refused.slot, refused.demanding), {
          refusal: refused.refusal,
          until: clock.now() + refusalRestMs,
        })
      publish({ type: 'refreshed', sessionId: id })
    },

    async sweep() {
      const found = [...sessions].flatMap(([id, entry]) => {
        const reason = overdue(entry)
        return reason === null ? [] : (finish(id, reason) ?? [])
      })
      const deadlines = [...sessions.values()].map(entry => Math.min(entry.idle, entry.absolute) - clock.now())
      return { found, nextInMs: deadlines.length === 0 ? null : Math.min(...deadlines) }
    },

    async addToIndexes(id, names) {
      for (const name of names) indexes.set(name, (indexes.get(name) ?? new Set()).add(id))
    },
    async removeFromIndexes(id, names) {
      for (const name of names) {
        indexes.get(name)?.delete(id)
        if (indexes.get(name)?.size === 0) indexes.delete(name)
      }
    },
    async findSessions(index) {
      const entries = [...(indexes.get(index) ?? [])].map(id => sessions.get(id))
      return entries.flatMap(entry => (entry === undefined || overdue(entry) !== null ? [] : [live(entry, undefined)]))
    },
    async markIndexEnded(index, reason) {
      endedIndexes.set(index, { at: clock.now(), reason })
    },
    async endedSince(names, instant) {
      const marks = names.flatMap(name => endedIndexes.get(name) ?? [])
      return marks.find(({ at }) => at >= instant)?.reason ?? null
    },

    onSessionEvent(listener) {
      listeners.push(listener)
    },

    async putLogout(id, address) {
      logouts.put(id, address, clock.now() + logoutLifetime * 1000)
    },
    async takeLogout(id) {
      return logouts.take(id)
    },

    async putStepUp(id, stepUp) {
      stepUps.put(id, structuredClone(stepUp), clock.now() + stepUpLifetime * 1000)
    },
    async takeStepUp(id) {
      return stepUps.take(id)
    },
    async countStepUp(id, add) {
      const entry = stepUpCounts.get(id) ?? { count: 0 }
      if (entry.count === 0 && add > 0) stepUpCounts.put(id, entry, clock.now() + stepUpLifetime * 1000)
      entry.count += add
      return entry.count
    },

    async isLogoutTokenSpent(id) {
      return spentTokens.get(id) !== null
    },
    async spendLogoutToken(id, lifetimeMs) {
      if (spentTokens.get(id) !== null) return false
      spentTokens.put(id, true, clock.now() + lifetimeMs)
      return true
    },

    async ping() {},
    evicts: async () => false,
    async close() {},
  }
}

function refusalKey(slot: string, demanding = false): string {
  return demanding ? `${slot}+` : slot
}

/** Values that are forgotten when their time is over. */
function createOnceMap<T>(clock: Clock) {
  const entries = new Map<string, { value: T; expiresAt: number }>()
  const get = (id: string): T | null => {
    const entry = entries.get(id)
    return entry !== undefined && entry.expiresAt > clock.now() ? entry.value : null
  }
  return {
    get,
    put(id: string, value: T, expiresAt: number) {
      for (const [key, entry] of entries) if (entry.expiresAt <= clock.now()) entries.delete(key)
      entries.set(id, { value, expiresAt })
    },
    take(id: string): T | null {
      const value = get(id)
      entries.delete(id)
      return value
    },
  }
}
