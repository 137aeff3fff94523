import type { Clock, Elapsed } from '../core/clock.ts'
import { ProviderUnavailable, StepUpRequired } from '../core/errors.ts'
import type { StoredSession } from '../core/session.ts'
import type { AccessToken } from '../core/token-set.ts'
import type { Audience } from '../oidc/refresh.ts'

/** An upstream's access token: where it is kept in a session, and what to ask the provider for. */
export interface TokenAudience extends Audience {
  slot: string
  /** For the log. */
  upstream: string
}

/** Gives upstreams their access tokens: never one that is over, never another upstream's. */
export interface AccessTokens {
  /**
   * The token for an upstream, if none has to be fetched. One that nears its end is replaced in the background while it is
   * still served, so that a request rarely waits and a short outage goes unseen.
   */
  atHand(stored: StoredSession, audience: TokenAudience): string | null
  /**
   * The token for an upstream, also if it has to be fetched.
   *
   * @throws {NotAuthenticated} when the session has ended, or ends over it
   * @throws {StepUpRequired} @throws {TokenRefused} when the provider gives no token for this upstream
   * @throws {ProviderUnavailable} @throws {StoreUnavailable} the session is kept
   */
  get(stored: StoredSession, audience: TokenAudience): Promise<string>
  /** Another token, after an upstream has refused this one; null when it is too soon for that, or none is to be had. */
  replace(stored: StoredSession, audience: TokenAudience): Promise<string | null>
  /**
   * Another token, asked for with the claims that an upstream demands; null when that was done a short time ago.
   *
   * @throws as {@link get}; {StepUpRequired} also when the provider has refused these claims a short time ago
   */
  satisfy(stored: StoredSession, audience: TokenAudience, claims: string): Promise<string | null>
  /** Resolves when no refresh is under way, its tokens stored. */
  idle(): Promise<void>
}

/** Refreshes; at most one at a time per session, across replicas. Null: a forced one that came too soon. */
export type RefreshTokens = (
  stored: StoredSession,
  audience: TokenAudience,
  options: { forced: boolean },
) => Promise<AccessToken | null>

export interface AccessTokensDeps {
  refreshTokens: RefreshTokens
  clock: Clock
  elapsed: Elapsed
}

/** How long a request waits for a refresh, and how long a failed one is let rest. */
const [patienceMs, restMs] = [12_000, 5000]
const mostResting = 10_000

export function createAccessTokens({ refreshTokens, clock, elapsed }: AccessTokensDeps): AccessTokens {
  const flights = new Map<string, Promise<AccessToken | null>>()
  /**
   * Until when no refresh is tried again in the background, or, after an answer that concerns this session alone, at
   * all: no breaker spares the provider then. By session and slot.
   */
  const resting = new Map<string, { until: number; isolated: boolean }>()

  const restOf = (stored: StoredSession, { slot }: TokenAudience) => {
    const key = `${stored.session.id} ${slot}`
    const rest = resting.get(key)
    const leftMs = (rest?.until ?? 0) - elapsed()
    if (leftMs > 0) return { leftMs, isolated: rest?.isolated === true }
    resting.delete(key)
    return null
  }

  const letRest = (stored: StoredSession, { slot }: TokenAudience, isolated: boolean) => {
    if (resting.size >= mostResting) resting.clear()
    resting.set(`${stored.session.id} ${slot}`, { until: elapsed() + restMs, isolated })
  }

  const fly = (stored: StoredSession, audience: TokenAudience, forced: boolean) => {
    const key = `${stored.session.id} ${audience.slot} ${forced} ${audience.claims ?? ''}`
    const known = flights.get(key)
    if (known !== undefined) return known
    const flight = refreshTokens(stored, audience, { forced })
      .catch(error => {
        if (error instanceof ProviderUnavailable && error.isolated) letRest(stored, audience, true)
        throw error
      })
      .finally(() => flights.delete(key))
    flights.set(key, flight)
    return flight
  }

  const flyInBackground = (stored: StoredSession, audience: TokenAudience) => {
    if (restOf(stored, audience) !== null) return
    fly(stored, audience, false).catch(() => {
      if (restOf(stored, audience) === null) letRest(stored, audience, false)
    })
  }

  /**
   * The first token of an upstream that a step-up was for is asked for with what the step-up has proved, so that a request
   * which cannot be sent twice is not refused again. A provider that does not see it so may well give a plain one.
   */
  const flyWithDemanded = async (stored: StoredSession, audience: TokenAudience) => {
    const { demanded } = stored.session
    if (stored.accessToken !== null || demanded?.slot !== audience.slot) return fly(stored, audience, false)
    try {
      return await fly(stored, { ...audience, claims: demanded.claims }, false)
    } catch (error) {
      if (!(error instanceof StepUpRequired)) throw error
      return fly(stored, audience, false)
    }
  }

  const atHand: AccessTokens['atHand'] = (stored, audience) => {
    const token = stored.accessToken
    const now = clock.now()
    if (token === null || now >= token.expiresAt) return null
    if (now >= token.refreshAt) flyInBackground(stored, audience)
    return token.value
  }

  return {
    atHand,

    async get(stored, audience) {
      const token = atHand(stored, audience)
      if (token !== null) return token
      const rest = restOf(stored, audience)
      if (rest?.isolated)
        throw new ProviderUnavailable({ detail: 'a failed refresh rests', retryAfter: Math.ceil(rest.leftMs / 1000) })
      const renewed = await patiently(flyWithDemanded(stored, audience))
      if (renewed === null) throw new ProviderUnavailable({ detail: 'no token came of the refresh' })
      return renewed.value
    },

    async replace(stored, audience) {
      const renewed = await patiently(fly(stored, audience, true)).catch(() => null)
      return renewed === null || renewed.value === stored.accessToken?.value ? null : renewed.value
    },

    async satisfy(stored, audience, claims) {
      return (await patiently(fly(stored, { ...audience, claims }, true)))?.value ?? null
    },

    async idle() {
      await Promise.allSettled(flights.values())
    },
  }
}

/** The refresh goes on, and what it brings is stored, when a request no longer waits for it. */
async function patiently<T>(flight: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const impatience = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new ProviderUnavailable({ detail: 'a refresh takes too long' })), patienceMs)
  })
  try {
    return await Promise.race([flight, impatience])
  } finally {
    clearTimeout(timer)
  }
}
