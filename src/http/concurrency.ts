import { TooManyRequests } from '../core/errors.ts'

/** Counts what is under way at the same time, in this process alone. */
export interface Concurrency {
  /**
   * Counts one more, until the function that it returns is called, once or more often.
   *
   * @throws {TooManyRequests} when there are too many already
   */
  enter(key: string): () => void
}

const retryAfter = 1

/** At most so many of one key; a key with none under way costs nothing. */
export function createConcurrency({ most }: { most: number }): Concurrency {
  const counts = new Map<string, number>()
  return {
    enter(key) {
      const count = counts.get(key) ?? 0
      if (count >= most) throw new TooManyRequests(retryAfter)
      counts.set(key, count + 1)
      let inside = true
      return () => {
        if (!inside) return
        inside = false
        const left = (counts.get(key) ?? 1) - 1
        if (left > 0) counts.set(key, left)
        else counts.delete(key)
      }
    },
  }
}
