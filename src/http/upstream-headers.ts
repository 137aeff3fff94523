import type { IncomingHttpHeaders } from 'node:http'
import { withoutDemands } from '../core/challenge.ts'

/** What the gateway says of a request to an upstream. */
export interface ForwardedAs {
  accessToken: string
  clientAddress: string
  publicOrigin: URL
}

/**
 * Headers that say who the client is, where it is, or what was really asked. An upstream may believe them, so only the
 * gateway may set them (RFC 9700 §4.13). Compared with `_` read as `-`, since many servers cannot tell them apart.
 */
const claimed =
  /^(cookie2?|.*authorization|dpop|forwarded|via|(x-)?real-ip|(x-|true-|cf-connecting-|fastly-|x-cluster-)?client-ip|cf-connecting-ip|(x-)?remote-.*|x-(access|id|refresh)-token|x-(forwarded|original|rewrite|host|user|username|userid|auth|authenticated|email|groups?|roles?|claims?|jwt|token|identity|principal|subject|tenant|consumer|credential|envoy|goog|ms-client|amzn-oidc|csrf|activity|http-method|method)(-.*)?)$/

/** Headers of one connection only (RFC 9110 §7.6.1); what `Connection` names is dropped before this is asked. */
const hopByHop = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

/** The headers an upstream gets: the client's own without what it has no say in, and the gateway's word instead. */
export function requestHeaders(headers: IncomingHttpHeaders, forwarded: ForwardedAs): IncomingHttpHeaders {
  const kept: IncomingHttpHeaders = {}
  for (const name in headers) {
    if (!hopByHop.has(name) && !claimed.test(name.replaceAll('_', '-'))) kept[name] = headers[name]
  }
  kept.authorization = `Bearer ${forwarded.accessToken}`
  kept['x-forwarded-for'] = forwarded.clientAddress
  kept['x-forwarded-host'] = forwarded.publicOrigin.host
  kept['x-forwarded-proto'] = forwarded.publicOrigin.protocol.slice(0, -1)
  return kept
}

/**
 * An upstream's answer without its cookies, which would be the gateway's on this origin, and without its demands for a
 * stronger login, which are the gateway's to meet.
 */
export function responseHeaders(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  const { 'set-cookie': _dropped, 'www-authenticate': challenge, ...kept } = headers
  const challenges = challenge === undefined ? [] : withoutDemands(challenge)
  return challenges.length === 0 ? kept : { ...kept, 'www-authenticate': challenges as unknown as string }
}
