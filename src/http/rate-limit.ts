import { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible'
import { TooManyRequests } from '../core/errors.ts'
import { rateKeyOf } from './client-address.ts'

/** Counts what a client does, in this process alone. */
export interface RateLimit {
  /** @throws {TooManyRequests} when it was too much, with the time after which the client may try again */
  use(address: string): Promise<void>
}

/** `points` in so many `seconds`, from the first on. */
export function createRateLimit({ points, seconds }: { points: number; seconds: number }): RateLimit {
  const counts = new RateLimiterMemory({ points, duration: seconds })
  return {
    async use(address) {
      try {
        await counts.consume(rateKeyOf(address))
      } catch (spent) {
        if (spent instanceof RateLimiterRes) throw new TooManyRequests(Math.ceil(spent.msBeforeNext / 1000))
        throw spent
      }
    },
  }
}
