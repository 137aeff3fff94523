import type { Fault } from './load.ts'

/** A list of faults, and what adds to it. */
export function createFaults() {
  const faults: Fault[] = []
  return {
    faults,
    fault(variable: string, problem: string, example?: string): void {
      faults.push(example === undefined ? { variable, problem } : { variable, problem, example })
    },
  }
}
