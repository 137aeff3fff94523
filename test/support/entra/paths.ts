import type { EndpointKind } from '../provider/journal.ts'
import type { Json } from '../provider/tamper.ts'

/** A path of Entra's, taken apart. */
export interface EntraPath {
  /** Tenant id, domain, `common`, `organizations` or `consumers`. */
  authority: string
  /** User flow, at Azure AD B2C. */
  policy: string | undefined
  kind: EndpointKind
}

const kinds: Record<string, EndpointKind> = {
  'v2.0/.well-known/openid-configuration': 'discovery',
  'discovery/v2.0/keys': 'jwks',
  'oauth2/v2.0/authorize': 'authorization',
  'oauth2/v2.0/token': 'token',
  'oauth2/v2.0/logout': 'logout',
}

const ends = Object.keys(kinds)
  .map(end => end.replaceAll('.', '\\.'))
  .join('|')
const pattern = new RegExp(`^/([^/]+)(?:/(b2c_1[^/]*))?/(${ends})$`, 'i')

/** What a path of Entra's means, undefined for any other. */
export function entraPath(path: string): EntraPath | undefined {
  const found = pattern.exec(path)
  if (!found) return undefined
  const [, authority = '', policy, end = ''] = found
  return { authority: authority.toLowerCase(), policy, kind: kinds[end.toLowerCase()] ?? 'other' }
}

/** Which endpoint a path belongs to, those of the provider's own pages included. */
export function entraKind(path: string): EndpointKind {
  if (/^\/login\//.test(path)) return 'login'
  if (/^\/auth\//.test(path)) return 'authorization'
  if (/^\/session\/end\//.test(path)) return 'logout'
  if (path === '/oidc/userinfo') return 'userinfo'
  return entraPath(path)?.kind ?? 'other'
}

/** The metadata document of an authority: what Entra says, and nothing of what it leaves out. */
export function entraMetadata(origin: string, { authority, policy }: EntraPath, issuer: string): Json {
  const base = `${origin}/${authority}${policy === undefined ? '' : `/${policy}`}`
  return {
    token_endpoint: `${base}/oauth2/v2.0/token`,
    token_endpoint_auth_methods_supported: ['client_secret_post', 'private_key_jwt', 'client_secret_basic'],
    jwks_uri: `${base}/discovery/v2.0/keys`,
    response_modes_supported: ['query', 'fragment', 'form_post'],
    subject_types_supported: ['pairwise'],
    id_token_signing_alg_values_supported: ['RS256'],
    response_types_supported: ['code', 'id_token', 'code id_token', 'id_token token'],
    scopes_supported: ['openid', 'profile', 'email', 'offline_access'],
    issuer,
    request_uri_parameter_supported: false,
    // Graph's, on another host: nobody is meant to ask it.
    userinfo_endpoint: `${origin.replace('127.0.0.1', 'localhost')}/oidc/userinfo`,
    authorization_endpoint: `${base}/oauth2/v2.0/authorize`,
    http_logout_supported: true,
    frontchannel_logout_supported: true,
    end_session_endpoint: `${base}/oauth2/v2.0/logout`,
    claims_supported: [
      'sub',
      'iss',
      'aud',
      'exp',
      'iat',
      'auth_time',
      'acr',
      'nonce',
      'preferred_username',
      'name',
      'tid',
    ],
    tenant_region_scope: 'EU',
    cloud_instance_name: 'microsoftonline.com',
    cloud_graph_host_name: 'graph.windows.net',
    msgraph_host: 'graph.microsoft.com',
  }
}
