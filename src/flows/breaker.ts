import type { Elapsed } from '../core/clock.ts'
import { ProviderUnavailable } from '../core/errors.ts'

/** Spares a provider that is down, and the requests that would wait for it. */
export interface Breaker {
  /**
   * Runs a call unless the breaker is open. After some failures in a row it opens for a while, then lets single calls
   * through until one succeeds. What may be the fault of one request alone does not count, neither way.
   *
   * @throws {ProviderUnavailable} at once while it is open, with the time to wait
   */
  run<T>(call: () => Promise<T>): Promise<T>
}

const failuresToOpen = 5
const [shortestOpenMs, longestOpenMs] = [1000, 30_000]

/** `random` is from 0 to 1. A `Retry-After` of the provider is honoured from the first failure on. */
export function createBreaker({ elapsed, random }: { elapsed: Elapsed; random: () => number }): Breaker {
  let failures = 0
  let openUntil = 0
  let probing = false

  const fail = (error: unknown) => {
    if (!(error instanceof ProviderUnavailable) || error.isolated) return
    failures += 1
    const exponent = Math.max(0, failures - failuresToOpen)
    const backoffMs = failures >= failuresToOpen ? Math.min(shortestOpenMs * 2 ** exponent, longestOpenMs) : 0
    const waitMs = Math.max(backoffMs * (0.5 + random() / 2), (error.askedToWait ?? 0) * 1000)
    // Of calls that ran side by side one may have been told to wait, and another that failed later not.
    openUntil = Math.max(openUntil, elapsed() + waitMs)
  }

  return {
    async run(call) {
      const waitMs = openUntil - elapsed()
      if (waitMs > 0 || probing)
        throw new ProviderUnavailable({
          detail: 'the provider is being spared after failures',
          retryAfter: Math.max(1, Math.ceil(waitMs / 1000)),
        })
      const isProbe = failures >= failuresToOpen
      probing = isProbe
      try {
        const result = await call()
        failures = 0
        return result
      } catch (error) {
        fail(error)
        throw error
      } finally {
        // Of earlier calls some may come back only now.
        if (isProbe) probing = false
      }
    },
  }
}
