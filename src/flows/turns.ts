/** Lets some calls run side by side; the others wait for their turn, first come, first served. */
export type Turns = <T>(call: () => Promise<T>) => Promise<T>

/** At most `most` calls at a time. */
export function createTurns(most: number): Turns {
  const waiting: (() => void)[] = []
  let running = 0

  return async call => {
    if (running < most) running += 1
    // Whoever is done hands its place on.
    else await new Promise<void>(resolve => void waiting.push(resolve))
    try {
      return await call()
    } finally {
      const next = waiting.shift()
      if (next === undefined) running -= 1
      else next()
    }
  }
}
