import type { ProviderRequest } from '../provider/journal.ts'
import { setHeader } from '../provider/relay.ts'
import { type Dialect, withJson } from '../provider/rewrite.ts'
import type { Json } from '../provider/tamper.ts'
import { sessionState } from './authorize.ts'
import { err } from './errors.ts'
import type { EntraKeys } from './keys.ts'
import { entraMetadata, entraPath } from './paths.ts'
import { type SignIn, type SignIns, scopesOf } from './sign-ins.ts'
import type { createTokens } from './tokens.ts'

/** What the answers are made of. */
export interface DialectDeps {
  clientId: string
  origin(): string
  keys: EntraKeys
  signIns: SignIns
  tokens: ReturnType<typeof createTokens>
  /** Issuer in the metadata of an authority, the literal `{tenantid}` where there is no single one. */
  issuerOfAuthority(authority: string): string
  tenantOf(authority: string, user: string): string
  isB2c: boolean
}

/** Says things as Entra does. */
export function createDialect(deps: DialectDeps): Dialect {
  const signInOf = (request: ProviderRequest): SignIn => {
    const signIn = deps.signIns.of(request.form)
    if (!signIn) throw new Error('the provider answered for a sign-in that nobody knows')
    return signIn
  }

  const pathOf = (request: ProviderRequest) => {
    const path = entraPath(request.path)
    if (!path) throw new Error(`${request.path} is none of the paths of Entra`)
    return path
  }

  const tokenResponse = (own: Json, request: ProviderRequest): Json => {
    const { form } = request
    const signIn = signInOf(request)
    const asked = scopesOf(form, signIn, deps.clientId)
    const hasOpenid = asked.oidc.includes('openid')
    const granted = deps.tokens.granted(form, signIn)
    const lifetime = deps.tokens.lifetimeOf(granted)
    const tenant = deps.tenantOf(pathOf(request).authority, signIn.user)
    const accessToken = deps.tokens.accessToken(signIn.user, tenant, granted, lifetime)
    if (typeof own.refresh_token === 'string') deps.signIns.put(own.refresh_token, signIn)
    const rest: Json = {
      ...(own.refresh_token !== undefined && { refresh_token: own.refresh_token }),
      ...(hasOpenid && own.id_token !== undefined && { id_token: own.id_token }),
    }
    if (deps.isB2c) return b2cResponse(rest, asked.resources.size > 0 ? accessToken : undefined, lifetime, own)
    return {
      token_type: 'Bearer',
      scope: granted.names.map(name => `${granted.resource}/${name}`).join(' '),
      expires_in: lifetime,
      ext_expires_in: lifetime,
      access_token: accessToken,
      ...rest,
    }
  }

  return {
    metadata: (_own, request) => {
      const path = pathOf(request)
      return entraMetadata(deps.origin(), path, deps.issuerOfAuthority(path.authority))
    },
    jwks: () => ({ keys: deps.keys.entries() }),
    idToken: (honest, _accessToken, request) => {
      const { alg, kid } = deps.keys.current()
      return { header: { typ: 'JWT', alg, kid }, payload: deps.tokens.idToken(honest, signInOf(request), request) }
    },
    tokenResponse,
    tokenError: (reply, { form }) => {
      const isCode = form.get('grant_type') === 'authorization_code'
      const { status, body } = err(400, 'invalid_grant', isCode ? 54005 : 70000)
      return { ...withJson(reply, body as Json), status }
    },
    authorizationResponse: url => {
      const answer = new URL(url)
      answer.searchParams.delete('iss')
      const error = answer.searchParams.get('error')
      if (error === 'access_denied') answer.searchParams.set('error_subcode', 'cancel')
      answer.searchParams.set('session_state', sessionState(answer.searchParams.get('state')))
      return answer
    },
  }
}

/** Azure AD B2C: strings for numbers, and no access token for those who name no resource. */
function b2cResponse(rest: Json, accessToken: string | undefined, lifetime: number, own: Json): Json {
  const now = Math.floor(Date.now() / 1000)
  return {
    ...rest,
    token_type: 'Bearer',
    not_before: now,
    id_token_expires_in: 3600,
    scope: 'offline_access openid',
    ...(own.refresh_token !== undefined && { refresh_token_expires_in: 7_776_000 }),
    ...(accessToken !== undefined && {
      access_token: accessToken,
      expires_in: String(lifetime),
      not_before: String(now),
    }),
  }
}

/** The headers of Entra's documents, and the time by its own clock. */
export const withHeaders = (rawHeaders: string[], request: ProviderRequest, nowMs: number): string[] => {
  const dated = setHeader(rawHeaders, 'Date', new Date(nowMs).toUTCString())
  const isDocument = request.kind === 'discovery' || request.kind === 'jwks'
  return isDocument ? setHeader(dated, 'Cache-Control', 'max-age=86400, private') : dated
}
