import { StoreUnavailable } from '../../core/errors.ts'
import type { Seal } from '../../core/seal.ts'
import { refreshTokenId, type StoredSession } from '../../core/session.ts'
import type { SessionCache } from '../session-cache.ts'
import {
  forcedCooldownMs,
  type RefreshStore,
  type RefusedSlot,
  refreshLeaseMs,
  refusalRestMs,
  type TokenRefusal,
} from '../store.ts'
import { answered } from './answered.ts'
import type { RedisClient } from './client.ts'
import type { Keys } from './keys.ts'
import { type LiveReply, tokenId } from './sessions.ts'

type BeginReply = [...reply: LiveReply extends [...infer Head, number] ? Head : never, refresh: Buffer, earlier: number]

/** Leases on refresh tokens, in Redis. */
export function createRedisRefreshes(options: {
  client: RedisClient
  seal: Seal
  keys: Keys
  openLive: (id: string, slot: string, reply: LiveReply) => StoredSession | null
  /** Called when a refresh token was sealed with a key that is not known here. */
  onUnreadable: (sessionId: string) => void
  cache: SessionCache
}): RefreshStore {
  const { client, seal, keys, openLive, onUnreadable, cache } = options

  const sealRefusal = (id: string, { slot, demanding = false, refusal }: RefusedSlot) => {
    const sealed = seal.seal('refusal', tokenId(id, slot), JSON.stringify(refusal))
    return [refusalField(slot, demanding), sealed, refusalRestMs]
  }
  const openRefusal = (id: string, sealed: Buffer): TokenRefusal => {
    const text = seal.open('refusal', id, sealed)
    return text === null ? { code: 'bad_upstream', detail: 'the refusal is unreadable' } : JSON.parse(text)
  }

  return {
    async beginRefresh(id, { slot, owner, version, forced, demanding = false }) {
      const fields = [refusalField(slot, demanding), demanding ? `forced:${slot}` : 'forced']
      const wish = [slot, owner, version, refreshLeaseMs, forced ? 1 : 0, forcedCooldownMs, ...fields]
      const reply = await answered<BeginReply>(client.beginRefreshBuffer(keys.bucketFor(id), keys.channel, id, ...wish))
      const state = reply[0].toString()
      if (state === 'held' || state === 'cooldown') return { state }
      if (state === 'gone') {
        // Word of its end has not come yet, and whoever asks why must not be told that it lives.
        cache.forget(id)
        return { state }
      }
      if (state === 'refused') return { state, refusal: openRefusal(tokenId(id, slot), reply[1]) }
      const [name, session, access, current, idle, absolute, refresh, earlier] = reply
      const stored = openLive(id, slot, [name, session, access, current, idle, absolute, 0])
      if (stored === null) return { state: 'gone' }
      if (state === 'changed') return { state, stored }
      const refreshToken = refresh.length === 0 ? null : seal.open('refresh', refreshTokenId(id, current), refresh)
      if (refreshToken === null && refresh.length > 0) {
        // Another replica has sealed it with a key that is still to come here.
        onUnreadable(id)
        throw new StoreUnavailable({ detail: 'the refresh token was sealed with a key that is not in SESSION_KEYS' })
      }
      return { state: 'granted', stored, refreshToken, interrupted: earlier > 0, mayReturn: earlier === 2 }
    },

    async renewRefresh(id, owner) {
      await answered(client.renewRefresh(keys.bucketFor(id), keys.channel, id, owner, refreshLeaseMs))
    },

    async saveRefresh(id, owner, version, { slot, access, refresh, session }) {
      const sealed = [
        access === null ? '' : seal.seal('access', tokenId(id, slot), JSON.stringify(access)),
        seal.seal('refresh', refreshTokenId(id, version + 1), refresh),
        session === undefined ? '' : seal.seal('session', id, JSON.stringify(session)),
      ]
      const args = [keys.channel, id, owner, version, slot, ...sealed]
      cache.forget(id)
      const outcome = await answered<'saved' | 'superseded' | 'gone'>(client.saveRefresh(keys.bucketFor(id), ...args))
      cache.forget(id)
      return outcome
    },

    async abandonRefresh(id, owner, { unsure, refused }) {
      const rest = refused === undefined ? [] : sealRefusal(id, refused)
      await answered(client.abandonRefresh(keys.bucketFor(id), keys.channel, id, owner, unsure ? 1 : 0, ...rest))
    },
  }
}

function refusalField(slot: string, demanding: boolean): string {
  return demanding ? `refused:${slot}+` : `refused:${slot}`
}
