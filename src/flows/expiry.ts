import type { Elapsed } from '../core/clock.ts'
import { succeeds } from '../core/succeeds.ts'
import type { ExpiryStore, OutboxStore } from '../store/store.ts'
import type { NoteEnded } from './end-session.ts'
import type { Revoker } from './revocation.ts'

/** Ends sessions when they are due and empties the outbox, with no request needed. */
export interface Expiry {
  start(): void
  /** Visits the bucket of an id at once: something was put into its outbox. */
  soon(id: string): void
  /** Visits the bucket of a session when it is due that began with less than an idle timeout left, in milliseconds. */
  within(sessionId: string, inMs: number): void
  /** Resolves when what was under way is done. */
  stop(): Promise<void>
}

/** What the sweep needs. */
export interface ExpiryDeps {
  store: ExpiryStore & OutboxStore & { ping(bucket: number): Promise<void> }
  noteEnded: NoteEnded
  revoker: Revoker
  elapsed: Elapsed
  /** From 0 to 1. */
  random: () => number
  /** After an outage of the store other replicas are given this long to write the activity they remember. */
  settlingMs: number
  /** Nothing new can be due sooner than this. */
  idleTimeoutMs: number
}

const tickMs = 50
/** A bucket is visited at least this often, to find what a replica that died left in its outbox. */
const longestWaitMs = 30_000
/** Spreads the visits of replicas, so that mostly one finds the work and the others find it done. */
const jitterMs = 250
/** For so many revocations at once it is worth while to ask the store. */
const leastRoom = 8

/**
 * Every replica visits each bucket when its next deadline comes: the first ends what is due, atomically, the others find
 * nothing. A visit tells when the next is worth while; a session that is opened meanwhile cannot be due before its idle
 * timeout unless this is told {@link Expiry.within}, and deadlines only ever move away. Outboxes are visited apart from
 * that: no deadline waits for the provider. Buckets that cannot be visited hold up no others, once it is known which.
 */
export function createExpiry(deps: ExpiryDeps): Expiry {
  const { store, revoker, elapsed, random } = deps
  const underWay = new Set<Promise<void>>()
  const all = Array.from({ length: store.buckets }, (_, bucket) => bucket)
  /** Buckets that cannot be visited, and are left alone: a store in several parts may lack one of them. */
  const silent = new Set<number>()
  /** Buckets to which a visit has failed since it was last asked which are there. Nothing is visited then. */
  const failed = new Set<number>()
  /** When visits to buckets failed last, and until when those are let be that are there, and failed again soon after. */
  const failedAt = all.map(() => Number.NEGATIVE_INFINITY)
  const restUntil = all.map(() => Number.NEGATIVE_INFINITY)
  /** When each bucket may be swept. */
  const sweepFrom = all.map(() => Number.NEGATIVE_INFINITY)
  let listenFrom = Number.NEGATIVE_INFINITY
  let timer: NodeJS.Timeout | undefined
  let lastClaim: Promise<unknown> = Promise.resolve()

  const track = (work: Promise<void>) => {
    const tracked = work.finally(() => underWay.delete(tracked))
    underWay.add(tracked)
  }

  /** Visits each bucket whenever the work says that it is worth while, one visit at a time. */
  const createRound = (work: (bucket: number) => Promise<number>) => {
    const visitAt = all.map(() => random() * jitterMs)
    const visiting = new Set<number>()

    const visit = async (bucket: number) => {
      // What is put into the outbox during the visit asks for another one.
      visitAt[bucket] = Number.POSITIVE_INFINITY
      let waitMs = jitterMs
      try {
        waitMs = Math.min(await work(bucket), longestWaitMs)
      } catch {
        failed.add(bucket)
      }
      const next = elapsed() + waitMs + random() * jitterMs
      visitAt[bucket] = Math.min(visitAt[bucket] ?? next, next)
    }

    return {
      /** Makes the next visit come no later than so many milliseconds from now. */
      within(bucket: number, waitMs: number) {
        visitAt[bucket] = Math.min(visitAt[bucket] ?? 0, elapsed() + waitMs)
      },
      visitDue() {
        const now = elapsed()
        for (const [bucket, at] of visitAt.entries()) {
          if (at > now || visiting.has(bucket) || silent.has(bucket) || Number(restUntil[bucket]) > now) continue
          visiting.add(bucket)
          track(visit(bucket).finally(() => visiting.delete(bucket)))
        }
      },
    }
  }

  const sweeps = createRound(async bucket => {
    const restMs = (sweepFrom[bucket] ?? 0) - elapsed()
    if (restMs > 0) return restMs
    const { found, nextInMs } = await store.sweep(bucket)
    for (const ended of found) deps.noteEnded(ended)
    return Math.min(nextInMs ?? longestWaitMs, deps.idleTimeoutMs)
  })

  /** Buckets whose outbox holds more than there was room for. */
  const crowded = new Set<number>()

  const outboxes = createRound(bucket => {
    // One after the other: how many entries may be taken is known when the claim before has taken its own.
    const claim = lastClaim.then(async () => {
      const limit = failed.size > 0 || timer === undefined ? 0 : revoker.free()
      if (limit <= 0) {
        crowded.add(bucket)
        return jitterMs
      }
      const { found, nextInMs } = await store.claimRevocations(bucket, limit)
      if (found.length === limit) crowded.add(bucket)
      for (const entry of found) {
        void revoker.take(entry).then(retryInMs => {
          if (retryInMs !== null) outboxes.within(bucket, retryInMs)
          goOn()
        })
      }
      return nextInMs ?? longestWaitMs
    })
    lastClaim = claim.catch(() => {})
    return claim
  })

  /** A long queue does not wait for ticks, nor ask the store for each entry of it. */
  const goOn = () => {
    if (revoker.free() < leastRoom) return
    for (const bucket of crowded) {
      crowded.delete(bucket)
      outboxes.within(bucket, 0)
      return outboxes.visitDue()
    }
  }

  /** Which of them can be visited. Others may not have been able to write there until now, and are given the time. */
  const find = async (buckets: readonly number[]) => {
    const there = await Promise.all(buckets.map(bucket => succeeds(store.ping(bucket))))
    for (const [index, bucket] of buckets.entries()) {
      if (there[index]) silent.delete(bucket)
      else silent.add(bucket)
      sweepFrom[bucket] = elapsed() + deps.settlingMs
    }
  }

  /** What comes and goes all the time leaves the others a round in between. */
  const listenLater = () => {
    listenFrom = elapsed() + (silent.size < all.length ? deps.settlingMs + jitterMs : jitterMs)
  }

  /** A visit has failed: nobody knows which buckets were away just now, and for how long. */
  const takeStock = async () => {
    await find(all)
    const now = elapsed()
    for (const bucket of failed) {
      // It has a trouble of its own, which must not become that of all.
      const again = now - Number(failedAt[bucket]) < 5 * deps.settlingMs
      if (again && !silent.has(bucket)) restUntil[bucket] = now + longestWaitMs
      failedAt[bucket] = now
    }
    failed.clear()
    listenLater()
  }

  let listening = false
  /** Asks for one of those that were away, any of them, since not all come back together; then for the rest. */
  const listen = async () => {
    listening = true
    const away = [...silent]
    const any = Math.min(Math.floor(random() * away.length), away.length - 1)
    await find(away.slice(any, any + 1))
    if (silent.size < away.length) await find([...silent])
    listenLater()
    listening = false
  }

  const tick = () => {
    if (failed.size > 0) {
      if (underWay.size === 0) track(takeStock())
      return
    }
    if (silent.size > 0 && !listening && elapsed() >= listenFrom) track(listen())
    sweeps.visitDue()
    outboxes.visitDue()
  }

  return {
    start() {
      timer = setInterval(tick, tickMs)
      timer.unref()
    },
    soon(id) {
      outboxes.within(store.bucketOf(id), 0)
      if (timer !== undefined) setImmediate(tick)
    },
    within: (sessionId, inMs) => sweeps.within(store.bucketOf(sessionId), inMs),
    async stop() {
      clearInterval(timer)
      timer = undefined
      await Promise.all(underWay)
      await revoker.idle()
    },
  }
}
