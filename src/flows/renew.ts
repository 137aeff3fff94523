import { challengeOf, mergeClaims } from '../core/challenge.ts'
import type { Clock } from '../core/clock.ts'
import { NotAuthenticated, ProviderUnavailable, StepUpRequired, TokenRefused } from '../core/errors.ts'
import type { Audit } from '../core/events.ts'
import { refreshTokenId, type Session, sessionHandle, userHandle } from '../core/session.ts'
import { type AccessToken, accessTokenFrom } from '../core/token-set.ts'
import type { Provider } from '../oidc/provider.ts'
import type { Refresh } from '../oidc/refresh.ts'
import {
  loginSlot,
  type OutboxStore,
  type RefreshStart,
  type RefreshStore,
  type Renewal,
  type SessionStore,
} from '../store/store.ts'
import type { TokenAudience } from './access-token.ts'
import type { Breaker } from './breaker.ts'
import type { EndSession } from './end-session.ts'
import { insist } from './insist.ts'
import type { RevokeToken } from './revocation.ts'
import { createTurns } from './turns.ts'

/** A session whose refresh token is ours alone for now. */
export type Held = Omit<Extract<RefreshStart, { state: 'granted' }>, 'state'> & { owner: string }

/** It came to nothing, and it makes sense to read again. */
export type Again = { again: true }

/**
 * Presents the refresh token of a held session for an upstream's access token, stores what comes of it, and does what
 * the answer asks for. Sets `interrupted` on what it was given when the provider may have used up the token unheard.
 *
 * @throws {NotAuthenticated} when the session has ended, or ends over it
 * @throws {StepUpRequired} @throws {TokenRefused} when the provider gives no token for this upstream
 * @throws {ProviderUnavailable} the session is kept
 */
export type Renew = (held: Held, audience: TokenAudience) => Promise<AccessToken | Again>

/** What renewing needs. */
export interface RenewDeps {
  store: RefreshStore & Pick<SessionStore, 'getSession'> & Pick<OutboxStore, 'queueRevocation'>
  provider: Pick<Provider, 'refresh' | 'renewedClaims'>
  breaker: Breaker
  endSession: EndSession
  revokeToken: RevokeToken
  /** Told that the outbox has an entry under this id. */
  revokeSoon: (id: string) => void
  audit: Audit
  /** Whether the provider goes on taking a replaced token: one that it refuses then is neither lost nor stolen. */
  reusable: boolean
  clock: Clock
  /** From 0 to 1. */
  random: () => number
}

/** What the provider answered, and when it was asked, in milliseconds since the epoch: new tokens are that old. */
type Answer = Refresh & { askedAt: number }
type Refreshed = Extract<Answer, { outcome: 'refreshed' }>
type Impostor = Extract<Answer, { outcome: 'impostor' }>

/** Refreshes at a time, in one process: sessions that come by the thousand must not all connect at once. */
const concurrency = 100

const loginAudience: TokenAudience = { slot: loginSlot, upstream: 'login', scope: undefined, resource: undefined }

export function createRenew(deps: RenewDeps): Renew {
  const { store, provider, breaker, audit, clock } = deps
  const turns = createTurns(concurrency)

  /** Presents a token, and once more when it is not known whether the provider has seen it. */
  const present = async (held: Held, token: string, audience: TokenAudience): Promise<Answer | Again> => {
    // Whoever has waited for a turn may find the breaker open by then.
    const call = () => turns(() => breaker.run(() => ask(token, held.stored.session, audience)))
    try {
      return await call()
    } catch (error) {
      if (!(error instanceof ProviderUnavailable) || !error.ambiguous) throw error
      // Whatever comes now, the token may have been used up: a refusal then speaks of that and of no thief.
      held.interrupted = true
      // It took its time; another holder may have replaced the token since.
      return (await isStillOurs(held, audience)) ? await call() : { again: true }
    }
  }

  /** Whether the lease is still ours, and what we hold is still the session's newest token. */
  const isStillOurs = async ({ owner, stored }: Held, { slot }: TokenAudience): Promise<boolean> => {
    const { session, version } = stored
    const now = await store.beginRefresh(session.id, { slot, owner, version, forced: false })
    if (now.state === 'gone') throw await whyGone(store, session.id)
    return now.state === 'granted'
  }

  const ask = async (token: string, session: Session, audience: TokenAudience): Promise<Answer> => {
    const askedAt = clock.now()
    const result = await provider.refresh(token, session.identity, audience, session.dpopKey)
    if (result.outcome !== 'client_refused') return { ...result, askedAt }
    // Nobody's fault but the operator's: all sessions wait until the client is accepted again.
    throw new ProviderUnavailable({
      ...(result.detail !== undefined && { detail: result.detail }),
      advice: result.advice,
      isolated: result.ofOneTenant === true,
    })
  }

  /** Keeps the new tokens and tries until the store takes them: they are the only ones there are. False: too late. */
  const save = async (held: Held, renewal: Renewal): Promise<boolean> => {
    const { owner, stored } = held
    const { id } = stored.session
    const outcome = await insist(() => store.saveRefresh(id, owner, stored.version, renewal))
    if (outcome === 'gone') {
      deps.revokeSoon(id)
      throw await whyGone(store, id)
    }
    if (outcome === 'superseded') await setAside(held, renewal.refresh)
    return outcome === 'saved'
  }

  const finish = async (held: Held, audience: TokenAudience, result: Refreshed): Promise<AccessToken | Again> => {
    const { session, ...stored } = held.stored
    const { upstream, slot } = audience
    const before = stored.accessToken?.scope
    const access = accessTokenFrom(
      { ...result.tokens, scope: result.tokens.scope ?? before },
      result.askedAt,
      deps.random(),
    )
    const claims = result.claims && provider.renewedClaims(session.identity, result.claims)
    const renewed = claims === null ? undefined : { ...session, identity: { ...session.identity, claims } }
    const refresh = result.tokens.refreshToken ?? held.refreshToken ?? ''
    if (!(await save(held, { slot, access, refresh, session: renewed }))) return { again: true }
    const handle = sessionHandle(session.id)
    audit({ event: 'tokens_refreshed', session: handle, upstream })
    const changes = scopeChanges(before, access.scope)
    if (changes !== null) audit({ event: 'scope_changed', session: handle, upstream, ...changes })
    return access
  }

  /**
   * Somebody else's newer token is the session's now. This one may be alive too, but to revoke it may take the other
   * with it (RFC 7009 §2.1): it waits until the session is surely over.
   */
  const setAside = async ({ owner, stored }: Held, token: string) => {
    const id = `${refreshTokenId(stored.session.id, stored.version + 1)}~${owner}`
    await insist(() => store.queueRevocation(id, token, { reason: 'superseded', dueInMs: stored.absoluteExpiresInMs }))
  }

  /** The provider says that the token is dead. Another holder may have replaced it; if not, this is the end. */
  const dead = async (held: Held, audience: TokenAudience): Promise<Again> => {
    const { interrupted } = held
    const { session } = held.stored
    // If the lease was lost on the way, its new holder may be the one who has replaced the token.
    if (!(await isStillOurs(held, audience))) return { again: true }
    const reason = interrupted && !deps.reusable ? 'rotation_lost' : 'refresh_token_dead'
    const [handle, user] = [sessionHandle(session.id), userHandle(session.identity)]
    if (deps.reusable) audit({ event: 'refresh_token_dead', severity: 'medium', session: handle, user })
    else if (interrupted) audit({ event: 'rotation_lost', severity: 'high', session: handle })
    // The newest token that was ever stored is refused: somebody else may have used it (RFC 9700 §4.14.2).
    else audit({ event: 'refresh_token_reuse_suspected', severity: 'high', session: handle, user })
    await deps.endSession(session.id, reason)
    throw new NotAuthenticated(reason)
  }

  /** A refusal for one upstream may be about that upstream alone: the login's own token tells. */
  const refusedForUpstream = async (held: Held, token: string, audience: TokenAudience): Promise<Again> => {
    const confirmation = await present(held, token, loginAudience)
    if ('again' in confirmation) return confirmation
    // What was read with the session is this upstream's token, not the login's.
    const forLogin = { ...held, stored: { ...held.stored, accessToken: null } }
    const judged = await judge(forLogin, token, loginAudience, confirmation)
    if ('again' in judged) return judged
    throw new TokenRefused('forbidden', { detail: `no token is given for upstream ${audience.upstream}` })
  }

  const impostor = async ({ id, identity }: Session, { tokens }: Impostor): Promise<never> => {
    audit({ event: 'identity_changed', severity: 'high', session: sessionHandle(id), user: userHandle(identity) })
    if (tokens.refreshToken !== undefined) deps.revokeToken(tokens.refreshToken, 'identity_changed')
    // The token that the store still has is replaced, and must not be presented again.
    await insist(() => deps.endSession(id, 'identity_changed'))
    throw new NotAuthenticated('identity_changed')
  }

  const judge = async (
    held: Held,
    token: string,
    audience: TokenAudience,
    result: Answer,
  ): Promise<AccessToken | Again> => {
    if (result.outcome === 'refreshed') return finish(held, audience, result)
    const { session } = held.stored
    const { outcome, detail, advice } = result
    const { upstream } = audience
    audit({ event: 'refresh_failed', session: sessionHandle(session.id), upstream, outcome, detail, ...advice })
    if (outcome === 'impostor') return impostor(session, result)
    if (outcome === 'dead')
      return audience.slot === loginSlot ? dead(held, audience) : refusedForUpstream(held, token, audience)
    if (outcome === 'unusable') {
      const { refreshToken: refresh } = result
      const saved = await save(held, { slot: audience.slot, access: null, refresh, session: undefined })
      if (!saved) return { again: true }
    }
    const forLog = { ...(detail !== undefined && { detail }), advice }
    if (result.outcome === 'interaction') {
      const { claims, messageOnly = false } = result
      const challenge = challengeOf(audience, { claims: audience.claims ?? claims })
      const asked = mergeClaims(claims, audience.claims)
      throw new StepUpRequired({ ...forLog, challenge: { ...challenge, claims: asked, messageOnly } })
    }
    throw new TokenRefused('bad_upstream', forLog)
  }

  /** The session lasts as long as the login's own token, and no upstream gets another. */
  const withoutRefreshToken = async ({ stored }: Held, { slot }: TokenAudience): Promise<never> => {
    const token = stored.accessToken
    if (slot !== loginSlot || (token !== null && clock.now() < token.expiresAt))
      throw new TokenRefused('bad_upstream', { detail: 'the provider gave no refresh token' })
    await deps.endSession(stored.session.id, 'tokens_expired')
    throw new NotAuthenticated('tokens_expired')
  }

  return async (held, audience) => {
    const { refreshToken } = held
    if (refreshToken === null) return withoutRefreshToken(held, audience)
    const answer = await present(held, refreshToken, audience)
    return 'again' in answer ? answer : judge(held, refreshToken, audience, answer)
  }
}

/** The error for a session that is not there any more, with the reason if it is remembered. */
export async function whyGone(store: Pick<SessionStore, 'getSession'>, id: string): Promise<NotAuthenticated> {
  const { found } = await store.getSession(id, { active: false, pendingAgeMs: null })
  return new NotAuthenticated(found?.state === 'ended' ? found.reason : null)
}

const maximumNames = 20

/** What the new token may do and the old one might not, and the other way round; null when nothing changed. */
function scopeChanges(before: string | undefined, now: string | undefined) {
  if (before === undefined || now === undefined) return null
  const [old, young] = [new Set(before.split(' ')), new Set(now.split(' '))]
  const gained = [...young].filter(name => !old.has(name)).slice(0, maximumNames)
  const lost = [...old].filter(name => !young.has(name)).slice(0, maximumNames)
  return gained.length + lost.length === 0 ? null : { gained, lost }
}
