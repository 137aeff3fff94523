/** The parts of a token endpoint's answer that the gateway keeps (RFC 6749 §5.1). */
export interface TokenResponse {
  accessToken: string
  /** Seconds. */
  expiresIn: number | undefined
  refreshToken: string | undefined
  scope: string | undefined
}

/** What upstreams get. Kept apart from the refresh token, so that no API call ever unseals that. */
export interface AccessToken {
  value: string
  /** Milliseconds since the epoch; the token is never sent after it. */
  expiresAt: number
  scope: string | undefined
}

/** The tokens of a session. */
export interface TokenSet {
  access: AccessToken
  refresh: string | undefined
}

/** Used when the provider does not say how long an access token lives, in seconds. */
export const assumedLifetime = 300
/** No access token is trusted for longer than this, whatever the provider says, in seconds. */
export const maximumLifetime = 7 * 86_400

/** Turns a token response into what is stored. A missing `expires_in` counts as 5 minutes, a huge one as 7 days. */
export function tokenSetFrom(response: TokenResponse, now: number): TokenSet {
  const lifetime = Math.min(response.expiresIn ?? assumedLifetime, maximumLifetime)
  return {
    access: { value: response.accessToken, expiresAt: now + lifetime * 1000, scope: response.scope },
    refresh: response.refreshToken,
  }
}
