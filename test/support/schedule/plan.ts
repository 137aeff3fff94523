import { createRandom, type Random } from '../random.ts'
import type { Verdict } from './ledger.ts'
import type { LinkFault } from './redis-link.ts'

/** One thing that happens, so many milliseconds after the start. A place is a browser of a user's, by number. */
export type Step = { at: number } & (
  | { kind: 'call'; place: number; upstream: 'api' | 'reports'; replicas: number[]; method: string; refuse: boolean }
  | { kind: 'logout' | 'end_others' | 'login'; place: number; replica: number }
  | { kind: 'revoke_user'; user: number; replica: number }
  | { kind: 'provider_logout'; place: number; of: 'session' | 'user'; replicas: number[] }
  | { kind: 'break'; replica: number; fault: LinkFault; ms: number }
  | { kind: 'kill'; replica: number }
)

/** A run, as its seed has it. */
export interface Plan {
  seed: number
  users: number
  /** The user of each place. */
  places: number[]
  /** Seconds that access tokens live. */
  lifetime: number
  steps: Step[]
  /** Whether what is left in the end is ended by an administrator, or by its deadline. */
  revokedInTheEnd: boolean
  /** The verdict about the n-th refresh of a session; the same whatever happens around it. */
  verdict(session: string, index: number): { verdict: Verdict; ms: number }
  /** Whether the provider fails at the n-th revocation. */
  revocationFails(index: number): boolean
}

/** The kinds of runs: in one process links to Redis fail, and with real processes these are killed. */
export interface PlanOptions {
  replicas: number
  processes: boolean
  /** Milliseconds from the first step to the last. */
  length: number
}

const verdicts: Record<Verdict, number> = {
  prompt: 46,
  slow: 16,
  late: 14,
  lost_before: 5,
  lost_after: 4,
  unavailable: 3,
  busy: 2,
  passing: 2,
  refused: 3,
  interaction: 2,
  kill_before: 0,
  kill_after: 0,
}

/** Makes a run of a seed. */
export function planOf(seed: number, options: PlanOptions): Plan {
  const random = createRandom(`plan ${seed}`)
  const { replicas, processes, length } = options
  const users = random.between(2, 3)
  const places = Array.from({ length: users * random.between(2, 3) }, (_, index) => index % users)
  const deaths = processes ? { ...verdicts, kill_before: 3, kill_after: 3 } : verdicts
  return {
    seed,
    users,
    places,
    lifetime: random.between(15, 45) / 100,
    steps: stepsOf(random, { replicas, processes, length, users, places }).sort((a, b) => a.at - b.at),
    revokedInTheEnd: processes || random.chance(0.5),
    verdict(session, index) {
      const lot = createRandom(`refresh ${seed} ${session} ${index}`)
      return { verdict: lot.weighted(deaths), ms: lot.between(10, 350) }
    },
    revocationFails: index => createRandom(`revocation ${seed} ${index}`).chance(0.06),
  }
}

function stepsOf(random: Random, options: PlanOptions & Pick<Plan, 'users' | 'places'>): Step[] {
  const { replicas: replicaCount, processes, length, users, places } = options
  const count = Math.round(length / 20)
  const weights = {
    call: 70,
    logout: 2,
    end_others: 1,
    revoke_user: 1,
    provider_logout: 2,
    login: 3,
    break: processes ? 0 : 3,
  }
  const steps = Array.from({ length: count }, (): Step => {
    const at = random.between(0, length)
    const kind = random.weighted(weights)
    const replica = random.below(replicaCount)
    const place = random.below(places.length)
    if (kind === 'revoke_user') return { at, kind, user: random.below(users), replica }
    if (kind === 'break') {
      const fault = random.weighted({ cut: 2, stall: 1, deaf: 1 })
      return { at, kind, replica, fault, ms: random.between(30, 500) }
    }
    if (kind === 'provider_logout') {
      // A provider that is not told of success tries again, at whichever replica.
      const replicas = [replica, random.below(replicaCount)]
      return { at, kind, place, of: random.chance(0.6) ? 'session' : 'user', replicas }
    }
    if (kind !== 'call') return { at, kind, place, replica }
    return {
      at,
      kind,
      place,
      upstream: random.chance(0.5) ? 'api' : 'reports',
      // A page asks for several things at once, and a load balancer spreads them.
      replicas: Array.from({ length: Number(random.weighted({ 1: 5, 2: 3, 5: 2 })) }, () => random.below(replicaCount)),
      method: random.chance(0.8) ? 'GET' : 'POST',
      refuse: random.chance(0.05),
    }
  })
  if (processes) steps.push({ at: random.between(0, length), kind: 'kill', replica: random.below(replicaCount) })
  return steps
}
