import { createHash, randomUUID } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import { calculateJwkThumbprint, decodeJwt, EmbeddedJWK, type JWTPayload, jwtVerify } from 'jose'
import type { TestUpstream, UpstreamRequest } from './upstream.ts'

/** What an API makes of a request: why it refuses, or nothing. */
export type Refusal = 'scheme' | 'proof' | 'method' | 'address' | 'token' | 'time' | 'replay' | 'key' | 'nonce'

/** An API that takes DPoP-bound tokens only (RFC 9449 §4.3, §7.1), over a recording upstream. */
export interface DpopApi {
  /** Whether proofs must carry the nonce; `never right`: there is always another one. */
  nonces: 'none' | 'required' | 'never right'
  /** Makes a nonce that was right wrong. */
  expireNonce(): void
  /** What became of each request, in order. */
  readonly verdicts: ('ok' | Refusal)[]
  /** The claims of each proof that was in order. */
  readonly proofs: (JWTPayload & { jkt: string })[]
  /** What this API would make of a request. */
  judge(request: Pick<UpstreamRequest, 'method' | 'url' | 'headers'>, now: number): Promise<Refusal | null>
}

/** Makes an upstream check proofs against its tokens, which are JWTs and say what key they are bound to. */
export function protect(upstream: TestUpstream, { now }: { now: () => number }): DpopApi {
  let nonce: string = randomUUID()
  const seen = new Set<unknown>()

  const check = async (
    { method, url, headers }: Pick<UpstreamRequest, 'method' | 'url' | 'headers'>,
    at: number,
  ): Promise<Refusal | (JWTPayload & { jkt: string })> => {
    const token = /^DPoP ([\w.~+/-]+)$/.exec(headers.authorization ?? '')?.[1]
    if (token === undefined) return 'scheme'
    const verified = await jwtVerify(String(headers.dpop), EmbeddedJWK, {
      algorithms: ['ES256'],
      typ: 'dpop+jwt',
      currentDate: new Date(at),
    }).catch(() => null)
    if (verified === null || 'd' in (verified.protectedHeader.jwk ?? {})) return 'proof'
    const { payload, protectedHeader } = verified
    if (payload.htm !== method) return 'method'
    if (payload.htu !== `${upstream.url}${url.split('?')[0]}`) return 'address'
    if (payload.ath !== createHash('sha256').update(token).digest('base64url')) return 'token'
    if (Math.abs(Number(payload.iat) - at / 1000) > 10) return 'time'
    const jkt = await calculateJwkThumbprint(protectedHeader.jwk ?? {})
    if (keyOf(token) !== jkt) return 'key'
    if (api.nonces === 'never right' || (api.nonces === 'required' && payload.nonce !== nonce)) return 'nonce'
    if (payload.jti === undefined || seen.has(payload.jti)) return 'replay'
    return { ...payload, jkt }
  }

  const api: DpopApi = {
    nonces: 'none',
    expireNonce: () => {
      nonce = randomUUID()
    },
    verdicts: [],
    proofs: [],
    async judge(request, at) {
      const result = await check(request, at)
      return typeof result === 'string' ? result : null
    },
  }
  upstream.respond = async (request, res) => {
    const result = await check(request, now())
    api.verdicts.push(typeof result === 'string' ? result : 'ok')
    if (api.nonces === 'never right') nonce = randomUUID()
    const headers: Record<string, string> = api.nonces === 'none' ? {} : { 'dpop-nonce': nonce }
    if (typeof result === 'string') return refuse(res, result, headers)
    seen.add(result.jti)
    api.proofs.push(result)
    res.writeHead(200, { 'content-type': 'application/json', ...headers })
    res.end(JSON.stringify({ method: request.method, url: request.url }))
  }
  return api
}

/** The key to which a token is bound (RFC 9449 §6.1). */
export function keyOf(token: string): string | undefined {
  return (decodeJwt(token).cnf as { jkt?: string } | undefined)?.jkt
}

function refuse(res: ServerResponse, reason: Refusal, headers: Record<string, string>): void {
  const error = reason === 'nonce' ? 'use_dpop_nonce' : reason === 'token' ? 'invalid_token' : 'invalid_dpop_proof'
  res.writeHead(401, { 'www-authenticate': `DPoP error="${error}", algs="ES256"`, ...headers })
  res.end(reason)
}
