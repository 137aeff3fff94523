import { TooManyRequests } from '../core/errors.ts'

/** Counts what is under way at the same time, in this process alone. */
export interface Concurrency {
  /**
   * Counts one more, until this is closed; it may be so already.
   *
   * @throws {TooManyRequests} when there are too many already
   */
  enter(key: string, closing: Closing): void
}

/** What says when it is over: a response, or a connection. */
export interface Closing {
  readonly destroyed: boolean
  once(event: 'close', listener: () => void): unknown
}

const retryAfter = 1

/** At most so many of one key; a key with none under way costs nothing. */
export function createConcurrency({ most }: { most: number }): Concurrency {
  const counts = new Map<string, number>()
  return {
    enter(key, closing) {
      const count = counts.get(key) ?? 0
      if (count >= most) throw new TooManyRequests(retryAfter)
      // Nobody would say that it is over.
      if (closing.destroyed) return
      counts.set(key, count + 1)
      closing.once('close', () => {
        const left = (counts.get(key) ?? 1) - 1
        if (left > 0) counts.set(key, left)
        else counts.delete(key)
      })
    },
  }
}
