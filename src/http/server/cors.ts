import type { OutgoingHttpHeaders } from 'node:http'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { CsrfRefused } from '../../core/errors.ts'
import type { Audit } from '../../core/events.ts'
import { markOwn } from '../problem.ts'

/** Which other origins may call with the user's cookie (Fetch Standard §3.3), by exact comparison. */
export interface Cors {
  /** The headers of an answer to this `Origin`, for answers that the server does not send in its usual way. */
  headersFor(origin: string | undefined): Record<string, string>
  /** What an answer to this `Origin` says of itself, besides the headers that it has for anybody. */
  headersBeside(headers: OutgoingHttpHeaders, origin: string | undefined): Record<string, string>
  /** The headers of an answer to this `Origin`, made of those that it has for anybody. */
  complete(headers: OutgoingHttpHeaders, origin: string | undefined): OutgoingHttpHeaders
}

const methods = 'GET, HEAD, POST, PUT, PATCH, DELETE'
const maxAge = 600
/** A list of header names; anything else is not repeated. */
const names = /^[\w!#$%&'*+.^`|~-]+(?:, ?[\w!#$%&'*+.^`|~-]+)*$/

export function createCors({ origins }: { origins: readonly string[] }): Cors {
  const headersFor = (origin: string | undefined): Record<string, string> => {
    if (origins.length === 0) return {}
    if (origin === undefined || !origins.includes(origin)) return { vary: 'Origin' }
    return { vary: 'Origin', 'access-control-allow-origin': origin, 'access-control-allow-credentials': 'true' }
  }
  const headersBeside: Cors['headersBeside'] = (headers, origin) => {
    const own: Record<string, string> = { ...headersFor(origin), vary: withOrigin(headers.vary, 'Origin') }
    if (own['access-control-allow-origin'] === undefined) return own
    // A script of the same origin could read all headers, too.
    const read = Object.keys(headers).filter(name => exposed.test(name))
    return { ...own, 'access-control-expose-headers': read.join(', ') }
  }
  return {
    headersFor,
    headersBeside,
    complete(headers, origin) {
      if (origins.length === 0) return headers
      const others = Object.entries(headers).filter(([name]) => !name.startsWith('access-control-'))
      return { ...Object.fromEntries(others), ...headersBeside(headers, origin) }
    },
  }
}

/** What the answers need. */
export interface CorsDeps {
  cors: Cors
  publicOrigin: string
  audit: Audit
}

/**
 * Answers preflights, which come without the cookie and must not go on to anybody, and sets the headers of all other
 * answers, errors and those of upstreams included: what an upstream says of CORS, it says of an origin that is not its own.
 * With no origins, only preflights are refused.
 */
export function registerCors(app: FastifyInstance, deps: CorsDeps): void {
  const preflights = new WeakSet<FastifyRequest>()
  app.addHook('onRequest', (request, reply, done) => {
    if (request.method !== 'OPTIONS' || !isPreflight(request, deps.publicOrigin)) return done()
    const allowed = deps.cors.headersFor(request.headers.origin)
    if (allowed['access-control-allow-origin'] === undefined) {
      const detail = 'the Origin is not that of the application'
      deps.audit({ event: 'csrf_refused', route: request.routeOptions.url ?? '', detail })
      return done(new CsrfRefused(detail))
    }
    preflights.add(request)
    markOwn(reply)
    const asked = request.headers['access-control-request-headers']
    reply.header('access-control-allow-methods', methods)
    if (asked !== undefined && names.test(asked)) reply.header('access-control-allow-headers', asked)
    reply.header('access-control-max-age', String(maxAge))
    reply.code(204).send()
  })
  if (deps.cors.headersFor(undefined).vary === undefined) return
  app.addHook('onSend', async (request, reply) => {
    const { origin } = request.headers
    const headers = reply.getHeaders()
    if (preflights.has(request)) {
      const vary = withOrigin(headers.vary, 'Origin, Access-Control-Request-Headers')
      return void reply.headers({ ...deps.cors.headersFor(origin), vary })
    }
    for (const name of Object.keys(headers)) if (name.startsWith('access-control-')) reply.removeHeader(name)
    reply.headers(deps.cors.headersBeside(headers as OutgoingHttpHeaders, origin))
  })
}

/** Whether a browser asks on behalf of another origin. The application itself may send OPTIONS like any method. */
function isPreflight({ headers }: FastifyRequest, publicOrigin: string): boolean {
  const { origin } = headers
  return origin !== undefined && origin !== publicOrigin && headers['access-control-request-method'] !== undefined
}

const exposed = /^(?!access-control-|set-cookie$|vary$|connection$|keep-alive$|transfer-encoding$)/

function withOrigin(vary: OutgoingHttpHeaders[string], own: string): string {
  const said = [vary ?? []].flat().map(String)
  return [...said.filter(value => !/(?:^|,)\s*origin\s*(?:,|$)/i.test(value)), own].join(', ')
}
