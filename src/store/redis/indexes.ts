import type { EndReason, StoredSession } from '../../core/session.ts'
import type { IndexStore, Lifetimes } from '../store.ts'
import { answered } from './answered.ts'
import type { RedisClient } from './client.ts'
import type { Keys } from './keys.ts'

/** Longer than a login can take from its callback to its session. */
const endedMarkMs = 600_000

/** Indexes in Redis: a sorted set of session ids by the time they were added, and a mark when all of them were ended. */
export function createRedisIndexes(options: {
  client: RedisClient
  keys: Keys
  lifetimes: Lifetimes
  peek: (id: string) => Promise<StoredSession | null>
}): IndexStore {
  const { client, keys, peek } = options
  const absoluteMs = options.lifetimes.absoluteTimeout * 1000

  const removeFromIndexes = async (id: string, indexes: readonly string[]) => {
    await answered(Promise.all(indexes.map(index => client.zrem(keys.indexMembers(index), id))))
  }

  return {
    async addToIndexes(id, indexes) {
      await answered(Promise.all(indexes.map(index => client.addToIndex(keys.indexMembers(index), id, absoluteMs))))
    },

    removeFromIndexes,

    async findSessions(index) {
      const ids = await answered<string[]>(client.zrange(keys.indexMembers(index), '0', '-1'))
      const sessions = await Promise.all(ids.map(peek))
      // An entry without a session is not taken away here: a login may not have got as far. A session that ends takes
      // its entries along, and what a crash leaves behind goes with the next login.
      return sessions.filter(stored => stored !== null)
    },

    async markIndexEnded(index, reason) {
      await answered(client.markIndexEnded(keys.indexEnded(index), endedMarkMs, reason))
    },

    async endedSince(indexes, instant) {
      const marks = await answered<(string | null)[]>(
        Promise.all(indexes.map(index => client.get(keys.indexEnded(index)))),
      )
      const [, reason] = marks.map(mark => mark?.split(' ') ?? []).find(([at]) => Number(at) >= instant) ?? []
      return (reason as EndReason | undefined) ?? null
    },
  }
}
