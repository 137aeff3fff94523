import { setTimeout as sleep } from 'node:timers/promises'
import type { Clock } from '../core/clock.ts'
import { ProviderUnavailable } from '../core/errors.ts'

/** How a document of the provider is cached. */
export interface CacheRules {
  /** Served without asking for this long. */
  freshForMs: number
  /** Served for this long when a newer one cannot be had. */
  usableForMs: number
  /** At most one refresh out of turn in this time. */
  refreshCooldownMs: number
}

/** A document fetched from the provider, with its last good version kept through an outage. */
export interface RemoteDocument<T> {
  /** @throws {ProviderUnavailable} when there is no version that may still be used */
  get(): Promise<T>
  /** Fetches a new version out of turn, if the cooldown allows it; otherwise what {@link get} gives. */
  refresh(): Promise<T>
}

const firstBackoffMs = 500
const longestBackoffMs = 30_000
/** Nobody waits longer for a newer version while one is at hand that may still be used. */
const patienceMs = 500

/** Caches what `load` fetches. Concurrent callers share one fetch; failures are retried with backoff, never cached as an answer. */
export function createRemoteDocument<T>(options: {
  load: () => Promise<T>
  clock: Clock
  rules: CacheRules
}): RemoteDocument<T> {
  const { load, clock, rules } = options
  let held: { value: T; loadedAt: number } | undefined
  let underWay: Promise<T> | undefined
  let failures = 0
  let retryAt = 0
  let lastFault: ProviderUnavailable | undefined
  let refreshedAt = Number.NEGATIVE_INFINITY

  const fetchNow = () => {
    underWay ??= load()
      .then(value => {
        held = { value, loadedAt: clock.now() }
        failures = 0
        return value
      })
      .catch(error => {
        retryAt = clock.now() + Math.min(firstBackoffMs * 2 ** failures, longestBackoffMs)
        failures += 1
        lastFault = error instanceof ProviderUnavailable ? error : undefined
        throw error
      })
      .finally(() => {
        underWay = undefined
      })
    return underWay
  }

  const usable = () =>
    held !== undefined && clock.now() - held.loadedAt < rules.usableForMs ? { value: held.value } : undefined

  const get = async () => {
    if (held !== undefined && clock.now() - held.loadedAt < rules.freshForMs) return held.value
    const fallback = usable()
    if (underWay === undefined && failures > 0 && clock.now() < retryAt) {
      if (fallback !== undefined) return fallback.value
      const waitMs = retryAt - clock.now()
      // Whoever met the fault itself may have been a probe, which logs nothing.
      const why = lastFault?.detail === undefined ? '' : `: ${lastFault.detail}`
      throw new ProviderUnavailable({
        detail: `waiting to try again${why}`,
        retryAfter: Math.ceil(waitMs / 1000),
        ...(lastFault?.advice !== undefined && { advice: lastFault.advice }),
      })
    }
    if (fallback === undefined) return fetchNow()
    const newer = fetchNow().catch(() => fallback.value)
    const patience = new AbortController()
    const older = sleep(patienceMs, fallback.value, { signal: patience.signal }).catch(() => newer)
    return Promise.race([newer, older]).finally(() => patience.abort())
  }

  return {
    get,
    async refresh() {
      // Whoever comes while a new version is on its way waits for it: the one at hand is the one that did not do.
      if (underWay !== undefined) return underWay
      if (clock.now() - refreshedAt < rules.refreshCooldownMs) return get()
      refreshedAt = clock.now()
      return fetchNow()
    },
  }
}
