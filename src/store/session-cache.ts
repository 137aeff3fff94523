import type { Elapsed } from '../core/clock.ts'
import type { StoredSession } from '../core/session.ts'
import type { AccessToken } from '../core/token-set.ts'

/**
 * What the store said of live sessions a moment ago, opened once and not for each request. Nothing is served from here
 * later than {@link confirmedForMs} after the start of the question that confirmed it: word of an end only makes it faster.
 */
export interface SessionCache {
  /**
   * A session with the token of a slot, if it may be served without asking: it was confirmed a moment ago, no deadline has
   * passed meanwhile, and a use of it does not have to be written yet.
   */
  fresh(id: string, use: { slot?: string; active: boolean }): StoredSession | null
  /** The version whose session and token of a slot are here, which the store need not send again; null when none is. */
  versionOf(id: string, slot: string | undefined): number | null
  /**
   * Keeps what the store said, asked at that instant, unless something has happened since: word may overtake an answer.
   */
  keep(id: string, slot: string | undefined, stored: StoredSession, told: Told): void
  /** Renews what {@link versionOf} told of; null when it is gone meanwhile. */
  confirm(id: string, slot: string | undefined, confirmation: Confirmation): StoredSession | null
  /** Something has happened to the session, or is about to: the store must be asked. */
  forget(id: string): void
  /** Another store has taken over: what was asked before that is worth nothing. */
  forgetAll(): void
}

/** When the store was asked for a session, and how much it said. */
export interface Told {
  askedAt: number
  sessionBytes: number
  tokenBytes: number
}

/** The store's word that a session is as it was. */
export interface Confirmation {
  version: number
  idleExpiresInMs: number
  absoluteExpiresInMs: number
  askedAt: number
}

export interface SessionCacheOptions {
  /** Does not jump, and goes on while the process is held up. */
  elapsed: Elapsed
  idleTimeoutMs: number
  /** How long after one activity the next need not be written. */
  touchIntervalMs: number
}

/** Ended sessions are refused everywhere within a second. */
export const confirmedForMs = 900
/** Enough for the sessions that are busy in one process at a time. */
export const mostEntries = 20_000
/** As the store told them; about 100 MB in memory. */
const mostBytes = 32_000_000
/** What is left of them when there was no more room. */
const fullEnough = 0.95

interface Entry extends Confirmation {
  session: StoredSession['session']
  /** By slot. */
  tokens: Map<string, AccessToken | null>
  /** As the store told it. */
  bytes: number
}

export function createSessionCache({ elapsed, idleTimeoutMs, touchIntervalMs }: SessionCacheOptions): SessionCache {
  /** The longest unconfirmed first. */
  const entries = new Map<string, Entry>()
  let bytes = 0
  /** When something last happened to a session, the longest ago first: as long as it matters to answers on their way. */
  const happened = new Map<string, number>()
  let allForgottenAt = Number.NEGATIVE_INFINITY

  const remove = (id: string) => {
    bytes -= entries.get(id)?.bytes ?? 0
    entries.delete(id)
  }

  const put = (id: string, entry: Entry) => {
    remove(id)
    entries.set(id, entry)
    bytes += entry.bytes
    if (fill() > 1) makeRoom()
  }

  /** How full it is, from 0 to 1. */
  const fill = () => Math.max(entries.size / mostEntries, bytes / mostBytes)

  /** Some room at a time: to find the first entry of a map takes as long as entries before it have been removed. */
  const makeRoom = () => {
    for (const oldest of entries.keys()) {
      if (fill() <= fullEnough) return
      remove(oldest)
    }
  }

  const has = ({ tokens }: Entry, slot: string | undefined) => slot === undefined || tokens.has(slot)

  const stored = (entry: Entry, slot: string | undefined, agoMs: number): StoredSession => ({
    session: entry.session,
    accessToken: (slot === undefined ? null : entry.tokens.get(slot)) ?? null,
    version: entry.version,
    idleExpiresInMs: entry.idleExpiresInMs - agoMs,
    absoluteExpiresInMs: entry.absoluteExpiresInMs - agoMs,
  })

  return {
    fresh(id, { slot, active }) {
      const entry = entries.get(id)
      if (entry === undefined || !has(entry, slot)) return null
      const agoMs = elapsed() - entry.askedAt
      if (agoMs >= confirmedForMs) return null
      const found = stored(entry, slot, agoMs)
      const { idleExpiresInMs: idleMs, absoluteExpiresInMs: absoluteMs } = found
      if (idleMs <= 0 || absoluteMs <= 0) return null
      // An idle deadline that has met the absolute one moves no further.
      const isDue =
        active && idleMs <= idleTimeoutMs - touchIntervalMs && entry.idleExpiresInMs < entry.absoluteExpiresInMs
      return isDue ? null : found
    },

    versionOf(id, slot) {
      const entry = entries.get(id)
      return entry !== undefined && has(entry, slot) ? entry.version : null
    },

    keep(id, slot, found, { askedAt, sessionBytes, tokenBytes }) {
      const overtaken = Math.max(allForgottenAt, happened.get(id) ?? Number.NEGATIVE_INFINITY) >= askedAt
      if (overtaken || elapsed() - askedAt >= confirmedForMs) return
      const entry = entries.get(id)
      const known = entry?.version === found.version ? entry : undefined
      const tokens = known?.tokens ?? new Map<string, AccessToken | null>()
      const more = slot !== undefined && !tokens.has(slot) ? tokenBytes : 0
      if (slot !== undefined) tokens.set(slot, found.accessToken)
      // Many requests get the same object.
      freeze(found.session)
      freeze(found.accessToken)
      const { session, version, idleExpiresInMs, absoluteExpiresInMs } = found
      const size = (known?.bytes ?? sessionBytes) + more
      put(id, { session, tokens, version, idleExpiresInMs, absoluteExpiresInMs, askedAt, bytes: size })
    },

    confirm(id, slot, confirmation) {
      const entry = entries.get(id)
      if (entry?.version !== confirmation.version || !has(entry, slot)) return null
      put(id, Object.assign(entry, confirmation))
      return stored(entry, slot, 0)
    },

    forget(id) {
      remove(id)
      const now = elapsed()
      happened.delete(id)
      happened.set(id, now)
      for (const [oldest, at] of happened) {
        if (now - at < confirmedForMs) break
        happened.delete(oldest)
      }
    },

    forgetAll() {
      entries.clear()
      bytes = 0
      allForgottenAt = elapsed()
    },
  }
}

function freeze(value: unknown): void {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return
  Object.freeze(value)
  for (const member of Object.values(value)) freeze(member)
}
