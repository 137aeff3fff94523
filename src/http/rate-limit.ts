import { RateLimiterMemory } from 'rate-limiter-flexible'
import { TooManyRequests } from '../core/errors.ts'

/** Counts what a client does, and stops it when it was too much; in this process alone. */
export interface RateLimit {
  /** @throws {TooManyRequests} with the time after which the client may try again */
  check(address: string): Promise<void>
  count(address: string): Promise<void>
}

/** `points` in so many `seconds`, from the first on. */
export function createRateLimit({ points, seconds }: { points: number; seconds: number }): RateLimit {
  const counts = new RateLimiterMemory({ points, duration: seconds })
  return {
    async check(address) {
      const so = await counts.get(address)
      if (so !== null && so.consumedPoints >= points) throw new TooManyRequests(Math.ceil(so.msBeforeNext / 1000))
    },
    async count(address) {
      await counts.penalty(address)
    },
  }
}
