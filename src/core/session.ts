import type { DpopKey } from './dpop.ts'
import { hash, randomToken } from './random.ts'
import type { AccessToken } from './token-set.ts'

/** Claims by name, as the provider gave them; inert data. */
export type Claims = Record<string, unknown>

/** Whom the provider authenticated: the verified ID token, enriched from UserInfo. */
export interface Identity {
  issuer: string
  /** The provider's stable name of the user; with the issuer the only key to a user, never e-mail or name. */
  subject: string
  /** The provider's own session (claim `sid`), when it says. */
  providerSessionId: string | undefined
  /** What `/user` may show, and what the policies of upstreams ask for. */
  claims: Claims
  /** Which of them came from UserInfo: an ID token that comes with a refresh says nothing of these. */
  fromUserInfo?: readonly string[]
  /** Of the login; an ID token that comes with a refresh may repeat it, and no other (OpenID Connect Core §12.2). */
  nonce: string
  /** The issuer as it is configured, where that is another name for it, or for several. */
  authority?: string
  /** The user's place in a directory of several tenants (claims `tid` and `oid`). */
  directory?: Directory
  /** What to hint at when the user is to be known again (claim `login_hint`); it means nothing to anybody else. */
  loginHint?: string
  /** When the user was authenticated, in seconds since the epoch, when the provider says; a refresh does not change it. */
  authTime: number | undefined
}

/** A user by tenant and by name in it, the same for every application (Entra ID). */
export interface Directory {
  tenantId: string
  objectId: string
}

/** A server-side session; the browser holds only the cookie whose hash is `id`. */
export interface Session {
  id: string
  identity: Identity
  /** The secret in `logoutUrl` that keeps others from signing the user out. */
  logoutToken: string
  /** Milliseconds since the epoch. */
  createdAt: number
  /** Who logged in from where, for the list of one's sessions. */
  client: Client
  /** The session with which a chain of step-ups began that led to this one; absent when this is the first. */
  lineage?: string
  /** What the last step-up was for: the first token of this slot is asked for with these claims. */
  demanded?: { slot: string; claims: string }
  /** To which all its tokens are bound; none with DPoP off. */
  dpopKey?: DpopKey
}

/** The other end of a connection, as it describes itself and as the network knows it. */
export interface Client {
  userAgent: string
  address: string
}

/** A session as the store gives it, with the time left by the store's own clock. */
export interface StoredSession {
  session: Session
  /** The token asked for with the session; null when there is none yet, or none was asked for. */
  accessToken: AccessToken | null
  /** Counts the changes of the session's tokens: the fence between one holder of the refresh token and the next. */
  version: number
  /** Milliseconds, above zero: a session past a deadline is not given. */
  idleExpiresInMs: number
  absoluteExpiresInMs: number
}

/** Why a session ended: by itself or by the provider (the first six), or because somebody ended it. */
export const endReasons = [
  'idle',
  'absolute',
  'tokens_expired',
  'refresh_token_dead',
  'rotation_lost',
  'identity_changed',
  'logout',
  'ended_elsewhere',
  'too_many',
  'replaced',
  'admin',
  'backchannel_logout',
  'frontchannel_logout',
] as const
export type EndReason = (typeof endReasons)[number]

/** Whether a session came to its own end, rather than being ended by somebody. */
export function expired(reason: EndReason): boolean {
  return endReasons.indexOf(reason) < endReasons.indexOf('logout')
}

/** Opens a session under a cookie never used before (OWASP ASVS 7.2.4). */
export function openSession(
  identity: Identity,
  client: Client,
  now: number,
  dpopKey?: DpopKey,
): { cookie: string; session: Session } {
  const cookie = randomToken()
  const id = sessionIdOf(cookie)
  const bound = dpopKey === undefined ? {} : { dpopKey }
  return {
    cookie,
    session: { id, identity, logoutToken: randomToken(), createdAt: now, client, ...bound },
  }
}

/** The store's name of a session: the cookie cannot be had from it. */
export function sessionIdOf(cookie: string): string {
  return hash(cookie)
}

/** What logs, administrators and the user's own list call a session: useless as a cookie or a key of the store. */
export function sessionHandle(sessionId: string): string {
  return hash(`handle:${sessionId}`).slice(0, 16)
}

/** The store's name of a refresh token: one for each version of a session's tokens. */
export function refreshTokenId(sessionId: string, version: number): string {
  return `${sessionId}~${version}`
}

/** What logs call the session of a refresh token. */
export function handleOfRefreshToken(id: string): string {
  return sessionHandle(id.split('~')[0] ?? id)
}

/** What logs call a user. */
export function userHandle(identity: Pick<Identity, 'issuer' | 'subject'>): string {
  return hash(JSON.stringify([identity.issuer, identity.subject])).slice(0, 16)
}

/** The indexes in which a session is found: by its handle, its user, and the provider's own session. */
export function indexesOf(session: Session): string[] {
  const { directory } = session.identity
  const indexes = [handleIndex(sessionHandle(session.id)), userIndex(session.identity)]
  const siblings = siblingIndexOf(session)
  if (directory !== undefined) indexes.push(directoryIndex(directory))
  if (siblings !== undefined) indexes.push(siblings)
  return indexes
}

/** The index of all sessions that come of the same one at the provider, if it has a name. */
export function siblingIndexOf({ identity }: Session): string | undefined {
  const { issuer, authority = issuer, providerSessionId } = identity
  // The provider's front channel does not say which of its issuers it speaks for.
  return providerSessionId === undefined ? undefined : providerSessionIndex(authority, providerSessionId)
}

export function handleIndex(handle: string): string {
  return `handle-${handle}`
}

export function userIndex(identity: Pick<Identity, 'issuer' | 'subject'>): string {
  return `user-${hash(JSON.stringify([identity.issuer, identity.subject]))}`
}

export function directoryIndex({ tenantId, objectId }: Directory): string {
  // GUIDs are the same in either case, and administrators copy them from anywhere.
  return `directory-${hash(JSON.stringify([tenantId.toLowerCase(), objectId.toLowerCase()]))}`
}

export function providerSessionIndex(issuer: string, providerSessionId: string): string {
  return `sid-${hash(JSON.stringify([issuer, providerSessionId]))}`
}
