import type { DpopKey } from './dpop.ts'
import { hash, randomToken } from './random.ts'
import type { StepUp } from './step-up.ts'

/** How long a login may take at the provider, in seconds. */
export const transactionLifetime = 600

/** One login in progress, kept between the authorization request and the callback. */
export interface Transaction {
  nonce: string
  codeVerifier: string
  returnUrl: string
  /** Asked with `prompt=none`: a refusal is an answer, not a failure. */
  silent: boolean
  /** The session that the browser held when it left, to be ended once the new one is open. */
  previousSessionId: string | null
  /** What this login is to do better than the one before; absent for a login like any other. */
  stepUp?: StepUp
  /** To which the code and the tokens will be bound, where they are. */
  dpopKey?: DpopKey
  expiresAt: number
}

/** What a new login hands out: `state` to the provider, `binding` to the browser's cookie. */
export interface OpenedTransaction {
  id: string
  state: string
  binding: string
  transaction: Transaction
}

/** Opens a transaction whose state, nonce, verifier and binding are independent random values (RFC 9700 §2.1). */
export function openTransaction(
  login: Pick<Transaction, 'returnUrl' | 'silent' | 'previousSessionId' | 'stepUp' | 'dpopKey'>,
  now: number,
): OpenedTransaction {
  const state = randomToken()
  const binding = randomToken()
  return {
    id: transactionId(state, binding),
    state,
    binding,
    transaction: {
      ...login,
      nonce: randomToken(),
      codeVerifier: randomToken(),
      expiresAt: now + transactionLifetime * 1000,
    },
  }
}

/** When the login began. */
export function beganAt({ expiresAt }: Transaction): number {
  return expiresAt - transactionLifetime * 1000
}

/**
 * The name of a transaction in the store. It takes both halves to find it, so a callback opened in another browser
 * finds nothing and spends nothing (RFC 9700 §4.7).
 */
export function transactionId(state: string, binding: string): string {
  return hash(`${state}.${binding}`)
}

/** Tells the binding cookies of parallel logins apart, and gives nothing of the state away. */
export function transactionTag(state: string): string {
  return hash(state).slice(0, 12)
}
