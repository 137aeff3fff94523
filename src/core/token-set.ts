/** The parts of a token endpoint's answer that the gateway keeps (RFC 6749 §5.1). */
export interface TokenResponse {
  accessToken: string
  /** Seconds. */
  expiresIn: number | undefined
  refreshToken: string | undefined
  scope: string | undefined
  /** Kept where the provider's logout asks for it. */
  idToken?: string | undefined
}

/** What upstreams get. Kept apart from the refresh token, so that no API call ever unseals that. */
export interface AccessToken {
  value: string
  /** Milliseconds since the epoch; the token is never sent after it. */
  expiresAt: number
  /** From then on it is replaced in the background while it is still good. */
  refreshAt: number
  scope: string | undefined
}

/** The tokens of a session. */
export interface TokenSet {
  access: AccessToken
  refresh: string | undefined
  /** To be shown to the provider at logout, where that wants it (RP-Initiated Logout 1.0 §2, `id_token_hint`). */
  idToken?: string | undefined
}

/** Used when the provider does not say how long an access token lives, or says 0, in seconds. */
export const assumedLifetime = 300
/** No access token is trusted for longer than this, whatever the provider says, in seconds. */
export const maximumLifetime = 7 * 86_400
/** A token is not sent in its last moments: it would be over when it arrives. In milliseconds. */
const marginMs = 5000

/**
 * Turns a token response into what is stored. A missing `expires_in` or 0 counts as 5 minutes, a huge one as 7 days.
 * The token is replaced from 80% of its lifetime on, spread by up to 10% so that sessions opened together do not come
 * back together. `jitter` is from 0 to 1.
 */
export function accessTokenFrom(response: TokenResponse, now: number, jitter: number): AccessToken {
  const lifetimeMs = Math.min(response.expiresIn || assumedLifetime, maximumLifetime) * 1000
  return {
    value: response.accessToken,
    expiresAt: now + lifetimeMs - Math.min(marginMs, lifetimeMs / 10),
    refreshAt: now + lifetimeMs * (0.8 - jitter * 0.1),
    scope: response.scope,
  }
}
