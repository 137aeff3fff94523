import type { CountedRedis, Ground } from './ground.ts'
import type { Load } from './load.ts'
import { workedMs } from './machine.ts'
import { cpuMs } from './process.ts'
import { median } from './statistics.ts'

/** Something that is measured. */
export interface Subject {
  name: string
  /** Its processes, without their children. */
  pids: readonly number[]
  load: Load
  redis?: CountedRedis
}

/** What one subject did in one round. */
export interface Round {
  requests: number
  requestsPerSecond: number
  p50Ms: number
  p99Ms: number
  /** Milliseconds of CPU for 1,000 requests: the subject's, and its Redis's. */
  cpuPer1000: number
  redisCpuPer1000: number
  /** Redis commands that the subject sent for each request, and those that ran, those inside scripts included. */
  redisSent: number
  redisRun: number
  /** How much of its core the subject had, from 0 to 1: well below 1, something else was the limit. */
  busy: number
  /** How much of that core others had: the benchmark has none, so that it tells of a machine that is not quiet. */
  others: number
}

export type Results<Name extends string = string> = Record<Name, Round[]>

/** How long and how often. */
export interface Plan {
  rounds: number
  seconds: number
  warmUpSeconds: number
}

/**
 * Measures subjects side by side: each once in the first round, each once in the second, and so on, so that what changes
 * on the machine meanwhile falls on all of them. Each round begins with another subject.
 */
export async function measureRounds(ground: Ground, subjects: readonly Subject[], plan: Plan): Promise<Results> {
  for (const { name, load } of subjects) {
    ground.say(`warming up: ${name}`)
    await warmUp(load, plan.warmUpSeconds)
  }
  const results: Results = Object.fromEntries(subjects.map(({ name }) => [name, []]))
  for (let round = 0; round < plan.rounds; round += 1) {
    for (let index = 0; index < subjects.length; index += 1) {
      const subject = subjects[(index + round) % subjects.length]
      if (subject === undefined) continue
      const measured = await measure(ground, subject, plan.seconds)
      results[subject.name]?.push(measured)
      const { requestsPerSecond, cpuPer1000 } = measured
      ground.say(
        `round ${round + 1} of ${plan.rounds}: ${subject.name}: ${requestsPerSecond.toFixed(0)}/s, ${cpuPer1000.toFixed(1)} ms of CPU for 1,000`,
      )
    }
  }
  return results
}

/** Enough for V8 to have compiled what it is going to compile. */
const warmRequests = 40_000

async function warmUp(load: Load, seconds: number): Promise<void> {
  let requests = 0
  for (let turn = 0; turn < 4 && requests < warmRequests; turn += 1) requests += (await load.run(seconds)).requests
}

/** Measures one subject once. */
export async function measure({ cores }: Ground, { pids, load, redis }: Subject, seconds: number): Promise<Round> {
  const [commandsBefore, redisCpuBefore] = [await redis?.commands(), redis?.cpuMs() ?? 0]
  const [cpuBefore, workedBefore] = [cpuMs(...pids), workedMs(cores.subject)]
  const result = await load.run(seconds)
  const cpu = cpuMs(...pids) - cpuBefore
  const worked = workedMs(cores.subject) - workedBefore
  const redisCpu = (redis?.cpuMs() ?? 0) - redisCpuBefore
  const commands = await redis?.commands()
  const { requests, p50Ms, p99Ms } = result
  const perRequest = (count: 'sent' | 'run') => ((commands?.[count] ?? 0) - (commandsBefore?.[count] ?? 0)) / requests
  return {
    requests,
    requestsPerSecond: requests / result.seconds,
    p50Ms,
    p99Ms,
    cpuPer1000: (cpu / requests) * 1000,
    redisCpuPer1000: (redisCpu / requests) * 1000,
    redisSent: perRequest('sent'),
    redisRun: perRequest('run'),
    busy: cpu / (result.seconds * 1000),
    others: Math.max(0, worked - cpu) / (result.seconds * 1000),
  }
}

/** A note for the reader when processes that are none of the benchmark's had much of the core. */
export function notQuiet(results: Results): string[] {
  const others = median(Object.values(results).flatMap(rounds => rounds.map(round => round.others)))
  if (others < 0.05) return []
  return [
    `the machine was not quiet: others had ${(others * 100).toFixed(0)}% of the core. These figures are not to be quoted.`,
  ]
}
