import { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible'
import { TooManyRequests } from '../core/errors.ts'
import { rateKeyOf } from './server/client-address.ts'

/** Counts what a client does, in this process alone. */
export interface RateLimit {
  /** @throws {TooManyRequests} when it was too much, with the time after which the client may try again */
  use(address: string): Promise<void>
}

/** How often is too often, and who is told. */
export interface RateLimitOptions {
  points: number
  seconds: number
  /** Told each time that a client is stopped. */
  onExceeded: (address: string) => void
}

/** `points` in so many `seconds`, from the first on, for an IPv4 address or an IPv6 network of a subscriber. */
export function createRateLimit({ points, seconds, onExceeded }: RateLimitOptions): RateLimit {
  const counts = new RateLimiterMemory({ points, duration: seconds })
  return {
    async use(address) {
      try {
        await counts.consume(rateKeyOf(address))
      } catch (spent) {
        if (!(spent instanceof RateLimiterRes)) throw spent
        onExceeded(address)
        throw new TooManyRequests(Math.max(1, Math.ceil(spent.msBeforeNext / 1000)))
      }
    },
  }
}
