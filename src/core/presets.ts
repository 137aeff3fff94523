/** What is particular about a provider. Only data: the code that reads a member does so for every provider. */
export interface Preset {
  /** Of the login, unless `OIDC_SCOPE` says otherwise. */
  scope: string
  /** Sent with every authorization request, unless `OIDC_AUTHORIZE_PARAMS` says otherwise. */
  authorizeParameters: Readonly<Record<string, string>>
  /** The parameter that names an upstream's resource (RFC 8707 §2); null where there is none. */
  resourceParameter: 'resource' | 'audience' | null
  /**
   * Whether every token request states its scopes, and those of one resource only. Otherwise a request without them is
   * for all that was granted (RFC 6749 §6).
   */
  oneResourcePerToken: boolean
  /** `tenants`: one registration may serve several tenants, each an issuer of its own. */
  issuers: 'exact' | 'tenants'
  /** What `OIDC_USERINFO=auto` means. */
  userInfo: 'auto' | 'never'
  /** Whom assertions of the client are addressed to (RFC 7523 §3). */
  assertionAudience: 'issuer' | 'token_endpoint'
  /** `each`: a replaced refresh token that is presented again is taken for stolen (RFC 9700 §4.14.2). */
  refreshTokens: 'each_once' | 'reusable'
  /**
   * `shared`: all refresh tokens of one login at the provider are of one grant, and a revocation of one takes the others
   * along (RFC 7009 §2.1).
   */
  grants: 'apart' | 'shared'
  logout: {
    /** How the address is made: RP-Initiated Logout 1.0, or the provider's own way. */
    style: 'standard' | 'auth0' | 'cognito'
    /** What tells the provider whose session it is. */
    hint: 'id_token' | 'login_hint' | null
  }
  /** Whether its front-channel logout sends `sid` alone, and not with `iss` as the standard says. */
  frontchannelIssOptional: boolean
  /** In which words an upstream asks for a stronger login: Entra ID's claims challenges, or RFC 9470. */
  challenge: 'entra' | 'rfc9470'
}

const generic: Preset = {
  scope: 'openid profile email offline_access',
  authorizeParameters: {},
  resourceParameter: 'resource',
  oneResourcePerToken: false,
  issuers: 'exact',
  userInfo: 'auto',
  assertionAudience: 'issuer',
  refreshTokens: 'each_once',
  grants: 'apart',
  logout: { style: 'standard', hint: 'id_token' },
  frontchannelIssOptional: false,
  challenge: 'rfc9470',
}

/** The providers that are known by name; `generic` is any that keeps to the standards. */
export const presets = {
  generic,
  entra: {
    ...generic,
    resourceParameter: null,
    oneResourcePerToken: true,
    issuers: 'tenants',
    userInfo: 'never',
    assertionAudience: 'token_endpoint',
    // What is replaced stays good there, and dies by policies that are no theft.
    refreshTokens: 'reusable',
    logout: { style: 'standard', hint: 'login_hint' },
    frontchannelIssOptional: true,
    challenge: 'entra',
  },
  keycloak: {
    ...generic,
    // Its offline tokens outlive the login at the provider, and each refresh keeps that alive anyway.
    scope: 'openid profile email',
    resourceParameter: null,
    grants: 'shared',
  },
  auth0: {
    ...generic,
    resourceParameter: 'audience',
    logout: { style: 'auth0', hint: 'id_token' },
  },
  okta: generic,
  google: {
    ...generic,
    // In the place of the scope offline_access, which it does not know; without `prompt` only a first login brings one.
    scope: 'openid profile email',
    authorizeParameters: { access_type: 'offline', prompt: 'consent' },
    resourceParameter: null,
    refreshTokens: 'reusable',
    logout: { style: 'standard', hint: null },
  },
  cognito: {
    ...generic,
    scope: 'openid profile email',
    logout: { style: 'cognito', hint: null },
  },
} as const satisfies Record<string, Preset>

export type PresetName = keyof typeof presets
export const presetNames = Object.keys(presets) as readonly PresetName[]

const hosts: readonly [name: PresetName, host: RegExp][] = [
  ['entra', /^login\.microsoftonline\.(com|us)$|^login\.partner\.microsoftonline\.cn$|\.ciamlogin\.com$/],
  ['auth0', /\.auth0\.com$/],
  ['okta', /\.okta(preview|-emea)?\.com$|\.okta-gov\.com$/],
  ['google', /^accounts\.google\.com$/],
  ['cognito', /^cognito-idp\.[a-z0-9-]+\.amazonaws\.com(\.cn)?$/],
]

/** The provider that an issuer belongs to; on a domain of its own it looks like any other. */
export function presetOf(issuer: string): PresetName {
  const { hostname, pathname } = new URL(issuer)
  const known = hosts.find(([, host]) => host.test(hostname))?.[0]
  return known ?? (/\/realms\/[^/]+\/?$/.test(pathname) ? 'keycloak' : 'generic')
}

/** Scopes that belong to no resource (OpenID Connect Core §5.4, §11). */
export const ownScopes: readonly string[] = ['openid', 'profile', 'email', 'offline_access']
