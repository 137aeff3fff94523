import type { IncomingHttpHeaders } from 'node:http'

/** What a request to the provider is about. */
export type EndpointKind =
  | 'discovery'
  | 'jwks'
  | 'authorization'
  | 'par'
  | 'login'
  | 'token'
  | 'userinfo'
  | 'revocation'
  | 'logout'
  | 'other'

/** One request as it reached the provider. */
export interface ProviderRequest {
  kind: EndpointKind
  method: string
  path: string
  query: URLSearchParams
  headers: IncomingHttpHeaders
  rawHeaders: string[]
  /** The body read as a form; empty when it is none. */
  form: URLSearchParams
  body: string
  /** Arrival, in epoch milliseconds. */
  at: number
  /** Status that went out, or what happened instead; undefined while unanswered. */
  answered: number | 'reset' | 'hang' | undefined
}

const endpoints: [RegExp, EndpointKind][] = [
  [/^\/\.well-known\//, 'discovery'],
  [/^\/jwks$/, 'jwks'],
  [/^\/auth(\/|$)/, 'authorization'],
  [/^\/request$/, 'par'],
  [/^\/login(\/|$)/, 'login'],
  [/^\/token$/, 'token'],
  [/^\/me$/, 'userinfo'],
  [/^\/token\/revocation$/, 'revocation'],
  [/^\/session\/end(\/|$)/, 'logout'],
]

/** Which endpoint a path belongs to. */
export function endpointKind(path: string): EndpointKind {
  return endpoints.find(([pattern]) => pattern.test(path))?.[1] ?? 'other'
}

/** Everything that left the provider and must never turn up anywhere else. */
export interface Issued {
  accessTokens: Set<string>
  refreshTokens: Set<string>
  codes: Set<string>
  idTokens: Set<string>
}

/** An empty record of canaries. */
export function createIssued(): Issued {
  return { accessTokens: new Set(), refreshTokens: new Set(), codes: new Set(), idTokens: new Set() }
}
