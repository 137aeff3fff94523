import { type Challenge, type ChallengeStyle, type Demand, demandOf } from '../core/challenge.ts'
import { BadRequest, StepUpFailed, StepUpRequired } from '../core/errors.ts'
import type { Audit } from '../core/events.ts'
import { hash, isRandomToken, randomToken } from '../core/random.ts'
import { type Session, type StoredSession, sessionHandle } from '../core/session.ts'
import { type StepUp, stepUpFor } from '../core/step-up.ts'
import type { StepUpStore } from '../store/store.ts'
import type { AccessTokens, TokenAudience } from './access-token.ts'

/** Stronger logins, when the provider or an upstream asks for them. */
export interface StepUps {
  /** The demand in an upstream's 401, if there is one that a login or a refresh may meet. */
  demandIn(wwwAuthenticate: string | string[] | undefined): Demand | null
  /**
   * Another access token, which meets what an upstream demands; null when none is to be had without the user, or one was
   * asked for a short time ago.
   *
   * @throws as {@link AccessTokens.get}
   */
  refreshFor(stored: StoredSession, audience: TokenAudience, demand: Demand): Promise<string | null>
  /**
   * What work for a session comes to; where that is {@link StepUpRequired}, the error is made one that {@link answer} gives.
   *
   * @throws what the work throws
   */
  offering<T>(session: Session, work: Promise<T>): Promise<T>
  /**
   * The answer to a request that only a login helps, with a handle.
   *
   * @throws {StepUpFailed} when such logins have not helped {@link mostStepUps} times in {@link stepUpLifetime}
   * @throws {StoreUnavailable}
   */
  answer(session: Session, challenge: Challenge): Promise<StepUpRequired>
  /**
   * What is behind a handle, once, and for the session that it was given to.
   *
   * @throws {BadRequest} when there is nothing behind it
   * @throws {StepUpFailed} @throws {StoreUnavailable}
   */
  take(handle: string, sessionId: string | null): Promise<StepUp>
  /**
   * Counts a login that came back from the provider, however it went. Those that a browser began and left do not count: a
   * page may send it to one after the other in a moment.
   *
   * @throws {StoreUnavailable}
   */
  count(stepUp: StepUp, sessionId: string | null): Promise<void>
}

/** How many logins for one challenge come back before it counts as one that logins do not meet. */
export const mostStepUps = 3
/** Handles that may wait for one challenge: enough for a page that asks again and again, and an end to what it costs. */
const mostHandles = 300

/** What stronger logins need. */
export interface StepUpDeps {
  store: StepUpStore
  accessTokens: Pick<AccessTokens, 'satisfy'>
  challengeStyle: ChallengeStyle
  audit: Audit
}

export function createStepUps({ store, accessTokens, challengeStyle, audit }: StepUpDeps): StepUps {
  const counterOf = (lineage: string, challenge: Challenge, what: 'returned' | 'offered') =>
    hash(JSON.stringify([what, lineage, challenge.key]))
  // Whoever has the handle but not the session finds nothing, and spends nothing.
  const idOf = (handle: string, sessionId: string) => hash(`${handle}.${sessionId}`)

  const refuseIfVain = async ({ lineage, challenge }: StepUp) => {
    const count = await store.countStepUp(counterOf(lineage, challenge, 'returned'), 0)
    if (count >= (challenge.messageOnly ? 1 : mostStepUps))
      throw new StepUpFailed({ detail: `${count} step-ups in a short time` })
  }

  const answer: StepUps['answer'] = async (session, challenge) => {
    const stepUp = stepUpFor(session, challenge)
    await refuseIfVain(stepUp)
    const offered = await store.countStepUp(counterOf(stepUp.lineage, challenge, 'offered'), 1)
    if (offered > mostHandles) throw new StepUpFailed({ detail: 'too many step-ups are offered and not taken' })
    const handle = randomToken()
    await store.putStepUp(idOf(handle, session.id), stepUp)
    return new StepUpRequired({ challenge, handle })
  }

  return {
    answer,
    demandIn: header => demandOf(header, challengeStyle),

    async refreshFor(stored, audience, { claims }) {
      return claims === undefined ? null : accessTokens.satisfy(stored, audience, claims)
    },

    async offering(session, work) {
      try {
        return await work
      } catch (error) {
        if (error instanceof StepUpRequired && error.challenge !== undefined)
          throw await answer(session, error.challenge)
        throw error
      }
    },

    async take(handle, sessionId) {
      const sound = isRandomToken(handle) && sessionId !== null
      const stepUp = sound ? await store.takeStepUp(idOf(handle, sessionId)) : null
      if (stepUp === null) throw new BadRequest('This address for signing in was used before, or is not yours.')
      await refuseIfVain(stepUp)
      return stepUp
    },

    async count({ lineage, challenge }, sessionId) {
      const attempt = await store.countStepUp(counterOf(lineage, challenge, 'returned'), 1)
      const session = sessionHandle(sessionId ?? lineage)
      audit({ event: 'step_up_attempted', session, upstream: challenge.upstream, attempt })
    },
  }
}
