import type { Session, StoredSession } from '../core/session.ts'
import type { TokenSet } from '../core/token-set.ts'
import type { Transaction } from '../core/transaction.ts'

/**
 * Logins in progress.
 *
 * @throws {StoreUnavailable} from every method, when the store gives no definite answer
 */
export interface TransactionStore {
  /** Keeps a transaction until it is taken or `expiresAt` passes. */
  putTransaction(id: string, transaction: Transaction): Promise<void>
  /** Takes a transaction out. Of any number of callers, on any replica, exactly one gets it. */
  takeTransaction(id: string): Promise<Transaction | null>
}

/**
 * Sessions and their tokens.
 *
 * @throws {StoreUnavailable} from every method, when the store gives no definite answer
 */
export interface SessionStore {
  /** Keeps a new session; both deadlines start now, by the store's clock. */
  createSession(session: Session, tokens: TokenSet): Promise<void>
  /**
   * Reads a session, past its deadlines or not: the caller looks at the time left. With `slide` the idle deadline
   * starts anew, unless one has passed. A record that cannot be opened counts as absent.
   */
  getSession(id: string, options: { slide: boolean }): Promise<StoredSession | null>
  /** Takes a session out. Of any number of callers, on any replica, exactly one gets it, and with it the duty to revoke. */
  takeSession(id: string): Promise<StoredSession | null>
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

/** How long {@link LogoutStore} keeps an address, in seconds. */
export const logoutLifetime = 300

/** The lifetimes of sessions, in seconds. */
export interface Lifetimes {
  idleTimeout: number
  absoluteTimeout: number
}

/** Everything the gateway remembers. Two implementations: Redis, and this process's memory for development. */
export interface Store extends TransactionStore, SessionStore, LogoutStore {
  /** @throws {StoreUnavailable} when the store cannot serve */
  ping(): Promise<void>
  close(): Promise<void>
}
