import type { Elapsed } from '../../core/clock.ts'
import type { Seal } from '../../core/seal.ts'
import { type EndReason, refreshTokenId, type Session, type StoredSession } from '../../core/session.ts'
import type { AccessToken } from '../../core/token-set.ts'
import type { SessionCache } from '../session-cache.ts'
import {
  type EndedSession,
  type ExpiryStore,
  type Lifetimes,
  type Lookup,
  loginSlot,
  type SessionStore,
  touchIntervalMs,
} from '../store.ts'
import { answered } from './answered.ts'
import type { RedisClient } from './client.ts'
import { buckets, type Keys } from './keys.ts'

/** What sessions in Redis are made of. */
export interface RedisSessionsOptions {
  client: RedisClient
  seal: Seal
  keys: Keys
  lifetimes: Lifetimes
  /** Called when a record was changed, moved, or sealed with a key that is no longer known. */
  onUnreadable: (sessionId: string) => void
  cache: SessionCache
  elapsed: Elapsed
}

/** As the scripts give a live session: the last member depends on the script. */
export type LiveReply = [
  state: Buffer,
  session: Buffer,
  access: Buffer,
  version: number,
  idle: number,
  absolute: number,
  touched: number,
]
type EndedReply = [state: Buffer, reason: Buffer, session?: Buffer]

const sweepLimit = 200

/** Sessions in Redis; see the scripts for the layout. */
export function createRedisSessions(options: RedisSessionsOptions) {
  const { client, seal, keys, lifetimes, onUnreadable, cache, elapsed } = options
  const idleMs = lifetimes.idleTimeout * 1000
  const absoluteMs = lifetimes.absoluteTimeout * 1000
  const intervalMs = touchIntervalMs(lifetimes)

  const byBucket = <T>(items: readonly T[], idOf: (item: T) => string): [bucket: string, items: T[]][] => {
    const groups = new Map<string, T[]>()
    for (const item of items) {
      const bucket = keys.bucketFor(idOf(item))
      const group = groups.get(bucket)
      if (group === undefined) groups.set(bucket, [item])
      else group.push(item)
    }
    return [...groups]
  }

  const openSession = (id: string, sealed: Buffer): Session | null => {
    const text = seal.open('session', id, sealed)
    if (text === null) onUnreadable(id)
    return text === null ? null : (JSON.parse(text) as Session)
  }

  const openLive = (id: string, slot: string | undefined, reply: LiveReply): StoredSession | null => {
    const [, sealed, sealedAccess, version, idleExpiresInMs, absoluteExpiresInMs] = reply
    const session = openSession(id, sealed)
    if (session === null) return null
    const access =
      slot === undefined || sealedAccess.length === 0 ? null : seal.open('access', tokenId(id, slot), sealedAccess)
    if (access === null && slot !== undefined && sealedAccess.length > 0) {
      onUnreadable(id)
      return null
    }
    const accessToken = access === null ? null : (JSON.parse(access) as AccessToken | null)
    return { session, accessToken, version, idleExpiresInMs, absoluteExpiresInMs }
  }

  const openEnded = (id: string, sealed: Buffer, reason: EndReason): EndedSession | null => {
    const session = openSession(id, sealed)
    return session === null ? null : { session, reason }
  }

  const lookup = (id: string, slot: string | undefined, reply: LiveReply | EndedReply): Lookup | null => {
    if (reply[0].toString() === 'live') {
      const stored = openLive(id, slot, reply as LiveReply)
      return stored === null ? null : { state: 'live', stored }
    }
    const reason = reply[1].toString() as EndReason
    const sealed = (reply as EndedReply)[2]
    return { state: 'ended', reason, justEnded: sealed ? openEnded(id, sealed, reason) : null }
  }

  const store: SessionStore & ExpiryStore = {
    buckets,

    async createSession({ id, ...rest }, tokens, withinMs = absoluteMs) {
      const session = seal.seal('session', id, JSON.stringify({ id, ...rest }))
      const access = seal.seal('access', tokenId(id, loginSlot), JSON.stringify(tokens.access))
      const refresh = tokens.refresh === undefined ? '' : seal.seal('refresh', refreshTokenId(id, 0), tokens.refresh)
      const idToken = tokens.idToken === undefined ? '' : seal.seal('id_token', id, tokens.idToken)
      const ownMs = Math.floor(Math.min(withinMs, absoluteMs))
      const args = [keys.channel, id, session, access, refresh, idleMs, absoluteMs, ownMs, idToken]
      await answered(client.createSession(keys.bucketFor(id), ...args))
    },

    sessionAtHand: cache.fresh,

    async getSession(id, touch) {
      const { slot, active, pendingAgeMs } = touch
      const askedAt = elapsed()
      const version = cache.versionOf(id, slot) ?? -1
      const age = pendingAgeMs === null ? -1 : Math.ceil(pendingAgeMs)
      const args = [keys.channel, id, idleMs, age, active ? 1 : 0, intervalMs, slot ?? '', version]
      const reply = await answered<LiveReply | EndedReply | null>(client.getSessionBuffer(keys.bucketFor(id), ...args))
      const touched = reply?.[6] === 1
      if (reply?.[0].toString() === 'same') {
        const [, , , , idleExpiresInMs, absoluteExpiresInMs] = reply as LiveReply
        const stored = cache.confirm(id, slot, { version, idleExpiresInMs, absoluteExpiresInMs, askedAt })
        if (stored !== null) return { found: { state: 'live', stored }, touched }
        // Forgotten while the answer was on its way: what it was is to be told in full.
        const again = await store.getSession(id, { ...touch, pendingAgeMs: null })
        return { found: again.found, touched: touched || again.touched }
      }
      const found = reply && lookup(id, slot, reply)
      if (found?.state === 'live') cache.keep(id, slot, found.stored, { askedAt, ...bytesOf(reply) })
      else cache.forget(id)
      return { found, touched }
    },

    async touchSessions(activities) {
      const flushes = byBucket(activities, ({ id }) => id).map(([bucket, group]) => {
        const pairs = group.flatMap(({ id, ageMs }) => [id, Math.ceil(ageMs)])
        return client.touchSessions(bucket, keys.channel, idleMs, ...pairs)
      })
      await answered(Promise.all(flushes))
    },

    missingAmong(ids) {
      return byBucket(ids, id => id).map(async ([, group]) => {
        const there = await answered<number>(client.exists(...group.map(keys.session)))
        if (there === group.length) return []
        for (const id of group) cache.forget(id)
        return group
      })
    },

    async endSession(id, reason, revokeInMs = 0) {
      cache.forget(id)
      const reply = await answered<[session: Buffer, idToken?: Buffer] | null>(
        client.endSessionBuffer(keys.bucketFor(id), keys.channel, id, reason, Math.ceil(revokeInMs)),
      )
      const ended = reply && openEnded(id, reply[0], reason)
      return ended && { ...ended, idToken: reply[1] && (seal.open('id_token', id, reply[1]) ?? undefined) }
    },

    async sweep(bucket) {
      const [next, ...ended] = await answered<[number, ...Buffer[]]>(
        client.sweepBuffer(keys.bucket(bucket), keys.channel, sweepLimit),
      )
      const found: EndedSession[] = []
      for (let index = 0; index + 2 < ended.length; index += 3) {
        const [id, reason, sealed] = ended.slice(index, index + 3) as [Buffer, Buffer, Buffer]
        cache.forget(id.toString())
        const session = openEnded(id.toString(), sealed, reason.toString() as EndReason)
        if (session !== null) found.push(session)
      }
      return { found, nextInMs: next < 0 ? null : next }
    },
  }

  const peek = async (id: string): Promise<StoredSession | null> => {
    const reply = await answered<LiveReply | null>(client.peekSessionBuffer(keys.bucketFor(id), keys.channel, id))
    return reply && openLive(id, undefined, reply)
  }

  return { ...store, peek, openLive }
}

function bytesOf(reply: LiveReply | EndedReply | null): { sessionBytes: number; tokenBytes: number } {
  const [, session, access] = reply ?? []
  return { sessionBytes: session?.length ?? 0, tokenBytes: access?.length ?? 0 }
}

/** An access token is sealed for its place in one session, so that no upstream's token opens as another's. */
export function tokenId(sessionId: string, slot: string): string {
  return `${sessionId}/${slot}`
}
