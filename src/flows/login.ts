import type { Clock } from '../core/clock.ts'
import { createDpopKey } from '../core/dpop.ts'
import { BadRequest, LoginRejected, type LoginRejection } from '../core/errors.ts'
import type { Audit } from '../core/events.ts'
import { type ReturnUrlRules, safeReturnUrl } from '../core/return-url.ts'
import {
  type Client,
  type EndReason,
  indexesOf,
  openSession,
  type Session,
  sessionHandle,
  siblingIndexOf,
  userHandle,
} from '../core/session.ts'
import { authenticatedAnew, type StepUp, shortcomingOf } from '../core/step-up.ts'
import { accessTokenFrom } from '../core/token-set.ts'
import { beganAt, openTransaction, type Transaction, transactionId } from '../core/transaction.ts'
import type { Provider } from '../oidc/provider.ts'
import type { IndexStore, Lookup, SessionStore, StoreInstant, TransactionStore } from '../store/store.ts'
import type { EndSession } from './end-session.ts'
import type { RevokeToken } from './revocation.ts'
import type { StepUps } from './step-up.ts'

/** What a browser may ask of a login. */
export interface LoginRequest {
  returnUrl: string
  prompt: 'none' | 'login' | 'select_account' | 'consent' | undefined
  loginHint: string | undefined
  /** Of a login that is to be stronger than the one before. */
  stepUp: string | undefined
  /** The session that the browser's cookie names, live or not. */
  previousSessionId: string | null
}

/** Where the browser goes, and what ties it to the login. */
export interface StartedLogin {
  authorizationUrl: string
  state: string
  binding: string
}

/** How a callback ended well: with a session, or with the provider's answer that a silent login is not to be had. */
export type FinishedLogin =
  | { outcome: 'opened'; cookie: string; returnUrl: string }
  | { outcome: 'silently_refused'; returnUrl: string }

/** What comes back from the provider, and who brings it. */
export interface Callback {
  query: URLSearchParams
  state: string
  binding: string
  client: Client
}

/** Logging in: the two halves of the code flow, tied together by a transaction that is taken once. */
export interface LoginFlow {
  /**
   * @throws {BadRequest} when the return URL is not a page of this application, or the step-up not one of this session
   * @throws {StepUpFailed} when such logins have not helped a number of times
   * @throws {ProviderUnavailable} @throws {StoreUnavailable}
   */
  start(request: LoginRequest): Promise<StartedLogin>
  /**
   * Opens a new session and ends the one that the browser held at the start. At most one call per transaction gets as
   * far as the token endpoint, on whatever replica. Tokens obtained by a login that then fails are revoked.
   *
   * @throws {LoginRejected} @throws {ProviderUnavailable}
   * @throws {StoreUnavailable} before the transaction is spent, so that a reload may succeed, or after
   */
  finish(callback: Callback): Promise<FinishedLogin>
}

/** What the login needs. */
export interface LoginDeps {
  store: TransactionStore & SessionStore & IndexStore
  provider: Pick<Provider, 'authorizationUrl' | 'exchangeCode'>
  stepUps: Pick<StepUps, 'take' | 'count'>
  endSession: EndSession
  revokeToken: RevokeToken
  /** Told of a session that may be over before its idle timeout. */
  dueWithin: (sessionId: string, inMs: number) => void
  /** Ends the oldest sessions of a user who has too many. */
  enforceLimit: (session: Session) => Promise<void>
  audit: Audit
  clock: Clock
  /** From 0 to 1. */
  random: () => number
  absoluteTimeoutMs: number
  /** Whether a new login at the provider may go by the grant of the one before. */
  sharedGrants: boolean
  returnUrlRules: ReturnUrlRules
  /** Reads a session without touching it. */
  look: (sessionId: string) => Promise<Lookup | null>
  /** What a login asks of the provider when the browser's session has expired: `sso` is nothing. */
  reauth: 'sso' | 'select_account' | 'login'
  /** Whether the tokens of new sessions are bound to a key (RFC 9449). */
  dpop: boolean
}

/** What an attempt to log in without being seen may come to: nobody is signed in, or somebody has to act. */
const silently: readonly LoginRejection[] = ['denied', 'consent_required', 'interaction_required']

/** The login was of a grant of its own, or there is no session that could go on. */
const standAlone: readonly LoginRejection[] = ['another_user', 'stale']

/** Ends that nobody wished for. */
const deadlines: readonly EndReason[] = ['idle', 'absolute']

export function createLoginFlow(deps: LoginDeps): LoginFlow {
  const { store, provider, audit, clock } = deps

  /**
   * What a session takes over from the one that it follows: its place in the chain of step-ups and, unless the user was
   * authenticated anew, the time that was left. Otherwise a demand of an upstream, met in silence by the provider's own
   * session, would make a session last for ever.
   */
  const continueFrom = async (previousId: string | null, stepUp: StepUp, session: Session) => {
    const { claims, slot } = stepUp.challenge
    session.lineage = stepUp.lineage
    if (claims !== undefined) session.demanded = { slot, claims }
    const anew = authenticatedAnew(stepUp, session.identity)
    const found = previousId === null ? null : await deps.look(previousId)
    if (found?.state === 'live') return anew ? undefined : found.stored.absoluteExpiresInMs
    // Whoever signs in anew may do so after a deadline; a session that somebody has ended stays so.
    if (anew && found?.state === 'ended' && deadlines.includes(found.reason)) return undefined
    throw new LoginRejected('stale', { detail: 'the session that was to be continued has ended' })
  }

  /**
   * How long a token waits for its revocation while another session of this browser's goes on: the provider may know both
   * by one session or grant of its own, and take the other token along (RFC 7009 §2.1).
   */
  const graceMs = ({ stepUp }: Transaction) => (stepUp !== undefined || deps.sharedGrants ? deps.absoluteTimeoutMs : 0)

  /** Revokes the token of a login that failed, while the session of before goes on. */
  const giveUp = (token: string, error: unknown, transaction: Transaction) => {
    const rejected = error instanceof LoginRejected && standAlone.includes(error.reason)
    const alone = rejected || transaction.previousSessionId === null
    deps.revokeToken(token, 'login_failed', alone ? 0 : graceMs(transaction))
  }

  const redeem = async (transaction: Transaction, callback: Callback) => {
    let revocable: string | undefined
    try {
      const { nonce, codeVerifier, dpopKey, stepUp } = transaction
      const expected = { state: callback.state, nonce, codeVerifier, dpopKey, challenge: stepUp?.challenge }
      const login = await provider.exchangeCode(callback.query, expected, token => {
        revocable = token
      })
      const shortcoming = stepUp && shortcomingOf(stepUp, login, clock.now())
      if (shortcoming) throw new LoginRejected(shortcoming, { detail: `the step-up came to: ${shortcoming}` })
      const opened = openSession(login.identity, callback.client, clock.now(), dpopKey)
      const withinMs = stepUp && (await continueFrom(transaction.previousSessionId, stepUp, opened.session))
      // Index entries come first and the look for a mark last, so that whoever ends all sessions of a user meets this one.
      await store.addToIndexes(opened.session.id, indexesOf(opened.session))
      const access = accessTokenFrom(login.tokens, clock.now(), deps.random())
      const { refreshToken: refresh, idToken } = login.tokens
      await store.createSession(opened.session, { access, refresh, idToken }, withinMs)
      if (withinMs !== undefined) deps.dueWithin(opened.session.id, withinMs)
      return opened
    } catch (error) {
      if (revocable !== undefined) giveUp(revocable, error, transaction)
      throw error
    }
  }

  const refuseIfEnded = async (session: Session, startedAt: StoreInstant) => {
    const reason = await store.endedSince(indexesOf(session), startedAt)
    if (reason === null) return
    await deps.endSession(session.id, reason)
    throw new LoginRejected('stale', { detail: `the sessions of this user were ended meanwhile: ${reason}` })
  }

  const limit = async (session: Session) => {
    // One session too many for a while is better than a login refused over it.
    await deps.enforceLimit(session).catch(() => {})
  }

  /**
   * Sessions of the same one at the provider whose cookie the browser had lost when it came: it did not tell of them, and
   * where they share a grant with the new session, their ends would be its end. Logins side by side leave each other alone.
   */
  const lostBefore = async (session: Session, transaction: Transaction) => {
    const index = siblingIndexOf(session)
    if (!deps.sharedGrants || index === undefined) return []
    const siblings = (await store.findSessions(index)).map(({ session }) => session)
    return siblings.filter(({ createdAt }) => createdAt < beganAt(transaction)).map(({ id }) => id)
  }

  const replace = async (session: Session, transaction: Transaction) => {
    const { previousSessionId } = transaction
    const lost = await lostBefore(session, transaction).catch(() => [])
    const replaced = new Set([...(previousSessionId === null ? [] : [previousSessionId]), ...lost])
    for (const id of replaced) {
      try {
        await deps.endSession(id, 'replaced', graceMs(transaction))
      } catch {
        // The new session is open; to refuse it now would log the user out. The old one ends by its deadlines.
        audit({ event: 'session_not_ended', session: sessionHandle(id), reason: 'replaced' })
      }
    }
  }

  /** Without this, a user who is still signed in at the provider is let in again without a question. */
  const promptAfterExpiry = async (sessionId: string | null) => {
    if (deps.reauth === 'sso' || sessionId === null) return undefined
    const found = await deps.look(sessionId)
    const expired = found?.state === 'ended' && deadlines.includes(found.reason)
    return expired ? deps.reauth : undefined
  }

  return {
    async start(request) {
      const returnUrl = safeReturnUrl(request.returnUrl, deps.returnUrlRules)
      if (returnUrl === null) throw new BadRequest('returnUrl must lead to a page of this application')
      const { previousSessionId } = request
      const prompt = request.prompt ?? (await promptAfterExpiry(previousSessionId))
      const stepUp =
        request.stepUp === undefined ? undefined : await deps.stepUps.take(request.stepUp, previousSessionId)
      const { id, state, binding, transaction } = openTransaction(
        {
          returnUrl,
          silent: prompt === 'none',
          previousSessionId,
          ...(stepUp && { stepUp }),
          ...(deps.dpop && { dpopKey: createDpopKey() }),
        },
        clock.now(),
      )
      const { nonce, codeVerifier, dpopKey } = transaction
      // A hint at a user and the choice of one exclude each other.
      const known = prompt === 'select_account' ? undefined : stepUp?.loginHint
      const loginHint = request.loginHint ?? known
      const { challenge } = stepUp ?? {}
      const asked = { state, nonce, codeVerifier, dpopKey, prompt, loginHint, challenge }
      const authorizationUrl = await provider.authorizationUrl(asked)
      await store.putTransaction(id, transaction)
      return { authorizationUrl, state, binding }
    },

    async finish(callback) {
      const taken = await store.takeTransaction(transactionId(callback.state, callback.binding))
      if (taken === null || taken.transaction.expiresAt <= clock.now())
        throw new LoginRejected('stale', { detail: 'no such login is under way in this browser' })
      const { transaction, takenAt } = taken
      const { returnUrl, stepUp, previousSessionId } = transaction
      // One too few counted is better than a login refused over it.
      if (stepUp !== undefined) await deps.stepUps.count(stepUp, previousSessionId).catch(() => {})
      let opened: { cookie: string; session: Session }
      try {
        opened = await redeem(transaction, callback)
      } catch (error) {
        const refused = error instanceof LoginRejected && silently.includes(error.reason)
        if (transaction.silent && refused) return { outcome: 'silently_refused', returnUrl }
        throw error
      }
      const { session, cookie } = opened
      await refuseIfEnded(session, takenAt)
      audit({
        event: 'login_succeeded',
        session: sessionHandle(session.id),
        user: userHandle(session.identity),
      })
      await replace(session, transaction)
      await limit(session)
      return { outcome: 'opened', cookie, returnUrl }
    },
  }
}
