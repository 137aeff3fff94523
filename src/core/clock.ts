/** The time, as the gateway's parts see it; tests put a manual one in its place. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number
}

/** Milliseconds on a clock that never jumps, for measuring how long ago something was. */
export type Elapsed = () => number

/** The machine's wall clock. */
export const systemClock: Clock = { now: () => Date.now() }
