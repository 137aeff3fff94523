import type { Elapsed } from '../core/clock.ts'

/**
 * Bounds how often the same is said: the number of times that it went unsaid since the last time, if it is to be said
 * now; null if not.
 */
export type Repeats = (what: string) => number | null

const intervalMs = 10_000
/** Of different things at a time; beyond it everything is said anew. */
const maximum = 100

/** The same at most once in 10 seconds. */
export function createRepeats(elapsed: Elapsed): Repeats {
  const said = new Map<string, { atMs: number; unsaid: number }>()
  return what => {
    const last = said.get(what)
    if (last !== undefined && elapsed() - last.atMs < intervalMs) {
      last.unsaid += 1
      return null
    }
    if (last === undefined && said.size >= maximum) said.clear()
    said.set(what, { atMs: elapsed(), unsaid: 0 })
    return last?.unsaid ?? 0
  }
}
