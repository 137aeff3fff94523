import { setTimeout as sleep } from 'node:timers/promises'
import { createRedisStore, type RedisStoreOptions } from '../../src/store/redis.ts'
import type { Store } from '../../src/store/store.ts'

/** Opens the store of a gateway in a Redis, and waits until it answers. */
export async function openStore(
  options: Pick<RedisStoreOptions, 'address' | 'seal' | 'prefix' | 'lifetimes'> & Partial<RedisStoreOptions>,
): Promise<Store> {
  const quiet = { elapsed: () => performance.now(), onUnreadable: () => {}, onLinkError: () => {} }
  const store = createRedisStore({ ...quiet, ...options })
  await comesBack(store)
  return store
}

/** @throws when the store does not answer within a few seconds */
export async function comesBack(store: Store): Promise<void> {
  for (let tries = 0; tries < 500; tries += 1) {
    const up = await store.ping().then(
      () => true,
      () => false,
    )
    if (up) return
    await sleep(10)
  }
  throw new Error('the store does not answer')
}
