import type { Elapsed } from '../../core/clock.ts'
import type { EndReason } from '../../core/session.ts'

/** Ends of sessions that may have to be said again. */
export interface Ends {
  note(id: string, reason: EndReason): void
  /** Commands go to another server: says again what that one may not have heard. */
  sayAgain(): void
  stop(): void
}

/** Longer than a failover takes. */
const rememberedMs = 60_000
/** Bounds what is remembered; a deadline that has passed holds without it. */
const limit = 10_000
const atOnce = 500
/** Between two attempts: longer each time, while none helps. */
const [shortestRestMs, longestRestMs] = [500, 8000]

/**
 * A replica of Redis that becomes the master may lack the last writes, the end of a session among them: who had copied the
 * cookie would be let in again. So each gateway remembers the ends that it said or heard of, and says them again to the new
 * master. Waiting for Redis's replicas at each logout (WAIT) would hold up all that shares the link, and cannot be had where
 * there are none.
 */
export function createEnds(deps: { end: (id: string, reason: EndReason) => Promise<void>; elapsed: Elapsed }): Ends {
  const remembered = new Map<string, { reason: EndReason; at: number }>()
  let waiting = new Set<string>()
  let saying = false
  let restMs = shortestRestMs
  let stopped = false
  let timer: NodeJS.Timeout | undefined

  const prune = () => {
    const oldest = deps.elapsed() - rememberedMs
    for (const [id, { at }] of remembered) {
      if (at > oldest && remembered.size <= limit) return
      if (!waiting.has(id) || remembered.size > limit) remembered.delete(id)
    }
  }

  const say = async (round: Set<string>, id: string) => {
    const end = remembered.get(id)
    try {
      if (end !== undefined) await deps.end(id, end.reason)
      round.delete(id)
    } catch {
      // Said again later: the master of another shard may be away for longer, and holds up nothing here.
    }
  }

  const sayAll = async () => {
    if (saying) return
    saying = true
    const round = waiting
    const ids = [...round]
    for (let from = 0; from < ids.length && round === waiting && !stopped; from += atOnce)
      await Promise.all(ids.slice(from, from + atOnce).map(id => say(round, id)))
    saying = false
    restMs = round.size < ids.length ? shortestRestMs : Math.min(2 * restMs, longestRestMs)
    if (stopped || waiting.size === 0) return
    timer = setTimeout(() => void sayAll(), round === waiting ? restMs : 0).unref()
  }

  return {
    note(id, reason) {
      remembered.delete(id)
      remembered.set(id, { reason, at: deps.elapsed() })
      prune()
    },
    sayAgain() {
      prune()
      waiting = new Set(remembered.keys())
      restMs = shortestRestMs
      clearTimeout(timer)
      void sayAll()
    },
    stop() {
      stopped = true
      clearTimeout(timer)
    },
  }
}
