import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { CsrfRefused } from '../../core/errors.ts'
import type { Audit } from '../../core/events.ts'
import { markOwn } from '../problem.ts'

/** Which other origins may call with the user's cookie (Fetch Standard §3.3), by exact comparison. */
export interface Cors {
  /** The headers of an answer to this `Origin`, for answers that the server does not send in its usual way. */
  headersFor(origin: string | undefined): Record<string, string>
}

const methods = 'GET, HEAD, POST, PUT, PATCH, DELETE'
const maxAge = 600
/** A list of header names; anything else is not repeated. */
const names = /^[\w!#$%&'*+.^`|~-]+(?:, ?[\w!#$%&'*+.^`|~-]+)*$/

export function createCors({ origins }: { origins: readonly string[] }): Cors {
  return {
    headersFor(origin) {
      if (origins.length === 0) return {}
      if (origin === undefined || !origins.includes(origin)) return { vary: 'Origin' }
      return { vary: 'Origin', 'access-control-allow-origin': origin, 'access-control-allow-credentials': 'true' }
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
    const headers = deps.cors.headersFor(request.headers.origin)
    const preflight = preflights.has(request)
    if (!preflight) for (const name of namesOf(reply, /^access-control-/)) reply.removeHeader(name)
    reply.headers({ ...headers, vary: withOrigin(reply, preflight) })
    // A script of the same origin could read all headers, too.
    if (!preflight && headers['access-control-allow-origin'] !== undefined)
      reply.header('access-control-expose-headers', namesOf(reply, exposed).join(', '))
  })
}

/** Whether a browser asks on behalf of another origin. The application itself may send OPTIONS like any method. */
function isPreflight({ headers }: FastifyRequest, publicOrigin: string): boolean {
  const { origin } = headers
  return origin !== undefined && origin !== publicOrigin && headers['access-control-request-method'] !== undefined
}

const exposed = /^(?!access-control-|set-cookie$|vary$|connection$|keep-alive$|transfer-encoding$)/

function namesOf(reply: FastifyReply, matching: RegExp): string[] {
  return Object.keys(reply.getHeaders()).filter(name => matching.test(name))
}

function withOrigin(reply: FastifyReply, preflight: boolean): string {
  const said = [reply.getHeader('vary') ?? []].flat().map(String)
  const own = preflight ? 'Origin, Access-Control-Request-Headers' : 'Origin'
  return [...said.filter(value => !/(?:^|,)\s*origin\s*(?:,|$)/i.test(value)), own].join(', ')
}
