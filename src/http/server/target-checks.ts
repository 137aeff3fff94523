import type { IncomingMessage } from 'node:http'
import { isIPv4, isIPv6 } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { BadRequest, GatewayError } from '../../core/errors.ts'
import type { PathCheck } from '../../core/request-path.ts'
import { peerAddress, type Trusts } from './client-address.ts'

/** What a request is held against before any route is asked. */
export interface TargetChecks {
  publicOrigin: URL
  trusts: Trusts
  checkPath: PathCheck
}

/** More than any browser sends; beyond 2000 Node drops what it does not count, and nobody would know. */
const mostHeaders = 200
const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']

/**
 * Refuses what no route should ever see: a target that is not a path (`GET http://evil.test/`, `//evil.test`, `*`), in
 * which a host could hide, or that could be read as another path; a method that nothing here has, such as TRACE, which
 * repeats cookies; another host than the application's (RFC 9110 §7.4); and a request that a TLS terminator in front of an
 * https origin says it took over plain http. That last header only ever serves to refuse, so it need not be trusted.
 */
export function registerTargetChecks(app: FastifyInstance, { publicOrigin, trusts, checkPath }: TargetChecks): void {
  const https = publicOrigin.protocol === 'https:'
  const { host: ours, hostname: ourName } = publicOrigin

  const faultOf = (request: FastifyRequest): GatewayError | null => {
    const { raw, headers, method } = request
    if (raw.rawHeaders.length > 2 * mostHeaders)
      return new GatewayError('headers_too_large', 'The request has too many headers.')
    const pathFault = checkPath(raw.url ?? '')
    if (pathFault !== null) return new BadRequest(pathFault)
    if (!methods.includes(method)) return new GatewayError('method_not_allowed', 'The method is not allowed here.')
    const { host, 'x-forwarded-host': forwardedHost, 'x-forwarded-proto': forwardedProto } = headers
    if (host !== ours || forwardedHost !== undefined) {
      const believed = forwardedHost !== undefined && trusts(peerAddress(request)) ? String(forwardedHost) : undefined
      const fault = hostFault(raw, believed, ourName)
      if (fault !== null) return new BadRequest(fault)
    }
    if (!https || forwardedProto === undefined) return null
    const scheme = String(forwardedProto).split(',')[0]?.trim().toLowerCase()
    return scheme === 'http' ? new BadRequest('This application is only served over https.') : null
  }

  // Without a promise, as long as nothing has to be waited for.
  app.addHook('onRequest', (request, reply, done) => {
    const fault = faultOf(request)
    if (fault === null) return done()
    if (fault.code === 'method_not_allowed') reply.header('allow', methods.join(', '))
    done(fault)
  })
}

/** What is wrong with the host that a request is for, or null. Proxies one after the other may each have named it. */
function hostFault(request: IncomingMessage, forwarded: string | undefined, ours: string): string | null {
  const { host } = request.headers
  // Only HTTP/1.1 asks for it (RFC 9112 §3.2).
  if (host === undefined) return request.httpVersion === '1.0' ? null : 'The Host header is missing.'
  const sent = forwarded === undefined ? [host] : forwarded.split(',').map(part => part.trim())
  const names = sent.map(hostname)
  if (hostname(host) === null || names.includes(null)) return 'The host must be a name or an address, and maybe a port.'
  if (names.every(name => name === ours || staysHere(name ?? ''))) return null
  return 'This host is not served here: a proxy in front must pass on the Host that the browser sent.'
}

/** The name in `host[:port]`, in lower case, or null when it is something else. */
function hostname(host: string): string | null {
  const [, name = '', address = ''] = /^(?:([\w.-]{1,253})|\[([\da-f:.]{2,45})\])(?::\d{1,5})?$/i.exec(host) ?? []
  if (name !== '') return name.toLowerCase()
  return isIPv6(address) ? `[${address.toLowerCase()}]` : null
}

/**
 * Names that no other site can have: an address, as probes and port forwards use it, and this machine's own. Nothing is
 * ever made of a Host, so that letting them through gives nothing away.
 */
function staysHere(name: string): boolean {
  return name.startsWith('[') || isIPv4(name) || name === 'localhost' || name.endsWith('.localhost')
}
