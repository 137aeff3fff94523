import { setTimeout as sleep } from 'node:timers/promises'
import type { Clock, Elapsed } from '../core/clock.ts'
import {
  NotAuthenticated,
  ProviderUnavailable,
  StepUpRequired,
  StoreUnavailable,
  TokenRefused,
} from '../core/errors.ts'
import type { Audit, SessionEvent } from '../core/events.ts'
import { randomToken } from '../core/random.ts'
import { type Session, type StoredSession, sessionHandle, userHandle } from '../core/session.ts'
import { type AccessToken, accessTokenFrom } from '../core/token-set.ts'
import type { Provider } from '../oidc/provider.ts'
import type { Refresh } from '../oidc/refresh.ts'
import {
  loginSlot,
  type RefreshStart,
  type RefreshStore,
  type Renewal,
  refreshLeaseMs,
  type SessionStore,
} from '../store/store.ts'
import type { RefreshTokens, TokenAudience } from './access-token.ts'
import type { Breaker } from './breaker.ts'
import type { EndSession } from './end-session.ts'
import type { RevokeToken } from './revocation.ts'

/** What refreshing needs. */
export interface RefreshDeps {
  store: RefreshStore & Pick<SessionStore, 'getSession'>
  provider: Pick<Provider, 'refresh' | 'renewedClaims'>
  breaker: Breaker
  endSession: EndSession
  revokeToken: RevokeToken
  audit: Audit
  clock: Clock
  elapsed: Elapsed
  /** From 0 to 1. */
  random: () => number
}

/** Refreshing, and the word from other replicas that wakes who waits for them. */
export interface Refreshing {
  refreshTokens: RefreshTokens
  dispatch(event: SessionEvent): void
}

type Granted = Extract<RefreshStart, { state: 'granted' }>
/** The lease came to nothing, and it makes sense to read again. */
type Again = { again: true }

/** How long to wait for another holder. */
const waitLimitMs = 11_000
/** Waiters are woken; this is for a word that was lost. */
const lostWordMs = 400
/** An earlier holder may be alive and trying to store what it has. */
const interruptedGraceMs = 1000
const [firstSaveRetryMs, longestSaveRetryMs] = [50, 500]

const loginAudience: TokenAudience = { slot: loginSlot, upstream: 'login', scope: undefined, resource: undefined }

/**
 * Refreshes the tokens of a session: under a lease, from what was read under it, and stored before anybody uses it. A
 * refresh token that was replaced is never presented again: every holder re-reads, and saving is fenced by version.
 */
export function createRefreshing(deps: RefreshDeps): Refreshing {
  const { store, provider, breaker, audit, clock, elapsed } = deps
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

  const whyGone = async (id: string) => {
    const { found } = await store.getSession(id, { active: false, pendingAgeMs: null })
    return new NotAuthenticated(found?.state === 'ended' ? found.reason : null)
  }

  /** Presents a token, and once more when it is not known whether the provider has seen it. */
  const present = async (token: string, granted: Granted, audience: TokenAudience): Promise<Refresh> => {
    const call = () => breaker.run(() => provider.refresh(token, granted.stored.session.identity, audience))
    try {
      return await call()
    } catch (error) {
      if (!(error instanceof ProviderUnavailable) || !error.ambiguous) throw error
      // Whatever comes now, the token may have been used up: a refusal then speaks of that and of no thief.
      granted.interrupted = true
      return await call()
    }
  }

  /** Keeps the new tokens and tries until the store takes them: they are the only ones there are. */
  const save = async (owner: string, { session, version }: StoredSession, renewal: Renewal) => {
    for (let retryMs = firstSaveRetryMs; ; retryMs = Math.min(retryMs * 2, longestSaveRetryMs)) {
      try {
        return await store.saveRefresh(session.id, owner, version, renewal)
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) throw error
        await sleep(retryMs)
      }
    }
  }

  const finish = async (owner: string, granted: Granted, audience: TokenAudience, result: Refreshed) => {
    const { stored, refreshToken } = granted
    const { session } = stored
    const access = accessTokenFrom(result.tokens, clock.now(), deps.random())
    const claims = result.claims && provider.renewedClaims(session.identity.claims, result.claims)
    const renewed = claims && { ...session, identity: { ...session.identity, claims } }
    const refresh = result.tokens.refreshToken ?? refreshToken ?? ''
    const renewal = { slot: audience.slot, access, refresh, session: renewed ?? undefined }
    const outcome = await save(owner, stored, renewal)
    if (outcome === 'gone') throw await whyGone(session.id)
    if (outcome === 'superseded') return null
    audit({ event: 'tokens_refreshed', session: sessionHandle(session.id), upstream: audience.upstream })
    return access
  }

  /** The provider says that the token is dead. Another holder may have replaced it; if not, this is the end. */
  const dead = async (owner: string, granted: Granted, audience: TokenAudience): Promise<Again> => {
    const { session, version } = granted.stored
    const now = await store.beginRefresh(session.id, { slot: audience.slot, owner, version, forced: false })
    // Also when the lease was lost on the way: its new holder may be the one who has replaced the token.
    if (now.state === 'changed' || now.state === 'held') return { again: true }
    if (now.state === 'gone') throw await whyGone(session.id)
    const reason = granted.interrupted ? 'rotation_lost' : 'refresh_token_dead'
    const [handle, user] = [sessionHandle(session.id), userHandle(session.identity)]
    if (granted.interrupted) audit({ event: 'rotation_lost', severity: 'high', session: handle })
    // The newest token that was ever stored is refused: somebody else may have used it (RFC 9700 §4.14.2).
    else audit({ event: 'refresh_token_reuse_suspected', severity: 'high', session: handle, user })
    await deps.endSession(session.id, reason)
    throw new NotAuthenticated(reason)
  }

  /** A refusal for one upstream may be about that upstream alone: the login's own token tells. */
  const refusedForUpstream = async (owner: string, granted: Granted, token: string, audience: TokenAudience) => {
    const confirmation = await present(token, granted, loginAudience)
    const judged = await judge(owner, granted, token, loginAudience, confirmation)
    if ('again' in judged) return judged
    throw new TokenRefused('forbidden', { detail: `no token is given for upstream ${audience.upstream}` })
  }

  const impostor = async (session: Session, result: Extract<Refresh, { outcome: 'impostor' }>) => {
    const [handle, user] = [sessionHandle(session.id), userHandle(session.identity)]
    audit({ event: 'identity_changed', severity: 'high', session: handle, user })
    if (result.tokens.refreshToken !== undefined) deps.revokeToken(result.tokens.refreshToken)
    await deps.endSession(session.id, 'identity_changed')
    return new NotAuthenticated('identity_changed')
  }

  const judge = async (
    owner: string,
    granted: Granted,
    token: string,
    audience: TokenAudience,
    result: Refresh,
  ): Promise<AccessToken | Again> => {
    const { session } = granted.stored
    if (result.outcome === 'refreshed') return (await finish(owner, granted, audience, result)) ?? { again: true }
    const { outcome, detail } = result
    audit({ event: 'refresh_failed', session: sessionHandle(session.id), upstream: audience.upstream, outcome, detail })
    if (outcome === 'impostor') throw await impostor(session, result)
    if (outcome === 'dead')
      return audience.slot === loginSlot
        ? dead(owner, granted, audience)
        : refusedForUpstream(owner, granted, token, audience)
    if (outcome === 'client_refused') {
      audit({ event: 'client_refused', severity: 'high', detail })
      throw new ProviderUnavailable({ ...(detail !== undefined && { detail }) })
    }
    if (outcome === 'unusable') {
      const { accessToken: access } = granted.stored
      await save(owner, granted.stored, {
        slot: audience.slot,
        access,
        refresh: result.refreshToken,
        session: undefined,
      })
    }
    if (outcome === 'interaction') throw new StepUpRequired({ ...(detail !== undefined && { detail }) })
    throw new TokenRefused('bad_upstream', { ...(detail !== undefined && { detail }) })
  }

  /** The session lasts as long as the login's own token, and no upstream gets another. */
  const withoutRefreshToken = async ({ stored }: Granted, { slot }: TokenAudience): Promise<never> => {
    const token = stored.accessToken
    if (slot !== loginSlot || (token !== null && clock.now() < token.expiresAt))
      throw new TokenRefused('bad_upstream', { detail: 'the provider gave no refresh token' })
    await deps.endSession(stored.session.id, 'tokens_expired')
    throw new NotAuthenticated('tokens_expired')
  }

  /** With the lease in hand. */
  const hold = async (owner: string, granted: Granted, audience: TokenAudience): Promise<AccessToken | Again> => {
    const { id } = granted.stored.session
    const { refreshToken } = granted
    const renewal = setInterval(() => store.renewRefresh(id, owner).catch(() => {}), refreshLeaseMs / 3)
    let saved = false
    try {
      if (refreshToken === null) return await withoutRefreshToken(granted, audience)
      const result = await present(refreshToken, granted, audience)
      const judged = await judge(owner, granted, refreshToken, audience, result)
      saved = !('again' in judged)
      return judged
    } finally {
      clearInterval(renewal)
      // What cannot be told now, the end of the lease tells.
      if (!saved) await store.abandonRefresh(id, owner, { unsure: granted.interrupted }).catch(() => {})
    }
  }

  const refreshTokens: RefreshTokens = async (stored, audience, { forced }) => {
    const { id } = stored.session
    const owner = randomToken()
    const giveUpAt = elapsed() + waitLimitMs
    let { version } = stored
    let interrupted = false
    while (elapsed() < giveUpAt) {
      const start = await store.beginRefresh(id, { slot: audience.slot, owner, version, forced })
      switch (start.state) {
        case 'gone':
          throw await whyGone(id)
        case 'cooldown':
          return null
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
          if (start.interrupted && !interrupted) {
            // The lease stays ours; should the earlier holder come back with what it has, the version tells.
            interrupted = true
            await sleep(interruptedGraceMs)
            break
          }
          const result = await hold(owner, { ...start, interrupted }, audience)
          if (!('again' in result)) return result
        }
      }
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

type Refreshed = Extract<Refresh, { outcome: 'refreshed' }>

/** Whether a token that another holder has stored answers the wish: another one than ours, or one that is still young. */
function isNews(token: AccessToken, wish: StoredSession, forced: boolean, now: number): boolean {
  if (now >= token.expiresAt) return false
  return forced ? token.value !== wish.accessToken?.value : now < token.refreshAt
}
