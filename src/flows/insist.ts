import { setTimeout as sleep } from 'node:timers/promises'
import { StoreUnavailable } from '../core/errors.ts'

const [firstRetryMs, longestRetryMs] = [50, 500]

/**
 * Calls the store until it takes what must not be lost, for as long as this process lives or `limitMs`.
 *
 * @throws {StoreUnavailable} when the limit is over; anything else at once
 */
export async function insist<T>(call: () => Promise<T>, limitMs = Number.POSITIVE_INFINITY): Promise<T> {
  for (let waitedMs = 0, retryMs = firstRetryMs; ; retryMs = Math.min(retryMs * 2, longestRetryMs)) {
    try {
      return await call()
    } catch (error) {
      if (!(error instanceof StoreUnavailable) || waitedMs >= limitMs) throw error
      await sleep(retryMs)
      waitedMs += retryMs
    }
  }
}
