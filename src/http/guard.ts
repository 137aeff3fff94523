import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { CsrfRefused, GatewayError } from '../core/errors.ts'
import type { Audit } from '../core/events.ts'
import type { Lookup } from '../store/store.ts'
import type { Csrf, CsrfRule } from './csrf.ts'
import { type Eventual, whenThere } from './eventual.ts'
import { acceptForms } from './form.ts'
import { markOwn } from './problem.ts'
import { queryOf } from './query.ts'
import type { RateLimit } from './rate-limit.ts'
import { liveSession, type ReadSession } from './session.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Answered with pages rather than problem documents where the browser takes them. */
    forPeople?: boolean
  }
  interface FastifyRequest {
    /** What the request's cookie names, once its guard has looked. */
    found: Lookup | null
  }
}

/** What must hold before a handler runs. */
export interface Guard {
  csrf: CsrfRule
  /** `required` answers 401 without a live session, `optional` goes on without one, `none` does not look. */
  session: 'none' | 'optional' | 'required'
  /**
   * Whether the request counts as user activity, unless it says otherwise of itself: with `X-Activity: passive`, and
   * where this is `unless-asked` also with `?slide=false`.
   */
  slides: boolean | 'unless-asked'
  /** How often a client may ask, whatever comes of it. */
  limit?: RateLimit
  /** The access token to read along with the session; none without it. */
  slot?: string
}

/** A row of the guard table: one endpoint of the gateway's own. */
export interface GuardedRoute extends Guard {
  method: 'GET' | 'POST' | 'DELETE'
  path: string
  /** Whether people navigate here: only then may it redirect, and its errors are pages. */
  forPeople: boolean
  /** The body that it reads; none without it. */
  body?: 'form'
  handler: (request: FastifyRequest, reply: FastifyReply) => unknown
}

/** What the guard needs. */
export interface GuardDeps {
  csrf: Csrf
  readSession: ReadSession
  audit: Audit
}

/** Lets a request pass, or throws what it is refused with. */
export type Check = (guard: Guard, request: FastifyRequest) => Eventual<void>

/** Makes a guard's check: the CSRF rule first, on headers alone, so that no other site uses up a limit; then the session. */
export function createGuard({ csrf, readSession, audit }: GuardDeps): Check {
  const checkSession: Check = (guard, request) => {
    if (guard.session === 'none') return
    const active = slides(guard, request)
    const reading = readSession(request, { active, ...(guard.slot !== undefined && { slot: guard.slot }) })
    return whenThere(reading, found => {
      request.found = found
      if (guard.session === 'required') liveSession(found)
    })
  }

  return (guard, request) => {
    const refusal = csrf.refusal(guard.csrf, request.headers)
    if (refusal !== null) {
      audit({ event: 'csrf_refused', route: request.routeOptions.url ?? '', detail: refusal })
      throw new CsrfRefused(refusal)
    }
    return whenThere(guard.limit?.use(request.client.address), () => checkSession(guard, request))
  }
}

function slides(guard: Guard, request: FastifyRequest): boolean {
  if (guard.slides === false || request.headers['x-activity'] === 'passive') return false
  return guard.slides === true || queryOf(request).get('slide') !== 'false'
}

const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const

/**
 * Registers the rows of a guard table, a 405 for every method that no row of a path has, and a 404 for all else below the
 * prefix, which is the gateway's own whatever stands behind it.
 */
export function registerGuarded(
  app: FastifyInstance,
  prefix: string,
  rows: readonly GuardedRoute[],
  check: Check,
): void {
  app.decorateRequest('found', null)
  // What takes no body reads none, whatever its type.
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, _payload, done) => done(null))
  const register = (scope: FastifyInstance, row: GuardedRoute) => {
    scope.route({
      method: row.method,
      url: row.path,
      exposeHeadRoute: false,
      config: { forPeople: row.forPeople },
      async onRequest(request, reply) {
        markOwn(reply)
        await check(row, request)
      },
      handler: row.handler,
    })
  }
  for (const row of rows.filter(({ body }) => body === undefined)) register(app, row)
  app.register(async scope => {
    acceptForms(scope)
    for (const row of rows.filter(({ body }) => body === 'form')) register(scope, row)
  })
  for (const path of new Set(rows.map(row => row.path))) {
    const allowed = rows.filter(row => row.path === path).map(row => row.method)
    app.route({
      method: methods.filter(method => !allowed.some(known => known === method)),
      url: path,
      async onRequest(_request, reply) {
        reply.header('allow', allowed.join(', '))
        throw new GatewayError('method_not_allowed', 'The method is not allowed here.')
      },
      handler() {},
    })
  }
  for (const url of [prefix, `${prefix}/*`])
    app.route({ method: [...methods], url, handler: (_, reply) => reply.callNotFound() })
}
