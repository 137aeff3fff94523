import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { BadRequest, GatewayError, NotAuthenticated } from '../../core/errors.ts'
import type { Audit } from '../../core/events.ts'
import { createBearerCheck } from '../bearer.ts'
import { markOwn, problemOf, registerProblems, sendProblem } from '../problem.ts'
import type { Admit, Policy } from '../upstream/admission.ts'

/** What forward-auth needs. */
export interface ForwardAuthDeps {
  admit: Admit
  /** Of the upstreams by name. */
  policies: readonly Policy[]
  /** What the proxy that asks proves itself with. */
  token: string
  loginUrl: string
  audit: Audit
}

/** Set once a refusal is one of the browser's request, and no longer one of the proxy that asks. */
const judged = Symbol('judged')

declare module 'fastify' {
  interface FastifyRequest {
    [judged]: boolean
  }
}

/** As the proxy takes them; what another proxy does with `OPTIONS` is its own affair. */
const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE']

/**
 * `/forward-auth/{upstream}` in any method, for another proxy that carries a request to an upstream itself: 200 with the
 * headers to add to it, or the problem with which the gateway would answer it. A problem is repeated in the header
 * `x-coatcheck-problem`, for a proxy that drops the body of a refusal; what lacks it is no refusal of the browser's request.
 * Envoy appends the path of the request, which decides nothing.
 */
export function registerForwardAuth(app: FastifyInstance, deps: ForwardAuthDeps): void {
  const mayAsk = createBearerCheck(deps.token)
  const policies = new Map(deps.policies.map(policy => [policy.audience.upstream, policy]))

  const authenticate = async ({ headers }: FastifyRequest, reply: FastifyReply) => {
    if (mayAsk(headers.authorization)) return
    deps.audit({ event: 'forward_auth_refused' })
    reply.header('www-authenticate', 'Bearer')
    const { code, message } = new NotAuthenticated(null)
    // No login helps a proxy.
    return sendProblem(reply, problemOf(code, message, {}))
  }

  const answer = async (request: FastifyRequest, reply: FastifyReply) => {
    const policy = policies.get((request.params as { upstream: string }).upstream)
    if (policy === undefined) throw new GatewayError('not_found', 'There is no such upstream.')
    request[judged] = true
    checkMethod(request, reply)
    const { stored, accessToken, claims } = await deps.admit(request, policy, 'request')
    if (stored?.session.dpopKey !== undefined && accessToken !== null)
      throw new GatewayError('bad_upstream', 'This API cannot be called here.', {
        detail: 'forward-auth: a token that is bound to a key is of no use to another proxy',
      })
    markOwn(reply)
    reply.headers(claims)
    if (accessToken !== null) reply.header('authorization', `Bearer ${accessToken}`)
    return reply.code(200).send()
  }

  app.register(
    async scope => {
      registerProblems(scope, { loginUrl: deps.loginUrl })
      scope.decorateRequest('found', null)
      scope.decorateRequest(judged, false)
      scope.addHook('onSend', async (request, reply, body) => {
        if (request[judged] && reply.statusCode >= 400 && typeof body === 'string')
          reply.header('x-coatcheck-problem', inHeader(body))
      })
      // All is decided on the headers, before a body could be read.
      const route = { method: scope.supportedMethods, onRequest: [authenticate, answer], handler() {} }
      scope.route({ ...route, url: '/:upstream' })
      scope.route({ ...route, url: '/:upstream/*' })
    },
    { prefix: '/forward-auth' },
  )
}

/**
 * The method of the request in question: nginx and Caddy ask with GET and say it in a header. A browser can send the one
 * that its proxy does not set, so two that differ are refused.
 */
function checkMethod({ method, headers }: FastifyRequest, reply: FastifyReply): void {
  const said = [headers['x-forwarded-method'], headers['x-original-method']].filter(value => value !== undefined)
  const [asked = method] = said
  if (said.some(value => value !== asked)) throw new BadRequest('The request has two methods.')
  if (methods.includes(String(asked))) return
  reply.header('allow', methods.join(', '))
  throw new GatewayError('method_not_allowed', 'The method is not allowed here.')
}

/** The same JSON in the characters that a header may have. */
function inHeader(json: string): string {
  return json.replace(/[^ -~]/g, character => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`)
}
