import type { Forwarded } from '../provider/front.ts'
import type { ProviderRequest } from '../provider/journal.ts'
import type { RawAnswer } from '../provider/script.ts'
import { describeError } from './errors.ts'
import { jsonObject } from './jwt.ts'
import { guidOf } from './keys.ts'
import { entraPath } from './paths.ts'
import { mixedDefault, parseScopes, unknownToGraph } from './scopes.ts'
import type { SignIn } from './sign-ins.ts'

/** An authorization request's refusal, sent to the redirect URI. */
export interface CallbackError {
  error: string
  code: number
  /** `cancel` when the user pressed the button. */
  subcode?: string
}

/** Refusals of authorization requests by name; for `entra.refuseAuthorize`. */
export const callbackErrors = {
  accessDenied: { error: 'access_denied', code: 65004, subcode: 'cancel' },
  interactionRequired: { error: 'interaction_required', code: 50076 },
  consentRequired: { error: 'consent_required', code: 65001 },
  loginRequired: { error: 'login_required', code: 50058 },
  serverError: { error: 'server_error', code: 90033 },
  temporarilyUnavailable: { error: 'temporarily_unavailable', code: 90006 },
  resourceParameter: { error: 'invalid_target', code: 9010010 },
} as const satisfies Record<string, CallbackError>

/** What the authorization endpoint goes by. */
export interface AuthorizeDeps {
  clientId: string
  /** Bytes of a query that are put up with. */
  queryLimit: number
  /** The refusal that a test wants, if any. */
  refusal(params: URLSearchParams): CallbackError | undefined
  /** Remembers what is asked under an id that the provider behind carries along. */
  remember(asked: Omit<SignIn, 'user'>): string
  allowsUri(uri: string): boolean
}

/** Refuses authorization requests as Entra does, and translates the others for the provider behind. */
export function createAuthorize(deps: AuthorizeDeps) {
  return async (request: ProviderRequest): Promise<RawAnswer | Forwarded> => {
    const params = request.method === 'POST' ? request.form : request.query
    if (String(request.query).length > deps.queryLimit) return page(90015, 'The size of the query string is too long.')
    if (params.get('client_id') !== deps.clientId) return page(700016, 'Application was not found in the directory.')
    const redirectUri = params.get('redirect_uri') ?? ''
    if (!deps.allowsUri(redirectUri)) return page(50011, 'The redirect URI does not match those of the application.')
    const scopes = parseScopes(params.get('scope'), deps.clientId)
    const claims = params.has('claims') ? jsonObject(params.get('claims')) : {}
    const refuse = (refusal: CallbackError) => callbackAnswer(params, refusal)
    const refusal = deps.refusal(params)
    if (refusal) return refuse(refusal)
    if (params.has('resource')) return refuse(callbackErrors.resourceParameter)
    if (!claims) return refuse({ error: 'invalid_request', code: 90023 })
    if (mixedDefault(scopes) !== undefined) return refuse({ error: 'invalid_scope', code: 70011 })
    if (unknownToGraph(scopes) !== undefined) return refuse({ error: 'invalid_client', code: 650053 })

    const path = entraPath(request.path)
    const asked = { authority: path?.authority ?? '', policy: path?.policy, redirectUri, scopes, claims }
    const inward = new URLSearchParams(params)
    for (const name of ['claims', 'acr_values', 'max_age']) inward.delete(name)
    inward.set('scope', scopes.oidc.join(' '))
    inward.set('entra', deps.remember({ ...asked, nonce: params.get('nonce') ?? undefined }))
    return { method: 'GET', url: `/auth?${inward}`, rawHeaders: request.rawHeaders, body: '' }
  }
}

/** What Entra adds to each answer that goes to a redirect URI. */
export const sessionState = (state: string | null) => guidOf('session', state ?? '')

function callbackAnswer(params: URLSearchParams, { error, code, subcode }: CallbackError): RawAnswer {
  const state = params.get('state')
  const fields = new URLSearchParams({ error, error_description: describeError(code, 'The test says so.') })
  if (subcode) fields.set('error_subcode', subcode)
  if (state !== null) fields.set('state', state)
  fields.set('session_state', sessionState(state))
  const redirectUri = params.get('redirect_uri') ?? ''
  if (params.get('response_mode') === 'form_post') return formPost(redirectUri, fields)
  const target = new URL(redirectUri)
  for (const [name, value] of fields) target.searchParams.set(name, value)
  return { status: 302, headers: { location: target.href, 'cache-control': 'no-store' } }
}

function formPost(action: string, fields: URLSearchParams): RawAnswer {
  const inputs = [...fields].map(
    ([name, value]) => `<input type="hidden" name="${name}" value="${escapeHtml(value)}"/>`,
  )
  const form = `<form method="POST" name="hiddenform" action="${escapeHtml(action)}">${inputs.join('')}</form>`
  const body = `<html><head><title>Working...</title></head><body>${form}<script>document.forms[0].submit()</script></body></html>`
  return { status: 200, headers: { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' }, body }
}

/** An error that never goes back to the client. */
const page = (code: number, text: string): RawAnswer => ({
  status: 400,
  headers: { 'content-type': 'text/html; charset=utf-8' },
  body: `<html><head><title>Sign in to your account</title></head><body><pre id="error">AADSTS${code}: ${text}</pre></body></html>`,
})

const escapeHtml = (text: string) => text.replace(/[&<>"'\r\n]/g, char => `&#${char.codePointAt(0)};`)
