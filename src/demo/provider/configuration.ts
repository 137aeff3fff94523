import { randomBytes } from 'node:crypto'
import type { Configuration, errors, interactionPolicy, JWK, KoaContextWithOIDC } from 'oidc-provider'
import { accountBySubject, claimsOfScope } from './accounts.ts'
import { messagePage, signOutPage } from './pages.ts'

/** Who may use the demo provider, and for what. */
export interface DemoProviderOptions {
  /** The provider's own origin: plain http, no path, no trailing slash. */
  issuer: string
  clientId: string
  clientSecret: string
  redirectUri: string
  postLogoutRedirectUri: string
  /** `aud` of the access tokens: an absolute URI. */
  audience: string
  /** Of an access token, in seconds; ten minutes unless said. */
  accessTokenLifetime?: number
}

/** The parts of oidc-provider that the configuration is built from. */
export interface ProviderLibrary {
  errors: typeof errors
  interactionPolicy: typeof interactionPolicy
}

const hours = 3600
const days = 24 * hours

/** oidc-provider's settings for one confidential client that gets JWT access tokens for one API. */
export function providerConfiguration(
  options: DemoProviderOptions,
  signingKey: JWK,
  { errors, interactionPolicy }: ProviderLibrary,
): Configuration {
  const { audience, accessTokenLifetime = 600 } = options
  const scopes = [...Object.keys(claimsOfScope), 'offline_access']
  const policy = interactionPolicy.base()
  policy.add(new interactionPolicy.Prompt({ name: 'select_account', requestable: true }), 0)

  return {
    clients: [
      {
        client_id: options.clientId,
        client_secret: options.clientSecret,
        token_endpoint_auth_method: 'client_secret_post',
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        redirect_uris: [options.redirectUri],
        post_logout_redirect_uris: [options.postLogoutRedirectUri],
      },
    ],
    clientAuthMethods: ['client_secret_post'],
    clientBasedCORS: () => false,
    jwks: { keys: [signingKey] },
    cookies: { keys: [randomBytes(32).toString('base64url')] },
    scopes,
    claims: claimsOfScope,
    pkce: { required: () => true },
    ttl: {
      AccessToken: accessTokenLifetime,
      AuthorizationCode: 60,
      IdToken: 1 * hours,
      Interaction: 1 * hours,
      Session: 8 * hours,
      RefreshToken: 14 * days,
      Grant: 14 * days,
    },
    rotateRefreshToken: true,
    // The library drops offline_access unless consent is asked for each time; at this provider there is none to ask.
    issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
    expiresWithSession: async () => false,
    interactions: { policy, url: (_ctx, { uid }) => `/interaction/${uid}` },
    findAccount: (_ctx, sub) => {
      const account = accountBySubject(sub)
      return account && { accountId: sub, claims: () => account.claims }
    },
    loadExistingGrant: grantEverything,
    renderError: (ctx, { error, error_description }) => {
      ctx.type = 'html'
      ctx.body = messagePage('That did not work', `${error_description ?? error} (${error})`, homeOf(options))
    },
    features: {
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => audience,
        useGrantedResource: () => true,
        getResourceServerInfo: (_ctx, resource) => {
          if (resource !== audience) throw new errors.InvalidTarget()
          return { scope: scopes.join(' '), audience, accessTokenFormat: 'jwt', accessTokenTTL: accessTokenLifetime }
        },
      },
      revocation: { enabled: true, allowedPolicy: (_ctx, client, token) => token.clientId === client.clientId },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: (ctx, form) => {
          ctx.body = signOutPage(form)
        },
        postLogoutSuccessSource: ctx => {
          ctx.body = messagePage('Signed out', 'You are signed out of the demo provider.', homeOf(options))
        },
      },
    },
  }
}

/** Where the app lives that belongs to the client. */
export function homeOf({ redirectUri }: DemoProviderOptions): string {
  return new URL('/', redirectUri).href
}

/** A grant of its own for each login: revoking the tokens of one login leaves the user's other logins alone. */
async function grantEverything({ oidc }: KoaContextWithOIDC) {
  if (!oidc.account || !oidc.client) return undefined
  const grant = new oidc.provider.Grant({ accountId: oidc.account.accountId, clientId: oidc.client.clientId })
  grant.addOIDCScope([...oidc.requestParamOIDCScopes].join(' '))
  grant.addOIDCClaims([...oidc.requestParamClaims])
  for (const resource of Object.keys(oidc.resourceServers ?? {})) {
    grant.addResourceScope(resource, [...oidc.requestParamScopes].join(' '))
  }
  await grant.save()
  return grant
}
