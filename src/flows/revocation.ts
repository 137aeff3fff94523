import { setTimeout as sleep } from 'node:timers/promises'
import type { Audit, RevocationOutcome, RevocationReason } from '../core/events.ts'
import { randomToken } from '../core/random.ts'
import { handleOfRefreshToken, refreshTokenId } from '../core/session.ts'
import { succeeds } from '../core/succeeds.ts'
import type { Provider, Revocation } from '../oidc/provider.ts'
import type { OutboxStore, QueuedRevocation } from '../store/store.ts'
import { insist } from './insist.ts'

/** Revokes what the outbox holds. */
export interface Revoker {
  /** How many more entries it can take on. */
  free(): number
  /**
   * Takes on an entry that this process has claimed: tries it once and settles it. Resolves with the milliseconds after
   * which it is due again, null when it is not. Never throws.
   */
  take(entry: QueuedRevocation): Promise<number | null>
  /** Resolves when nothing is under way. */
  idle(): Promise<void>
}

/**
 * Revokes a token that belongs to no session: queued where that is possible, due at once or in `dueInMs`, and without the
 * queue where it is not, no sooner. Never throws.
 */
export type RevokeToken = (token: string, reason: RevocationReason, dueInMs?: number) => void

/** Provider calls at a time, in one process. */
const concurrency = 16
/** An entry is given up after a day. */
const giveUpAfterMs = 86_400_000
const [firstRetryMs, longestRetryMs] = [1000, 300_000]
/** A store that is away for longer is told by the end of the claim. */
const settleForMs = 3000

export interface RevokerDeps {
  store: Pick<OutboxStore, 'settleRevocation'>
  provider: Pick<Provider, 'revoke'>
  audit: Audit
  /** From 0 to 1. */
  random: () => number
}

/**
 * Tries each entry once per claim. A failure is tried again with exponential backoff and jitter, or when the provider
 * asks for it (`Retry-After`), until a day has passed. Should this process die, the claim runs out and another takes it.
 */
export function createRevoker({ store, provider, audit, random }: RevokerDeps): Revoker {
  const underWay = new Set<Promise<number | null>>()

  const settle = async (id: string, retryInMs: number | null) => {
    await insist(() => store.settleRevocation(id, retryInMs), settleForMs)
    return retryInMs
  }

  const attempt = async ({ id, token, reason, attempts, queuedForMs }: QueuedRevocation) => {
    const session = handleOfRefreshToken(id)
    const record = (outcome: RevocationOutcome) => audit({ event: 'revocation', session, reason, outcome, attempts })
    // One that cannot be opened here may be opened elsewhere: a new key comes to one replica after the other.
    const result: Revocation =
      token === null ? { outcome: 'failed', retryAfter: undefined } : await provider.revoke(token)
    if (result.outcome !== 'failed') {
      record(result.outcome)
      return settle(id, null)
    }
    if (queuedForMs >= giveUpAfterMs) {
      record('gave_up')
      return settle(id, null)
    }
    if (attempts === 1) record('pending')
    const backoffMs = Math.min(firstRetryMs * 2 ** (attempts - 1), longestRetryMs) * (0.5 + random() / 2)
    return settle(id, Math.max(backoffMs, (result.retryAfter ?? 0) * 1000))
  }

  return {
    free: () => concurrency - underWay.size,
    take(entry) {
      // What cannot be settled is claimed again when the lease is over; revoking twice does no harm (RFC 7009 §2.2).
      const work = attempt(entry)
        .catch(() => null)
        .finally(() => underWay.delete(work))
      underWay.add(work)
      return work
    },
    async idle() {
      await Promise.all(underWay)
    },
  }
}

/**
 * The store and the provider may both be away, and this process holds the only copy: it tries one and the other in turn,
 * for as long as it lives and a day at most.
 */
export function createRevokeToken(deps: {
  store: Pick<OutboxStore, 'queueRevocation'>
  provider: Pick<Provider, 'revoke'>
  audit: Audit
  revokeSoon: (id: string) => void
}): RevokeToken {
  const { store, provider, audit, revokeSoon } = deps

  const pursue = async (id: string, token: string, reason: RevocationReason, dueInMs: number) => {
    const record = (outcome: RevocationOutcome, attempts: number) =>
      audit({ event: 'revocation', session: handleOfRefreshToken(id), reason, outcome, attempts })
    let [attempts, waitedMs, retryMs] = [0, 0, firstRetryMs]
    while (waitedMs < giveUpAfterMs) {
      attempts += 1
      const leftMs = Math.max(0, dueInMs - waitedMs)
      const queued = await succeeds(store.queueRevocation(id, token, { reason, dueInMs: leftMs }))
      if (queued) return revokeSoon(id)
      if (leftMs === 0) {
        const { outcome } = await provider.revoke(token)
        if (outcome !== 'failed') return record(outcome, attempts)
      }
      if (attempts === 1) record('pending', attempts)
      await sleep(retryMs, undefined, { ref: false })
      waitedMs += retryMs
      retryMs = Math.min(retryMs * 2, longestRetryMs)
    }
    record('gave_up', attempts)
  }

  return (token, reason, dueInMs = 0) => void pursue(refreshTokenId(randomToken(), 0), token, reason, dueInMs)
}
