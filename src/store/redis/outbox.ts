import type { Seal } from '../../core/seal.ts'
import { leaseMs, type OutboxStore, type QueuedRevocation } from '../store.ts'
import { answered } from './answered.ts'
import type { RedisClient } from './client.ts'
import { bucketOf, type Keys } from './keys.ts'

/** The outbox in Redis. A session's own refresh token gets there sealed as it was, without being opened. */
export function createRedisOutbox(options: { client: RedisClient; seal: Seal; keys: Keys }): OutboxStore {
  const { client, seal, keys } = options

  return {
    bucketOf,

    async queueRevocation(id, token, { reason, dueInMs = 0 }) {
      const sealed = seal.seal('refresh', id, token)
      const args = [keys.channel, id, sealed, reason, Math.ceil(dueInMs)]
      await answered(client.queueRevocation(keys.bucketFor(id), ...args))
    },

    async claimRevocations(bucket, limit) {
      const [next, ...values] = await answered<[number, ...(Buffer | number)[]]>(
        client.claimRevocationsBuffer(keys.bucket(bucket), keys.channel, limit, leaseMs),
      )
      const found: QueuedRevocation[] = []
      for (let index = 0; index + 4 < values.length; index += 5) {
        const [name, token, reason, attempts, queuedForMs] = values.slice(index, index + 5) as [
          Buffer,
          Buffer,
          Buffer,
          number,
          number,
        ]
        const id = name.toString()
        found.push({
          id,
          token: seal.open('refresh', id, token),
          reason: reason.toString() as QueuedRevocation['reason'],
          attempts,
          queuedForMs,
        })
      }
      return { found, nextInMs: next < 0 ? null : next }
    },

    async settleRevocation(id, retryInMs) {
      const retry = retryInMs === null ? -1 : Math.ceil(retryInMs)
      await answered(client.settleRevocation(keys.bucketFor(id), keys.channel, id, retry))
    },
  }
}
