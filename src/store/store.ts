import type { Challenge } from '../core/challenge.ts'
import type { RevocationReason, SessionEvent } from '../core/events.ts'
import type { EndReason, Session, StoredSession } from '../core/session.ts'
import type { StepUp } from '../core/step-up.ts'
import type { AccessToken, TokenSet } from '../core/token-set.ts'
import type { Transaction } from '../core/transaction.ts'

/** An instant on the store's own clock, in milliseconds; only good to be given back to the store. */
export type StoreInstant = number

/**
 * Logins in progress.
 *
 * @throws {StoreUnavailable} from every method, when the store gives no definite answer
 */
export interface TransactionStore {
  /** Keeps a transaction until it is taken or its lifetime is over. */
  putTransaction(id: string, transaction: Transaction): Promise<void>
  /** Takes a transaction out. Of any number of callers, on any replica, exactly one gets it. */
  takeTransaction(id: string): Promise<{ transaction: Transaction; takenAt: StoreInstant } | null>
}

/** A session that ended just now, by this call and no other. */
export interface EndedSession {
  session: Session
  reason: EndReason
  /** The one of {@link TokenSet}, when it was this call that was meant to end it. */
  idToken?: string | undefined
}

/** What a session id leads to: a live session, or for a day what became of it. */
export type Lookup =
  | { state: 'live'; stored: StoredSession }
  | { state: 'ended'; reason: EndReason; justEnded: EndedSession | null }

/** How a request touches the session that it reads. */
export interface Touch {
  /** Which access token to read along; none without it. */
  slot?: string
  /** A user stands behind the request. */
  active: boolean
  /** Activity seen earlier and not yet written, milliseconds ago. It counts even if its deadline has passed meanwhile. */
  pendingAgeMs: number | null
}

/**
 * Sessions, their access tokens and their deadlines.
 *
 * Deadlines go by the store's clock and are checked in every operation; only a session that exists is ever written to,
 * so nothing in flight revives one that has ended. Ending a session removes it, keeps the reason for a day and hands its
 * refresh token to the outbox in one atomic step: of any number of attempts on any replica exactly one succeeds.
 *
 * @throws {StoreUnavailable} from every method, when the store gives no definite answer
 */
export interface SessionStore {
  /**
   * Keeps a new session; both deadlines start now, but none lies further away than `withinMs`. Its access token is the one
   * of {@link loginSlot}.
   */
  createSession(session: Session, tokens: TokenSet, withinMs?: number): Promise<void>
  /**
   * A live session as it was found a moment ago: less than a second, and nothing has been heard of it since. Null when the
   * store must be asked, be it only since a use has to be written. Never throws.
   */
  sessionAtHand(id: string, use: Pick<Touch, 'slot' | 'active'>): StoredSession | null
  /**
   * Reads a session; one past a deadline ends. Activity moves the idle deadline, but is written at most once per
   * {@link touchIntervalMs}: `touched` tells the caller whether to remember it for {@link touchSessions}.
   */
  getSession(id: string, touch: Touch): Promise<{ found: Lookup | null; touched: boolean }>
  /** Writes activity that happened a while ago; ids that name no live session are passed over. */
  touchSessions(activities: readonly { id: string; ageMs: number }[]): Promise<void>
  /**
   * Those of many sessions that may have ended, in few commands: all that have, and now and then one that has not. Each part
   * of the store answers for itself, so that none waits for one that hangs. Touches nothing.
   */
  missingAmong(ids: readonly string[]): Promise<string[]>[]
  /** Ends a session; null when there is none. Its refresh token is due to be revoked at once, or in `revokeInMs`. */
  endSession(id: string, reason: EndReason, revokeInMs?: number): Promise<EndedSession | null>
}

/** What became of the wish to refresh the tokens of a session. */
export type RefreshStart =
  /** The lease is ours: nobody else presents the refresh token while we keep it. */
  | {
      state: 'granted'
      stored: StoredSession
      refreshToken: string | null
      /** An earlier holder may have used the token up, and saved nothing since. */
      interrupted: boolean
      /** That holder never gave the lease back: it may be alive and about to save. */
      mayReturn: boolean
    }
  /** Somebody else has refreshed since; read on. */
  | { state: 'changed'; stored: StoredSession }
  /** Somebody else is at it, or a forced refresh was granted too short a time ago. */
  | { state: 'held' | 'cooldown' }
  /** The provider refused this slot's token a moment ago; asking again would bring the same answer. */
  | { state: 'refused'; refusal: TokenRefusal }
  | { state: 'gone' }

/** How an upstream's token was refused, while the session and its refresh token are as good as before. */
export interface TokenRefusal {
  code: 'step_up_required' | 'forbidden' | 'bad_upstream'
  /** For the log. */
  detail: string | undefined
  /** What the user has to do. */
  challenge?: Challenge
}

/** What a refresh brought, to be stored before anybody uses it. */
export interface Renewal {
  slot: string
  /** Null when none came that is of use: what there was stays. */
  access: AccessToken | null
  /** The new one, or the old one where the provider goes on taking that. */
  refresh: string
  /** The session with new claims; undefined when they are as they were. */
  session: Session | undefined
}

/**
 * The refresh token of a session, held by one process at a time.
 *
 * The lease is this process's for {@link refreshLeaseMs} unless it is renewed, and comes to an end by itself when its
 * holder dies. Saving is fenced by the version at which it was granted: a slow holder never overwrites a newer token.
 *
 * @throws {StoreUnavailable} from every method, when the store gives no definite answer
 */
export interface RefreshStore {
  /**
   * Asks for the lease. `version` is that of the tokens on which the wish rests. `forced` is granted once per
   * {@link forcedCooldownMs} and session, or slot if it is also `demanding`: more is asked of the token than its scope,
   * and refusals of that are remembered apart.
   */
  beginRefresh(
    id: string,
    wish: { slot: string; owner: string; version: number; forced: boolean; demanding?: boolean },
  ): Promise<RefreshStart>
  renewRefresh(id: string, owner: string): Promise<void>
  /**
   * Stores what a refresh brought and ends the lease. `superseded`: somebody else has stored newer tokens. `gone`: the
   * session has ended meanwhile; the new refresh token is in the outbox, by the same atomic step.
   */
  saveRefresh(id: string, owner: string, version: number, renewal: Renewal): Promise<'saved' | 'superseded' | 'gone'>
  /**
   * Ends the lease with nothing stored. `unsure`: the provider may have used up the token; the next holder is told. A
   * `refused` slot is remembered for {@link refusalRestMs}.
   */
  abandonRefresh(id: string, owner: string, options: { unsure: boolean; refused?: RefusedSlot }): Promise<void>
}

/** A slot whose token was refused. */
export interface RefusedSlot {
  slot: string
  /** Refused was what was asked beyond its scope; without that there may well be a token. */
  demanding?: boolean
  refusal: TokenRefusal
}

/** How long a lease lasts without renewal: longer than a provider call. */
export const refreshLeaseMs = 15_000
/** How often at most an upstream's 401 makes a session refresh. */
export const forcedCooldownMs = 60_000
/** How long a refused token is not asked for again: the providers' own client libraries wait as long. */
export const refusalRestMs = 60_000

/** What a visit to a part of the store found. */
export interface Visit<T> {
  found: T[]
  /** When the next entry will be due, in milliseconds; null when there is none. */
  nextInMs: number | null
}

/** Sessions by deadline. The store is divided into parts, so that replicas share the work and each call stays small. */
export interface ExpiryStore {
  readonly buckets: number
  /** Ends the sessions of a bucket that are past a deadline, some hundred at a time. */
  sweep(bucket: number): Promise<Visit<EndedSession>>
}

/** A refresh token that is waiting to be revoked. */
export interface QueuedRevocation {
  id: string
  /** Null when the record can no longer be opened. */
  token: string | null
  reason: RevocationReason
  /** This attempt included. */
  attempts: number
  queuedForMs: number
}

/** Refresh tokens to be revoked, kept through crashes and outages. */
export interface OutboxStore {
  /** Queues a token that belongs to no session, under an id of its own; due at once, or in so many milliseconds. */
  queueRevocation(id: string, token: string, why: { reason: RevocationReason; dueInMs?: number }): Promise<void>
  /** Takes entries that are due for {@link leaseMs}: until then nobody else gets them, after it somebody does. */
  claimRevocations(bucket: number, limit: number): Promise<Visit<QueuedRevocation>>
  /** Removes an entry, or with `retryInMs` makes it due again. */
  settleRevocation(id: string, retryInMs: number | null): Promise<void>
  bucketOf(id: string): number
}

/** The slot of the access token that the login brought. */
export const loginSlot = 'login'

/** How long a claimed revocation is left alone: longer than a call to the provider can take. */
export const leaseMs = 30_000

/**
 * Sessions by user, by handle, by the provider's session. Entries are hints: they are written before the session, may
 * outlive it, and are pruned when read.
 */
export interface IndexStore {
  addToIndexes(id: string, indexes: readonly string[]): Promise<void>
  removeFromIndexes(id: string, indexes: readonly string[]): Promise<void>
  /** The live sessions of an index, oldest first. Looking at them does not touch them. */
  findSessions(index: string): Promise<StoredSession[]>
  /** Notes that all sessions of an index ended now, and why, for logins still in flight. */
  markIndexEnded(index: string, reason: EndReason): Promise<void>
  /** Why any of these indexes was ended after an instant; null when none was. */
  endedSince(indexes: readonly string[], instant: StoreInstant): Promise<EndReason | null>
}

/** Word of what happens to sessions on other replicas. It makes things faster; nothing relies on it. */
export interface SessionEvents {
  onSessionEvent(listener: (event: SessionEvent) => void): void
}

/**
 * Where a browser goes after a logout by script: the provider's address may carry what script must not see.
 *
 * @throws {StoreUnavailable} from every method, when the store gives no definite answer
 */
export interface LogoutStore {
  /** Keeps an address for 5 minutes. */
  putLogout(id: string, address: string): Promise<void>
  /** Takes an address out; exactly one caller gets it. */
  takeLogout(id: string): Promise<string | null>
}

/**
 * Stronger logins that are asked for.
 *
 * @throws {StoreUnavailable} from every method, when the store gives no definite answer
 */
export interface StepUpStore {
  /** Keeps what a login is to do for {@link stepUpLifetime}. */
  putStepUp(id: string, stepUp: StepUp): Promise<void>
  /** Takes it out; exactly one caller gets it. */
  takeStepUp(id: string): Promise<StepUp | null>
  /** Adds to a count, and tells it. It is forgotten {@link stepUpLifetime} after it began. */
  countStepUp(id: string, add: 0 | 1): Promise<number>
}

/**
 * Logout tokens that have done their work.
 *
 * @throws {StoreUnavailable} from every method, when the store gives no definite answer
 */
export interface LogoutTokenStore {
  isLogoutTokenSpent(id: string): Promise<boolean>
  /** Remembers a token for so long; false when it was remembered already. */
  spendLogoutToken(id: string, lifetimeMs: number): Promise<boolean>
}

/** How long {@link LogoutStore} keeps an address, in seconds. */
export const logoutLifetime = 300
/** How long it is remembered why a session ended, in milliseconds. */
export const tombstoneMs = 86_400_000

/** The lifetimes of sessions, in seconds. */
export interface Lifetimes {
  idleTimeout: number
  absoluteTimeout: number
}

/** How long before a deadline its approach is told, in milliseconds: a minute, or a third of a short idle timeout. */
export function warningMs(lifetimes: Lifetimes): number {
  return Math.min(60_000, Math.floor((lifetimes.idleTimeout * 1000) / 3))
}

/** How often activity of one session is written, in milliseconds: every 5 seconds, or a tenth of a short idle timeout. */
export function touchIntervalMs(lifetimes: Lifetimes): number {
  return Math.min(5000, lifetimes.idleTimeout * 100)
}

/** Everything the gateway remembers. Two implementations: Redis, and this process's memory for development. */
export interface Store
  extends TransactionStore,
    SessionStore,
    RefreshStore,
    ExpiryStore,
    OutboxStore,
    IndexStore,
    SessionEvents,
    LogoutStore,
    StepUpStore,
    LogoutTokenStore {
  /**
   * Asks the part of the store that holds a bucket, or any part of it.
   * @throws {StoreUnavailable} when that cannot serve
   */
  ping(bucket?: number): Promise<void>
  /** Whether it drops records to make room for others: sessions would end, and their refresh tokens live on. */
  evicts(): Promise<boolean>
  close(): Promise<void>
}
