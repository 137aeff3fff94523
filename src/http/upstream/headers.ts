import type { IncomingHttpHeaders } from 'node:http'
import { harmlessChallenges } from '../../core/challenge.ts'

/** What the gateway says of a request to an upstream. */
export interface ForwardedAs {
  /** Scheme and token; undefined for a request without a token. */
  authorization: string | undefined
  /** The client, and the trusted proxies between it and us. */
  addresses: readonly string[]
  /** What the upstream is told of the user. */
  claims: Readonly<Record<string, string>>
}

/**
 * Headers that say who the client is, where it is, or what was really asked. An upstream may believe them, so only the
 * gateway may set them (RFC 9700 §4.13, RFC 9440 §4). `Proxy` becomes `HTTP_PROXY` where headers become environment. Compared
 * with all but letters and digits read as `-`, since many servers cannot tell them apart.
 */
const claimed = new RegExp(
  `^(${[
    'cookie2?|.*authorization|dpop|forwarded|via|proxy|oidc-.*|cf-access-.*',
    '(x-)?real-ip|(x-|true-|cf-connecting-|fastly-|x-cluster-|(x-|wl-)?proxy-)?client-ip|cf-connecting-ip|x-originating-ip',
    '(x-)?remote-.*|(x-)?(ssl-)?client-(cert|verify|dn|subject|serial)(-.*)?|x-(url-)?scheme|front-end-https',
    'x-(access|id|refresh)-token',
    'x-(forwarded|original|rewrite|host|user|username|userid|userinfo|auth|authenticated|webauth|email|groups?|roles?|claims?|jwt|token|identity|principal|subject|tenant|scope-orgid|consumer|credential|envoy|pomerium|vouch|oidc|sso|goog|ms-client|ms-token|amzn-oidc|csrf|activity|http-method|method)(-.*)?',
  ].join('|')})$`,
)

/** Headers of one connection only (RFC 9110 §7.6.1); what `Connection` names is dropped beside them. */
const hopByHop = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

const unusual = /[^a-z0-9-]/
const unusualAll = /[^a-z0-9-]/g

/** Answered by this server, or between it and the client alone: `Expect` (RFC 9110 §10.1.1), h2c (RFC 7540 §3.2.1). */
const ours = /^(expect|http2-settings|sec-websocket-.*|access-control-request-.*)$/

/** Makes the headers of requests to upstreams. */
export type RequestHeaders = (headers: IncomingHttpHeaders, forwarded: ForwardedAs) => IncomingHttpHeaders

/** What is the same for all requests to an upstream. */
export interface RequestHeadersOptions {
  /** The upstream's own name, and port. */
  host: string
  publicOrigin: URL
  /** The headers that tell any upstream of the user; no client may send one of these to any of them. */
  claimNames: readonly string[]
}

/** The headers an upstream gets: the client's own without what it has no say in, and the gateway's word instead. */
export function createRequestHeaders({ host, publicOrigin, claimNames }: RequestHeadersOptions): RequestHeaders {
  const [publicHost, publicScheme] = [publicOrigin.host, publicOrigin.protocol.slice(0, -1)]
  const reserved = new Set(claimNames.map(plain))
  const isDropped = remembered(name => {
    const spelled = plain(name)
    return hopByHop.has(spelled) || ours.test(spelled) || claimed.test(spelled) || reserved.has(spelled)
  })

  return (headers, { authorization, addresses, claims }) => {
    const nominated = nominatedBy(headers)
    const kept: IncomingHttpHeaders = {}
    for (const name in headers) {
      if (!isDropped(name) && !nominated?.has(name)) kept[name] = headers[name]
    }
    kept.host = host
    if (authorization !== undefined) kept.authorization = authorization
    kept['x-forwarded-for'] = addresses.join(', ')
    kept['x-forwarded-host'] = publicHost
    kept['x-forwarded-proto'] = publicScheme
    return Object.assign(kept, claims)
  }
}

/** The names that come are few, and the same again and again; made-up ones are judged each time when there is no more room. */
function remembered(judge: (name: string) => boolean): (name: string) => boolean {
  const known = new Map<string, boolean>()
  return name => {
    const judged = known.get(name) ?? judge(name)
    if (known.size < 1000) known.set(name, judged)
    return judged
  }
}

function plain(name: string): string {
  const lower = name.toLowerCase()
  return unusual.test(lower) ? lower.replaceAll(unusualAll, '-') : lower
}

/** What `Connection` names beside itself, in either direction. */
function nominatedBy({ connection }: IncomingHttpHeaders): Set<string> | null {
  if (connection === undefined || connection === 'keep-alive' || connection === 'close') return null
  // `Host` is the upstream's own by now.
  return new Set(
    String(connection)
      .toLowerCase()
      .split(/[,\s]+/)
      .filter(name => name !== 'host'),
  )
}

/**
 * What no upstream says on the gateway's origin: cookies and data of it, who may read its answers, where else it may be
 * reached, how it is to be reached; what a proxy in front would take for an order; and what tells of the machines behind it.
 */
const withheld =
  /^(set-cookie2?|access-control-.*|clear-site-data|service-worker-allowed|strict-transport-security|public-key-pins(-.*)?|alt-svc|alternates|refresh|server|x-powered-by|x-aspnet(mvc)?-version|x-generator|via|nel|report-to|reporting-endpoints|x-accel-(redirect|limit-rate|charset|expires)|x-sendfile.*|x-lighttpd-send-?file|x-reproxy-url)$/

const isWithheld = remembered(name => hopByHop.has(name) || withheld.test(name))

/** The headers of an upstream's answer that go to the browser. */
export function responseHeaders(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  const nominated = nominatedBy(headers)
  const kept: IncomingHttpHeaders = {}
  for (const name in headers) {
    if (!isWithheld(name) && !nominated?.has(name)) kept[name] = headers[name]
  }
  const { 'www-authenticate': challenge, ...rest } = kept
  if (challenge === undefined) return kept
  const challenges = harmlessChallenges(challenge)
  return challenges.length === 0 ? rest : { ...rest, 'www-authenticate': challenges as unknown as string }
}
