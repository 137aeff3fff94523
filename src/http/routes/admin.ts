import type { FastifyInstance, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { BadRequest, GatewayError, NotAuthenticated } from '../../core/errors.ts'
import type { Audit } from '../../core/events.ts'
import type { SessionsFlow } from '../../flows/sessions.ts'
import { createBearerCheck } from '../bearer.ts'

/** What the admin API needs. */
export interface AdminDeps {
  sessions: Pick<SessionsFlow, 'endSelected'>
  token: string
  /** Assumed for a `sid` or `sub` that is given alone. */
  issuer: string
  audit: Audit
}

const name = z.string().min(1).max(512)
const issuer = name.optional()
const selectors = z.union([
  z.strictObject({ session: name }),
  z.strictObject({ sid: name, iss: issuer }),
  z.strictObject({ sub: name, iss: issuer }),
  z.strictObject({ tid: name, oid: name }),
])

/** `POST /admin/revoke` with the bearer secret: ends sessions by handle, provider session or user → `{"ended":n}`. */
export function registerAdmin(app: FastifyInstance, deps: AdminDeps): void {
  const mayAsk = createBearerCheck(deps.token)
  // The framework would read plain text as well.
  app.removeContentTypeParser('text/plain')

  app.post('/admin/revoke', {
    async onRequest(request: FastifyRequest, reply) {
      if (mayAsk(request.headers.authorization)) return
      deps.audit({ event: 'admin_refused' })
      reply.header('www-authenticate', 'Bearer')
      throw new NotAuthenticated(null)
    },
    async handler(request) {
      const selector = selectors.safeParse(request.body)
      if (!selector.success)
        throw new BadRequest(
          'The body must be {"session":…}, {"iss":…,"sid":…}, {"iss":…,"sub":…} or {"tid":…,"oid":…}.',
        )
      const { data } = selector
      const named = 'sid' in data || 'sub' in data ? { ...data, iss: data.iss ?? deps.issuer } : data
      return { ended: await deps.sessions.endSelected(named) }
    },
  })
  app.route({
    method: ['GET', 'HEAD', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'],
    url: '/admin/revoke',
    exposeHeadRoute: false,
    async onRequest(_request, reply) {
      reply.header('allow', 'POST')
      throw new GatewayError('method_not_allowed', 'The method is not allowed here.')
    },
    handler() {},
  })
}
