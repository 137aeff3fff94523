import type { EndpointKind, ProviderRequest } from '../provider/journal.ts'
import type { Json } from '../provider/tamper.ts'
import { jsonObject } from './jwt.ts'
import { parseScopes } from './scopes.ts'

/** An authorization or token request, read for assertions. */
export interface EntraAsked {
  request: ProviderRequest
  params: URLSearchParams
  scopes: string[]
  /** Resources that the scopes belong to. */
  resources: string[]
  /** The `claims` parameter decoded; `unreadable` when it is no JSON object. */
  claims: Json | 'unreadable' | undefined
}

/** Reads the parameters of a request. */
export function readAsked(request: ProviderRequest, clientId: string): EntraAsked {
  const params = request.method === 'POST' ? request.form : request.query
  const claims = params.get('claims')
  return {
    request,
    params,
    scopes: params.get('scope')?.split(' ').filter(Boolean) ?? [],
    resources: [...parseScopes(params.get('scope'), clientId).resources.keys()],
    claims: claims === null ? undefined : (jsonObject(claims) ?? 'unreadable'),
  }
}

/** A journal with Entra's requests by kind. */
export function createJournal() {
  const requests: ProviderRequest[] = []
  const replays: ProviderRequest[] = []
  const spent = new Set<string>()
  const of = (kind: EndpointKind) => requests.filter(request => request.kind === kind)
  return {
    requests,
    of,
    replays: () => [...replays],
    arrived: (request: ProviderRequest) => {
      requests.push(request)
      if (request.kind === 'token' && spent.has(request.form.get('refresh_token') ?? '')) replays.push(request)
    },
    /** A refresh token was presented and replaced. */
    spend: (refreshToken: string) => spent.add(refreshToken),
    clear: () => {
      requests.length = 0
      replays.length = 0
    },
  }
}
