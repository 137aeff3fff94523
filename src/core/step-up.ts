import type { Challenge } from './challenge.ts'
import type { Identity, Session } from './session.ts'

/** A login that is to be stronger than the one before, and has to be the same user's. */
export interface StepUp {
  challenge: Challenge
  /** The chain of sessions that it continues. */
  lineage: string
  /** Whose session it is, and when that user was authenticated for it. */
  identity: Pick<Identity, 'issuer' | 'subject' | 'authTime'>
  /** How the provider knows the user at its login page. */
  loginHint: string | undefined
}

/** How long a step-up may wait for the browser, and how long it counts against the next, in seconds. */
export const stepUpLifetime = 600

/** What a session's user has to do to meet a challenge. */
export function stepUpFor(session: Session, challenge: Challenge): StepUp {
  const { issuer, subject, authTime } = session.identity
  // At Entra ID the claim of this name; elsewhere what users type at a login page.
  const loginHint = session.identity.loginHint ?? nameOf(session)
  return { challenge, lineage: lineageOf(session), identity: { issuer, subject, authTime }, loginHint }
}

/** The id of the session with which a chain of step-ups began. */
export function lineageOf(session: Session): string {
  return session.lineage ?? session.id
}

/** How a login went, as its ID token says. */
export interface Outcome {
  identity: Identity
  acr: string | undefined
}

/** Clocks differ, and a login takes its time, in seconds. */
const leeway = 30

/**
 * What a login fell short of that was to meet a challenge; null when it did. A provider may well ignore what it was asked
 * (OpenID Connect Core §3.1.2.1), so nothing is taken on trust but whether it met `claims`: those the upstream sees.
 */
export function shortcomingOf(
  stepUp: StepUp,
  { identity, acr }: Outcome,
  now: number,
): 'another_user' | 'too_weak' | null {
  const { challenge, identity: before } = stepUp
  if (identity.issuer !== before.issuer || identity.subject !== before.subject) return 'another_user'
  if (challenge.acrValues !== undefined && !challenge.acrValues.split(' ').includes(acr ?? '')) return 'too_weak'
  if (challenge.maxAge === undefined) return null
  const age = identity.authTime === undefined ? Number.POSITIVE_INFINITY : now / 1000 - identity.authTime
  return age <= challenge.maxAge + leeway ? null : 'too_weak'
}

/** Whether the user was authenticated anew, as far as that is known: only then do deadlines start anew. */
export function authenticatedAnew({ identity: before }: StepUp, now: Identity): boolean {
  return before.authTime !== undefined && now.authTime !== undefined && now.authTime > before.authTime
}

function nameOf({ identity }: Session): string | undefined {
  const name = identity.claims.preferred_username
  return typeof name === 'string' && name !== '' && name.length <= 320 ? name : undefined
}
