import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Json } from '../provider/tamper.ts'
import { readJwt } from './jwt.ts'
import type { EntraKeys } from './keys.ts'

/** A claims challenge, or an imitation of one. */
export interface Challenge {
  /** Values of `WWW-Authenticate`, one header each. */
  headers: string[]
  /** Requests that get it; all while absent. */
  times?: number
  /** Only tokens for which this holds are challenged; all when absent. */
  unless?(claims: Json): boolean
}

/** An API that is protected by Entra, one resource. */
export interface FakeApi {
  readonly url: string
  readonly audience: string
  /** Requests so far with the claims of their tokens; undefined for those that were refused. */
  readonly seen: { method: string; url: string; token: string | undefined; claims: Json | undefined; body: string }[]
  challenge: Challenge | undefined
  close(): Promise<void>
}

/**
 * Starts an API that accepts tokens for its own audience alone: those for Graph or another API get 401 like any
 * stranger, so that a token forwarded by mistake shows.
 */
export async function startFakeApi(deps: {
  entra: { keys: EntraKeys }
  audience: string
  nowMs?: () => number
}): Promise<FakeApi> {
  const nowMs = deps.nowMs ?? Date.now
  let challenged = 0

  const accepted = (token: string | undefined): Json | undefined => {
    const jwt = token === undefined ? undefined : readJwt(token)
    if (!jwt || jwt.payload.aud !== deps.audience || Number(jwt.payload.exp) <= nowMs() / 1000) return undefined
    return deps.entra.keys.verifiers().some(key => jwt.signedBy(key)) ? jwt.payload : undefined
  }

  const server = createServer(async (req, res) => {
    const [, token] = /^Bearer (.+)$/i.exec(req.headers.authorization ?? '') ?? []
    const claims = accepted(token)
    api.seen.push({ method: req.method ?? '', url: req.url ?? '', token, claims, body: await text(req) })
    const { challenge } = api
    const refuse = (headers: string[]) => {
      res.writeHead(401, { 'www-authenticate': headers, 'content-type': 'application/json' })
      res.end('{"error":"unauthorized"}')
    }
    if (!claims) return refuse(['Bearer error="invalid_token"'])
    if (challenge && challenged < (challenge.times ?? Number.POSITIVE_INFINITY) && !challenge.unless?.(claims)) {
      challenged += 1
      return refuse(challenge.headers)
    }
    res.writeHead(200, { 'content-type': 'application/json' })
    res.end(JSON.stringify({ api: deps.audience, method: req.method, url: req.url }))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const api: FakeApi = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    audience: deps.audience,
    seen: [],
    challenge: undefined,
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  return api
}

async function text(req: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of req) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}
