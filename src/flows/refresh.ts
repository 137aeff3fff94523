import { setTimeout as sleep } from 'node:timers/promises'
import { challengeOf, mergeClaims } from '../core/challenge.ts'
import type { Clock, Elapsed } from '../core/clock.ts'
import { type GatewayError, ProviderUnavailable, StepUpRequired, TokenRefused } from '../core/errors.ts'
import type { SessionEvent } from '../core/events.ts'
import { randomToken } from '../core/random.ts'
import type { StoredSession } from '../core/session.ts'
import type { AccessToken } from '../core/token-set.ts'
import { type RefreshStore, refreshLeaseMs, type SessionStore, type TokenRefusal } from '../store/store.ts'
import type { RefreshTokens, TokenAudience } from './access-token.ts'
import { insist } from './insist.ts'
import { type Again, type Held, type Renew, whyGone } from './renew.ts'

/** What refreshing needs. */
export interface RefreshDeps {
  store: RefreshStore & Pick<SessionStore, 'getSession'>
  renew: Renew
  clock: Clock
  elapsed: Elapsed
}

/** Refreshing, and the word from other replicas that wakes who waits for them. */
export interface Refreshing {
  refreshTokens: RefreshTokens
  dispatch(event: SessionEvent): void
}

/** How long to wait for another holder. */
const waitLimitMs = 11_000
/** Waiters are woken; this is for a word that was lost. */
const lostWordMs = 400
/** An earlier holder may be alive and trying to store what it has: as soon as its link to the store is up again. */
const absentGraceMs = 3000

/**
 * Refreshes the tokens of a session: under a lease, from what was read under it, and stored before anybody uses it. A
 * refresh token that was replaced is never presented again: every holder re-reads, and saving is fenced by version.
 */
export function createRefreshing({ store, renew, clock, elapsed }: RefreshDeps): Refreshing {
  const waiters = new Map<string, Set<() => void>>()

  const word = (sessionId: string) =>
    new Promise<void>(resolve => {
      const siblings = waiters.get(sessionId) ?? new Set()
      const wake = () => {
        clearTimeout(timer)
        siblings.delete(wake)
        if (siblings.size === 0 && waiters.get(sessionId) === siblings) waiters.delete(sessionId)
        resolve()
      }
      const timer = setTimeout(wake, lostWordMs)
      waiters.set(sessionId, siblings.add(wake))
    })

  /** With the lease in hand. */
  const hold = async (held: Held, audience: TokenAudience): Promise<AccessToken | Again> => {
    const { owner } = held
    const { id } = held.stored.session
    const renewal = setInterval(() => store.renewRefresh(id, owner).catch(() => {}), refreshLeaseMs / 3)
    let refusal: TokenRefusal | null = null
    let saved = false
    try {
      const renewed = await renew(held, audience)
      saved = !('again' in renewed)
      return renewed
    } catch (error) {
      refusal = refusalOf(error)
      throw error
    } finally {
      clearInterval(renewal)
      const demanding = audience.claims !== undefined
      // Without a refresh token nobody was asked, and the answer changes when the access token is over.
      const asked = held.refreshToken !== null
      const refused = refusal === null || !asked ? {} : { refused: { slot: audience.slot, demanding, refusal } }
      // What cannot be told now, the end of the lease tells.
      if (!saved) await store.abandonRefresh(id, owner, { unsure: held.interrupted, ...refused }).catch(() => {})
    }
  }

  const begin = async (id: string, wish: Parameters<RefreshStore['beginRefresh']>[1]) => {
    try {
      return await store.beginRefresh(id, wish)
    } catch (error) {
      // The lease may be ours all the same, and would keep others waiting for as long as it lasts.
      insist(() => store.abandonRefresh(id, wish.owner, { unsure: false }), refreshLeaseMs).catch(() => {})
      throw error
    }
  }

  const refreshTokens: RefreshTokens = async (stored, audience, { forced }) => {
    const { id } = stored.session
    const owner = randomToken()
    const giveUpAt = elapsed() + waitLimitMs
    const wishOf = (version: number) => {
      const demanding = audience.claims !== undefined
      return { slot: audience.slot, owner, version, forced, demanding }
    }
    let { version } = stored
    // Whether the lease is ours and nothing was done with it yet.
    let idle = false
    try {
      while (elapsed() < giveUpAt) {
        const start = await begin(id, wishOf(version))
        switch (start.state) {
          case 'gone':
            throw await whyGone(store, id)
          case 'cooldown':
            return null
          case 'refused':
            throw errorOf(start.refusal, audience)
          case 'held':
            await word(id)
            break
          case 'changed': {
            const token = start.stored.accessToken
            if (token !== null && isNews(token, stored, forced, clock.now())) return token
            version = start.stored.version
            break
          }
          case 'granted': {
            idle = start.mayReturn
            if (idle) {
              // The lease stays ours; should the earlier holder come back with what it has, the version tells.
              await sleep(absentGraceMs)
              break
            }
            const result = await hold({ ...start, owner }, audience)
            // One that took so long to be stored that it is over is replaced in its turn.
            if (!('again' in result) && clock.now() < result.expiresAt) return result
          }
        }
      }
    } finally {
      if (idle) await store.abandonRefresh(id, owner, { unsure: false }).catch(() => {})
    }
    throw new ProviderUnavailable({ detail: 'another process is still refreshing', retryAfter: 1 })
  }

  return {
    refreshTokens,
    dispatch({ sessionId }) {
      for (const wake of [...(waiters.get(sessionId) ?? [])]) wake()
    },
  }
}

/** Whether a token that another holder has stored answers the wish: another one than ours, or one that is still young. */
function isNews(token: AccessToken, wish: StoredSession, forced: boolean, now: number): boolean {
  if (now >= token.expiresAt) return false
  return forced ? token.value !== wish.accessToken?.value : now < token.refreshAt
}

/** What to remember of an error, so that the next request need not ask the provider for it again. */
function refusalOf(error: unknown): TokenRefusal | null {
  if (error instanceof StepUpRequired)
    return { code: 'step_up_required', detail: error.detail, ...(error.challenge && { challenge: error.challenge }) }
  if (error instanceof TokenRefused)
    return { code: error.code === 'forbidden' ? 'forbidden' : 'bad_upstream', detail: error.detail }
  return null
}

/** What was remembered may be of another demand at the same upstream: the present one goes first. */
function errorOf({ code, detail, challenge: before }: TokenRefusal, audience: TokenAudience): GatewayError {
  const forLog = { ...(detail !== undefined && { detail }) }
  if (code !== 'step_up_required') return new TokenRefused(code, forLog)
  if (before === undefined || audience.claims === undefined)
    return new StepUpRequired({ ...forLog, ...(before && { challenge: before }) })
  const { key } = challengeOf(audience, { claims: audience.claims })
  const claims = mergeClaims(audience.claims, before.claims)
  return new StepUpRequired({ ...forLog, challenge: { ...before, key, claims } })
}
