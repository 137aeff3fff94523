import { formOf, withForm } from '../page-form.ts'
import type { Issued, ProviderRequest } from './journal.ts'
import { atHash, type KeyRing } from './keys.ts'
import { headerOf, type Reply, setHeader } from './relay.ts'
import type { IdTokenDraft, Json, Tamper } from './tamper.ts'

/** What the rewriting of answers needs. */
export interface RewriteDeps {
  issuer: string
  keys: KeyRing
  issued: Issued
  /** The tamper in force now. */
  tamper(): Tamper
  nowMs(): number
  /** What is not said here is said as `oidc-provider` does. */
  dialect?: Partial<Dialect>
}

/** How a make of provider says things; the tamper comes after it. */
export interface Dialect {
  metadata(own: Json, request: ProviderRequest): Json
  jwks(request: ProviderRequest): { keys: Json[] }
  /** The claims of an ID token, from those of `oidc-provider` with their times set right. */
  idToken(honest: Json, accessToken: string, request: ProviderRequest): { header: Json; payload: Json }
  /** A successful token response; the ID token in it is still the provider's own. */
  tokenResponse(own: Json, request: ProviderRequest): Json
  /** An answer of the token endpoint that is an error. */
  tokenError(reply: Reply, request: ProviderRequest): Reply
  /** The redirect URI with the answer to an authorization request. */
  authorizationResponse(url: URL): URL
}

/** Turns the provider's own answers into those that leave: ID tokens by the front's keys, then the tamper. */
export interface Rewrite {
  /** The answer to send instead of the provider's. */
  answer(request: ProviderRequest, reply: Reply): Promise<Reply>
  /** Undoes the re-signing in what clients send back (`id_token_hint`). */
  restoreHint(params: URLSearchParams): boolean
}

/** Algorithms that the metadata advertises. */
const advertisedAlgs = ['RS256', 'PS256', 'ES256', 'EdDSA']

/** Rewriting for one provider. */
export function createRewrite(deps: RewriteDeps): Rewrite {
  const dialect: Dialect = { ...plainDialect(deps), ...deps.dialect }
  const originals = new Map<string, string>()
  const authTimes = new Map<string, number>()

  /** Moves the ID token's times to the clock in force; `auth_time` stays what it was at the login (Core §12.2). */
  const inTime = (payload: Json): Json => {
    const shift = Math.round((deps.nowMs() - Date.now()) / 1000)
    const moved = { ...payload, iat: Number(payload.iat) + shift, exp: Number(payload.exp) + shift }
    if (payload.auth_time === undefined) return moved
    const login = `${payload.sid} ${payload.auth_time}`
    const authTime = authTimes.get(login) ?? Number(payload.auth_time) + shift
    authTimes.set(login, authTime)
    return { ...moved, auth_time: authTime }
  }

  const idToken = async (original: string, accessToken: string, request: ProviderRequest) => {
    const key = deps.keys.current()
    const { header, payload } = dialect.idToken(inTime(decode(original.split('.')[1])), accessToken, request)
    const token = deps.keys.sign(header, payload)
    const grant = request.form.get('grant_type') as IdTokenDraft['grant']
    const sent = await deps.tamper().idToken({ header, payload, token, grant, accessToken, key, sign: deps.keys.sign })
    for (const each of [token, sent]) {
      if (each === undefined) continue
      originals.set(each, original)
      deps.issued.idTokens.add(each)
    }
    return sent
  }

  const remember = (response: unknown) => {
    const { access_token, refresh_token, id_token } = Object(response) as Json
    if (typeof access_token === 'string') deps.issued.accessTokens.add(access_token)
    if (typeof refresh_token === 'string') deps.issued.refreshTokens.add(refresh_token)
    if (typeof id_token === 'string') deps.issued.idTokens.add(id_token)
  }

  const tokenResponse = async (own: Json, request: ProviderRequest) => {
    const json = dialect.tokenResponse(own, request)
    remember({ ...json, id_token: undefined })
    const { id_token: original, ...response } = json
    if (typeof original === 'string') {
      const sent = await idToken(original, String(json.access_token), request)
      if (sent !== undefined) response.id_token = sent
    }
    const tampered = await deps.tamper().tokenResponse(response, request)
    remember(tampered)
    return tampered
  }

  /** The redirect URI with the provider's answer, tampered; null when this is no answer to a client. */
  const authorizationResponse = async (target: string | null): Promise<URL | null> => {
    if (target === null || !URL.canParse(target)) return null
    const url = new URL(target)
    if (url.origin === deps.issuer || !(url.searchParams.has('code') || url.searchParams.has('error'))) return null
    const rememberCodes = (from: URL) => {
      for (const code of from.searchParams.getAll('code')) deps.issued.codes.add(code)
    }
    rememberCodes(url)
    const tampered = await deps.tamper().authorizationResponse(dialect.authorizationResponse(url))
    rememberCodes(tampered)
    return tampered
  }

  const redirect = async (reply: Reply): Promise<Reply> => {
    const url = await authorizationResponse(headerOf(reply.rawHeaders, 'location'))
    return url ? { ...reply, rawHeaders: setHeader(reply.rawHeaders, 'Location', url.href) } : reply
  }

  const formPost = async (reply: Reply): Promise<Reply> => {
    const html = reply.body.toString()
    const form = formOf(html)
    const url = form && (await authorizationResponse(withQuery(form.action, form.fields)))
    if (!url) return reply
    return { ...reply, body: Buffer.from(withForm(html, url.href.split('?')[0] ?? '', url.searchParams)) }
  }

  const json = async (request: ProviderRequest, reply: Reply): Promise<Reply> => {
    const tamper = deps.tamper()
    const isError = reply.status !== 200
    const own = parse(reply.body)
    if (request.kind === 'jwks') return withJson(reply, await tamper.jwks(dialect.jwks(request)))
    if (isError && request.kind === 'token') return dialect.tokenError(reply, request)
    if (own === null || isError) return reply
    if (request.kind === 'discovery') return withJson(reply, await tamper.discovery(dialect.metadata(own, request)))
    if (request.kind === 'userinfo') return withJson(reply, await tamper.userinfo(own))
    return withJson(reply, await tokenResponse(own, request))
  }

  return {
    answer: async (request, reply) => {
      if (['discovery', 'jwks', 'userinfo', 'token'].includes(request.kind)) return json(request, reply)
      if (request.kind !== 'authorization') return reply
      return reply.status < 400 && headerOf(reply.rawHeaders, 'location') ? redirect(reply) : formPost(reply)
    },
    restoreHint: params => {
      const original = originals.get(params.get('id_token_hint') ?? '')
      if (original) params.set('id_token_hint', original)
      return original !== undefined
    },
  }
}

const plainDialect = ({ keys }: RewriteDeps): Dialect => ({
  metadata: own => ({ ...own, id_token_signing_alg_values_supported: advertisedAlgs }),
  jwks: () => ({ keys: keys.published() }),
  idToken: (honest, accessToken) => {
    const { alg, kid } = keys.current()
    return { header: { alg, kid }, payload: { ...honest, at_hash: atHash(accessToken, alg) } }
  },
  tokenResponse: own => own,
  tokenError: reply => reply,
  authorizationResponse: url => url,
})

const decode = (part: string | undefined): Json => JSON.parse(Buffer.from(part ?? '', 'base64url').toString())

function parse(body: Buffer): Json | null {
  try {
    return JSON.parse(body.toString())
  } catch {
    return null
  }
}

function withQuery(action: string, fields: URLSearchParams): string | null {
  if (!URL.canParse(action)) return null
  const url = new URL(action)
  for (const [name, value] of fields) url.searchParams.append(name, value)
  return url.href
}

/** The reply with another body, as it stands or as JSON. */
export function withJson(reply: Reply, value: object | string): Reply {
  return { ...reply, body: Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)) }
}
