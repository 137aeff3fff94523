import type { ManualClock } from '../clock.ts'
import type { Json } from '../provider/tamper.ts'
import type { ClientCertificate, WorkloadIssuer } from './workload.ts'

/** How Entra and the app's registration are set up; everything has a default. */
export interface EntraOptions {
  /** Tenant GUIDs; users live in the first one unless `users.set(login, { tid })` says otherwise. */
  tenants?: string[]
  /** Verified domains and their tenants. */
  domains?: Record<string, string>
  /** What the gateway is pointed at: a tenant (default: the first), a domain, `common` or `organizations`. */
  authority?: string
  clientId?: string
  clientSecret?: string
  /** More certificates and clusters that the app may authenticate with. */
  certificates?: ClientCertificate[]
  workloads?: WorkloadIssuer[]
  /** Exact redirect and post-logout URIs; any loopback URI when absent. */
  redirectUris?: string[]
  /** Those registered under the platform SPA. */
  spaRedirectUris?: string[]
  /** Front-channel logout addresses of the apps; may be changed later at `entra.logoutUrls`. */
  logoutUrls?: string[]
  /** Claims that the registration adds to ID tokens. Default: `sid`, `login_hint`. */
  optionalClaims?: string[]
  /** Seconds; an access token lives a random 60 to 90 minutes by default. */
  lifetimes?: { accessToken?: number; idToken?: number }
  /** Added to each access token. */
  accessTokenClaims?: () => Json
  /** Resources that no administrator has allowed for everybody: users consent by signing in with their scopes. */
  unconsented?: string[]
  /** Identical refreshes a minute that are put up with. Default: 20. */
  loopLimit?: number
  /** Azure AD B2C: user flows in the path (`/{tenant}/b2c_1_signin/v2.0`), an issuer with a slash at its end. */
  b2c?: boolean
  /** Bytes of an authorization request's query. Default: 8192. */
  queryLimit?: number
  /** The time in tokens. */
  clock?: Pick<ManualClock, 'now'>
  /** Logs this name in without showing the form. */
  autoLogin?: string
  /** Further environment of the gateway, e.g. `OIDC_PROVIDER`. */
  env?: Record<string, string>
}

/** What may be changed at any time; `entra.reset()` leaves it alone. */
export interface EntraKnobs {
  /** Entra does either. Default: `repeated`. */
  nonceOnRefresh: 'repeated' | 'omitted'
  /** What a refresh with `claims` gets. Default: a token when the sign-in satisfied them, else the MFA error. */
  claimsOnRefresh: 'granted' | 'interaction' | 'as-signed-in'
  /** Seconds by which Entra's clock is ahead. */
  skewSeconds: number
  loopLimit: number
  optionalClaims: string[]
  accessTokenLifetime: number | undefined
}
