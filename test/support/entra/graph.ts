import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { readJwt } from './jwt.ts'
import { graphAudience } from './scopes.ts'

/** Microsoft Graph, as far as groups go. */
export interface FakeGraph {
  readonly url: string
  /** Paths asked for, with the audience of the token. */
  readonly seen: { method: string; url: string; audience: unknown }[]
  /** Groups by object id of the user. */
  readonly groups: Map<string, string[]>
  pageSize: number
  /** What `@odata.nextLink` says instead of the next page here, e.g. an address on another host. */
  nextLink: string | undefined
  /** Answers everything with this status instead. */
  status: number | undefined
  close(): Promise<void>
}

/** Starts Graph on 127.0.0.1: `GET /v1.0/me/transitiveMemberOf` in pages and `POST /v1.0/me/getMemberObjects`. */
export async function startFakeGraph(): Promise<FakeGraph> {
  const server = createServer((req, res) => {
    const url = new URL(req.url ?? '/', graph.url)
    const jwt = readJwt(req.headers.authorization?.slice('Bearer '.length) ?? '')
    graph.seen.push({ method: req.method ?? '', url: req.url ?? '', audience: jwt?.payload.aud })
    const send = (status: number, body: object) => {
      res.writeHead(status, { 'content-type': 'application/json' })
      res.end(JSON.stringify(body))
    }
    if (graph.status !== undefined) return send(graph.status, { error: { code: 'serviceNotAvailable' } })
    if (jwt?.payload.aud !== graphAudience) return send(401, { error: { code: 'InvalidAuthenticationToken' } })
    const all = graph.groups.get(String(jwt.payload.oid)) ?? []
    if (req.method === 'POST' && url.pathname === '/v1.0/me/getMemberObjects') return send(200, { value: all })
    if (url.pathname !== '/v1.0/me/transitiveMemberOf')
      return send(404, { error: { code: 'Request_ResourceNotFound' } })
    const from = Number(url.searchParams.get('$skiptoken') ?? 0)
    const upTo = from + graph.pageSize
    const next = `${graph.url}/v1.0/me/transitiveMemberOf?$select=id&$skiptoken=${upTo}`
    const more = upTo < all.length ? { '@odata.nextLink': graph.nextLink ?? next } : {}
    const value = all.slice(from, upTo).map(id => ({ '@odata.type': '#microsoft.graph.group', id }))
    return send(200, { value, ...more })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const graph: FakeGraph = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen: [],
    groups: new Map(),
    pageSize: 100,
    nextLink: undefined,
    status: undefined,
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  return graph
}
