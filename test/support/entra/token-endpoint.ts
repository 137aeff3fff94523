import type { Forwarded } from '../provider/front.ts'
import type { ProviderRequest } from '../provider/journal.ts'
import type { RawAnswer } from '../provider/script.ts'
import { isSatisfied } from './claims-asked.ts'
import { authenticateClient, type ClientAuthDeps } from './client-auth.ts'
import { err, errors } from './errors.ts'
import { jsonObject } from './jwt.ts'
import { entraPath } from './paths.ts'
import { mixedDefault, unknownToGraph } from './scopes.ts'
import { type SignIn, type SignIns, scopesOf } from './sign-ins.ts'

/** What the token endpoint goes by; all of it may change between two requests. */
export interface TokenEndpointDeps extends ClientAuthDeps {
  origin(): string
  /** What the provider behind knows the client by. */
  innerSecret: string
  signIns: SignIns
  spaRedirectUris: Set<string>
  isB2c: boolean
  /** Two authorities of one tenant are the same. */
  canonical(authority: string): string
  /** Identical refreshes a minute that are put up with. */
  loopLimit(): number
  /** Whether a refresh with `claims` is answered; `as-signed-in`: when the sign-in satisfied them. */
  claimsOnRefresh(): 'granted' | 'interaction' | 'as-signed-in'
  onBehalfOf(form: URLSearchParams): RawAnswer
}

const grantTypes = {
  code: 'authorization_code',
  refresh: 'refresh_token',
  onBehalfOf: 'urn:ietf:params:oauth:grant-type:jwt-bearer',
}

/** Refuses token requests as Entra does, and translates the others for the provider behind. */
export function createTokenEndpoint(deps: TokenEndpointDeps) {
  const identical = new Map<string, number[]>()

  const refusalOfLoop = (form: URLSearchParams): RawAnswer | undefined => {
    const key = [form.get('refresh_token'), form.get('scope'), form.get('claims')].join('\n')
    const recent = (identical.get(key) ?? []).filter(at => at > Date.now() - 60_000)
    identical.set(key, [...recent, Date.now()])
    return recent.length >= deps.loopLimit() ? errors.loop() : undefined
  }

  const refusalOfScope = (form: URLSearchParams, signIn: SignIn): RawAnswer | undefined => {
    const asked = scopesOf(form, signIn, deps.clientId)
    if (asked.resources.size > 1) return errors.severalResources()
    if (mixedDefault(asked) !== undefined) return err(400, 'invalid_scope', 70011)
    const unknown = unknownToGraph(asked)
    if (unknown !== undefined) return err(400, 'invalid_client', 650053)
    const refused = [...asked.resources.keys()].some(resource => !deps.signIns.hasConsent(signIn.user, resource))
    return refused ? errors.consent() : undefined
  }

  const refusalOfCode = (request: ProviderRequest): RawAnswer | undefined => {
    const signIn = deps.signIns.of(request.form)
    if (!signIn) return undefined
    const isSpa = deps.spaRedirectUris.has(signIn.redirectUri)
    if (isSpa && request.headers.origin === undefined) return errors.spaWithoutOrigin()
    const here = entraPath(request.path)?.authority ?? ''
    if (deps.canonical(here) !== deps.canonical(signIn.authority)) return err(400, 'invalid_grant', 700005)
    return refusalOfScope(request.form, signIn)
  }

  const refusalOfRefresh = (request: ProviderRequest): RawAnswer | undefined => {
    const { form } = request
    const signIn = deps.signIns.of(form)
    const loop = refusalOfLoop(form)
    if (!signIn || loop) return loop
    if (deps.signIns.isRevoked(form.get('refresh_token') ?? '')) return errors.revoked()
    if (entraPath(request.path)?.policy !== signIn.policy) return err(400, 'invalid_grant', 90088)
    if (!form.has('scope') && !deps.isB2c) return errors.scopeMissing()
    return refusalOfScope(form, signIn) ?? refusalOfClaims(form, signIn)
  }

  const refusalOfClaims = (form: URLSearchParams, signIn: SignIn): RawAnswer | undefined => {
    if (!form.has('claims')) return undefined
    const asked = jsonObject(form.get('claims'))
    if (!asked) return err(400, 'invalid_request', 90023)
    const how = deps.claimsOnRefresh()
    const granted = how === 'granted' || (how === 'as-signed-in' && isSatisfied(asked, signIn.claims))
    return granted ? undefined : errors.mfa(asked)
  }

  return async (request: ProviderRequest): Promise<RawAnswer | Forwarded> => {
    const { form, headers } = request
    if (form.has('resource')) return errors.resourceParameter()
    const isWeb = !deps.spaRedirectUris.has(deps.signIns.of(form)?.redirectUri ?? '')
    if (headers.origin !== undefined && isWeb) return errors.originWithSecret()
    const method = authenticateClient(deps, request, `${deps.origin()}${request.path}`)
    if (typeof method !== 'string') return method
    const grantType = form.get('grant_type')
    if (grantType === grantTypes.onBehalfOf) return deps.onBehalfOf(form)
    if (grantType !== grantTypes.code && grantType !== grantTypes.refresh) {
      return err(400, 'unsupported_grant_type', 70003)
    }
    const refusal = grantType === grantTypes.code ? refusalOfCode(request) : refusalOfRefresh(request)
    return refusal ?? inward(request, deps)
  }
}

/** The request as the provider behind understands it: authenticated already, and without Entra's parameters. */
function inward({ form, headers }: ProviderRequest, deps: TokenEndpointDeps): Forwarded {
  const kept = ['grant_type', 'code', 'redirect_uri', 'code_verifier', 'refresh_token']
  const body = new URLSearchParams([...form].filter(([name]) => kept.includes(name)))
  body.set('client_id', deps.clientId)
  body.set('client_secret', deps.innerSecret)
  const rawHeaders = ['Host', String(headers.host), 'Content-Type', 'application/x-www-form-urlencoded']
  return { url: '/token', rawHeaders, body: body.toString() }
}
