/** A clock that stands still until told otherwise; satisfies the gateway's `Clock`. */
export interface ManualClock {
  /** The instant it was set to, in epoch milliseconds. */
  now(): number
  /** Moves on by `ms` milliseconds (negative: back, as a clock correction would). */
  advance(ms: number): void
  /** Jumps to an instant in epoch milliseconds. */
  set(ms: number): void
}

/** A manual clock, at the present instant unless a start is given (epoch milliseconds). */
export function createClock(startMs: number = Date.now()): ManualClock {
  let nowMs = startMs
  return {
    now: () => nowMs,
    advance: ms => {
      nowMs += ms
    },
    set: ms => {
      nowMs = ms
    },
  }
}
