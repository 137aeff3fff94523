/** The time, as the gateway's parts see it; tests put a manual one in its place. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number
}

/** The machine's wall clock. */
export const systemClock: Clock = { now: () => Date.now() }
