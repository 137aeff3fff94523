import { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible'
import { TooManyRequests } from '../core/errors.ts'
import { rateKeyOf } from './server/client-address.ts'

/** Bounds what a client does. */
export interface RateLimit {
  /** @throws {TooManyRequests} when it was too much, with the time after which the client may try again */
  use(address: string): Promise<void>
}

/** Counts once more for a key: 0, or the milliseconds after which there is room again. */
export type Count = (key: string) => Promise<number>

/** Who counts, and who is told. */
export interface RateLimitOptions {
  count: Count
  /** Told each time that a client is stopped. */
  onExceeded: (address: string) => void
}

/** Counts here: `points` in so many `seconds`, from the first on. */
export function createCount({ points, seconds }: { points: number; seconds: number }): Count {
  const counts = new RateLimiterMemory({ points, duration: seconds })
  return async key => {
    try {
      await counts.consume(key)
      return 0
    } catch (spent) {
      if (!(spent instanceof RateLimiterRes)) throw spent
      return Math.max(1, spent.msBeforeNext)
    }
  }
}

/** A limit for an IPv4 address or an IPv6 network of a subscriber. */
export function createRateLimit({ count, onExceeded }: RateLimitOptions): RateLimit {
  return {
    async use(address) {
      const waitMs = await count(rateKeyOf(address))
      if (waitMs === 0) return
      onExceeded(address)
      throw new TooManyRequests(Math.ceil(waitMs / 1000))
    },
  }
}
