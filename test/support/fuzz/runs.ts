import fc from 'fast-check'
import type { Test } from 'tap'

const runsGiven = process.env.FUZZ_RUNS === undefined ? undefined : Number(process.env.FUZZ_RUNS)
/** Others only when asked for many: what a change broke and what was found by luck are two things to a gate. */
const seed = Number(process.env.FUZZ_SEED ?? (runsGiven === undefined ? 20_250_101 : Date.now() % 2 ** 31))
/** A slow machine tries fewer cases instead of taking longer, unless it was told how many. */
const limitMs = 12_000

/**
 * Tries a check on cases of a kind: `FUZZ_RUNS` of them from another seed each time, or as many as are told, always
 * the same; or those of `FUZZ_SEED`. A case that fails is made as small as it goes, and told with the seed that brings it back.
 *
 * @returns how many cases were tried
 */
export async function holds<T>(
  t: Test,
  claim: string,
  { cases, check, runs }: { cases: fc.Arbitrary<T>; check: (value: T) => Promise<void>; runs: number },
): Promise<number> {
  const details = await fc.check(fc.asyncProperty(cases, check), {
    seed,
    numRuns: runsGiven ?? runs,
    ...(runsGiven === undefined && { interruptAfterTimeLimit: limitMs, markInterruptAsFailure: false }),
  })
  if (details.failed)
    t.fail(`${claim}\nFUZZ_SEED=${seed}: ${details.errorInstance}\n${fc.defaultReportMessage(details)}`)
  else t.pass(`${claim}: ${details.numRuns} cases, FUZZ_SEED=${seed}`)
  return details.numRuns
}
