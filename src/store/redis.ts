import type { Elapsed } from '../core/clock.ts'
import type { SessionEvent } from '../core/events.ts'
import type { RecordType, Seal } from '../core/seal.ts'
import type { EndReason } from '../core/session.ts'
import { type StepUp, stepUpLifetime } from '../core/step-up.ts'
import { type Transaction, transactionLifetime } from '../core/transaction.ts'
import type { RedisAddress } from './redis/address.ts'
import { answered } from './redis/answered.ts'
import { createRedisCommands, type LinkListener } from './redis/client.ts'
import { createEnds } from './redis/ends.ts'
import { createRedisIndexes } from './redis/indexes.ts'
import { createKeys, neverThere } from './redis/keys.ts'
import { createRedisOutbox } from './redis/outbox.ts'
import { createRedisRefreshes } from './redis/refreshes.ts'
import { createRedisSessions } from './redis/sessions.ts'
import { createSubscriber } from './redis/subscriber.ts'
import { createSessionCache } from './session-cache.ts'
import { type Lifetimes, logoutLifetime, type Store, type StoreInstant, touchIntervalMs } from './store.ts'

/** What the Redis store is made of. */
export interface RedisStoreOptions {
  address: RedisAddress
  seal: Seal
  /** Begins every key. */
  prefix: string
  lifetimes: Lifetimes
  /** Does not jump. */
  elapsed: Elapsed
  /** Called when a record was changed, moved, or sealed with a key that is no longer known. */
  onUnreadable: (sessionId: string) => void
  /** Called once when a link to Redis breaks; it is mended without further ado. */
  onLinkError: (error: Error) => void
}

/** The store in Redis. Every record is sealed; what stands in the clear are deadlines, reasons and counters. */
export function createRedisStore(options: RedisStoreOptions): Store {
  const { address, seal, lifetimes, elapsed, onUnreadable, onLinkError } = options
  const keys = createKeys(options.prefix)
  const told = new Set<string>()
  const listener: LinkListener = {
    onError(name, error) {
      if (told.has(name)) return
      told.add(name)
      onLinkError(error)
    },
    onReady: name => void told.delete(name),
    onAnotherServer() {
      // What the one before said may never have been.
      cache.forgetAll()
      subscriber.follow()
      ends.sayAgain()
    },
  }
  const commands = createRedisCommands(address, lifetimes, listener)
  const { client } = commands

  const cache = createSessionCache({
    elapsed,
    idleTimeoutMs: lifetimes.idleTimeout * 1000,
    touchIntervalMs: touchIntervalMs(lifetimes),
  })
  const parts = { client, seal, keys, lifetimes, onUnreadable, cache, elapsed }
  const { peek, openLive, ...sessions } = createRedisSessions(parts)
  const listeners: ((event: SessionEvent) => void)[] = [
    event => {
      cache.forget(event.sessionId)
      // The end of a session that was due needs no memory: its deadline stands in the record.
      if (event.type === 'ended' && !isDeadline(event.reason)) ends.note(event.sessionId, event.reason)
    },
  ]

  const subscriber = createSubscriber({
    address,
    commands,
    channel: keys.channel,
    onMessage(message) {
      const event = parseEvent(message)
      if (event !== null) for (const listener of listeners) listener(event)
    },
    listener,
    random: Math.random,
  })
  const ends = createEnds({
    // Only the record comes to its end here: indexes, audit and streams were told of it the first time, on every gateway.
    async end(id, reason) {
      // Where grants are shared, the token of a replaced session must not be revoked before its successor is over.
      const revokeInMs = reason === 'replaced' ? lifetimes.absoluteTimeout * 1000 : 0
      await sessions.endSession(id, reason, revokeInMs)
    },
    elapsed,
  })

  const putOnce = async (type: RecordType, id: string, text: string, lifetime: number) => {
    await answered(client.set(keys.once(type, id), seal.seal(type, id, text), 'EX', lifetime))
  }
  const takeOnce = async (type: RecordType, id: string): Promise<{ text: string; takenAt: StoreInstant } | null> => {
    const reply = await answered<[Buffer, number] | null>(client.takeOnceBuffer(keys.once(type, id)))
    const text = reply && seal.open(type, id, reply[0])
    return reply === null || text === null ? null : { text, takenAt: reply[1] }
  }

  return {
    ...sessions,
    async endSession(id, reason, revokeInMs) {
      const ended = await sessions.endSession(id, reason, revokeInMs)
      // Not one that failed: its session lives. Where only the answer was lost, word of the end will come.
      if (ended !== null && !isDeadline(reason)) ends.note(id, reason)
      return ended
    },
    ...createRedisRefreshes({ client, seal, keys, openLive, onUnreadable, cache }),
    ...createRedisOutbox({ client, seal, keys }),
    ...createRedisIndexes({ client, keys, lifetimes, peek }),

    putTransaction: (id, transaction) => putOnce('transaction', id, JSON.stringify(transaction), transactionLifetime),
    async takeTransaction(id) {
      const taken = await takeOnce('transaction', id)
      return taken && { transaction: JSON.parse(taken.text) as Transaction, takenAt: taken.takenAt }
    },

    putLogout: (id, address) => putOnce('logout', id, address, logoutLifetime),
    takeLogout: async id => (await takeOnce('logout', id))?.text ?? null,

    putStepUp: (id, stepUp) => putOnce('step-up', id, JSON.stringify(stepUp), stepUpLifetime),
    async takeStepUp(id) {
      const taken = await takeOnce('step-up', id)
      return taken && (JSON.parse(taken.text) as StepUp)
    },
    async countStepUp(id, add) {
      const key = keys.once('step-ups', id)
      if (add === 0) return Number((await answered(client.get(key))) ?? 0)
      return await answered(client.countUp(key, stepUpLifetime * 1000))
    },

    async isLogoutTokenSpent(id) {
      return (await answered<number>(client.exists(keys.once('logout-token', id)))) > 0
    },
    async spendLogoutToken(id, lifetimeMs) {
      return (await answered(client.set(keys.once('logout-token', id), '', 'PX', lifetimeMs, 'NX'))) === 'OK'
    },

    onSessionEvent: listener => void listeners.push(listener),

    async ping(bucket) {
      if (bucket === undefined) return void (await answered(commands.ping()))
      // To remove what is never there is refused wherever the scripts are: by what may not write, and while a slot moves.
      const name = keys.bucket(bucket)
      await answered(client.del(name, neverThere(name)))
    },
    async evicts() {
      const policies = (await answered<string[]>(commands.info('memory'))).map(
        info => /^maxmemory_policy:(\S+)/m.exec(info)?.[1],
      )
      return policies.some(policy => policy !== undefined && policy !== 'noeviction')
    },
    async close() {
      ends.stop()
      commands.close()
      subscriber.disconnect()
    },
  }
}

const isDeadline = (reason: EndReason) => reason === 'idle' || reason === 'absolute'

/** `ended <id> <reason>`, `extended <id>` or `refreshed <id>`, as the scripts publish them. */
function parseEvent(message: string): SessionEvent | null {
  const [type, sessionId = '', reason = ''] = message.split(' ')
  if (type === 'ended') return { type, sessionId, reason: reason as EndReason }
  return type === 'extended' || type === 'refreshed' ? { type, sessionId } : null
}
