import * as client from 'openid-client'
import type { Preset } from '../core/presets.ts'

/** What tells the provider whose session is to end. */
export interface LogoutHint {
  idToken: string | undefined
  /** The claim `login_hint`. */
  loginHint: string | undefined
}

/** A longer ID token does not go into an address: servers refuse that, and the user would be stranded. */
const longestHint = 6000

/** Where a browser ends the provider's own session, in the provider's style; null where there is no such place. */
export function logoutUrlOf(
  configuration: client.Configuration,
  { style, hint }: Preset['logout'],
  postLogoutUri: string,
  given: LogoutHint,
): string | null {
  const { end_session_endpoint: endpoint, issuer } = configuration.serverMetadata()
  const { client_id } = configuration.clientMetadata()
  // Neither of these knows the parameters of the standard at this address.
  if (style === 'auth0' && endpoint === undefined)
    return withParameters(`${issuer.replace(/\/$/, '')}/v2/logout`, { client_id, returnTo: postLogoutUri })
  if (endpoint === undefined) return null
  if (style === 'cognito') return withParameters(endpoint, { client_id, logout_uri: postLogoutUri })

  const parameters: Record<string, string> = { post_logout_redirect_uri: postLogoutUri }
  if (hint === 'id_token' && given.idToken !== undefined && given.idToken.length <= longestHint)
    parameters.id_token_hint = given.idToken
  if (hint === 'login_hint' && given.loginHint !== undefined) parameters.logout_hint = given.loginHint
  return client.buildEndSessionUrl(configuration, parameters).href
}

function withParameters(address: string, parameters: Record<string, string>): string {
  const url = new URL(address)
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value)
  return url.href
}
