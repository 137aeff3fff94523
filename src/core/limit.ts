import type { Clock } from './clock.ts'

/** True at most once in this time; also when the clock was set back meanwhile. */
export function createLimit(clock: Clock, intervalMs: number): () => boolean {
  let lastAt = Number.NEGATIVE_INFINITY
  return () => {
    if (Math.abs(clock.now() - lastAt) < intervalMs) return false
    lastAt = clock.now()
    return true
  }
}
