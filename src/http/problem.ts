import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError, NotAuthenticated, type ProblemCode, problems, StepUpRequired } from '../core/errors.ts'
import type { EndReason } from '../core/session.ts'
import { sendPage } from './page.ts'
import { newReference } from './reference.ts'
import { createRepeats } from './repeats.ts'

/** The body of an error answer (RFC 9457 §3). */
export interface Problem {
  type: string
  title: string
  status: number
  detail: string
  code: ProblemCode
  /** Where a login would help. */
  loginUrl?: string
  /** Why the session ended, where that is remembered. */
  reason?: EndReason
}

/** What becomes of errors; the only place that decides what leaves the gateway. */
export interface ProblemOptions {
  /** Absent where no login helps. */
  loginUrl?: string
}

/** As {@link ProblemOptions}, for a whole server. */
export interface ServerProblemOptions extends ProblemOptions {
  /** Answers a request for nothing we have with the SPA's page, or calls `otherwise` where that is not what it asks for. */
  openPage?: ((request: FastifyRequest, reply: FastifyReply, otherwise: () => void) => void) | undefined
}

/** An error of fastify or one of its plugins, with what it wants to be answered. */
type FrameworkError = Error & { statusCode?: number; headers?: Record<string, string> }

/** The problem of a code. `detail` must be fit for the browser. */
export function problemOf(code: ProblemCode, detail: string, options: ProblemOptions): Problem {
  const { status, title } = problems[code]
  const problem: Problem = { type: `urn:coatcheck:problem:${code}`, title, status, detail, code }
  if (status === 401 && options.loginUrl !== undefined) problem.loginUrl = options.loginUrl
  return problem
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Headers of everything that this server says itself. */
    ownHeaders: Record<string, string>
  }
}

/**
 * Headers of everything that the gateway says itself: not stored, not framed, not sniffed, not told to others, and, where
 * the application is served over https, over nothing else for a year (OWASP ASVS 3.4.1).
 */
export function ownHeadersFor(publicOrigin?: URL): Record<string, string> {
  return {
    'cache-control': 'no-store',
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
    'cross-origin-resource-policy': 'same-origin',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
    ...transportSecurity(publicOrigin),
  }
}

/** For all answers of an https origin; browsers take it from no other. */
export function transportSecurity(publicOrigin?: URL): Record<string, string> {
  return publicOrigin?.protocol === 'https:'
    ? { 'strict-transport-security': 'max-age=31536000; includeSubDomains' }
    : {}
}

/** Sets the headers of an answer that the gateway gives itself. */
export function markOwn(reply: FastifyReply): void {
  reply.headers(reply.server.ownHeaders)
}

/** Answers a request with a problem. */
export function sendProblem(reply: FastifyReply, problem: Problem, retryAfter?: number): FastifyReply {
  markOwn(reply)
  if (retryAfter !== undefined) reply.header('retry-after', String(retryAfter))
  return reply.code(problem.status).type('application/problem+json').send(JSON.stringify(problem))
}

/** Makes every error, of ours and of fastify's, a problem, or a page for a person who navigates to one of our own endpoints. */
export function registerProblems(app: FastifyInstance, options: ServerProblemOptions): void {
  const repeats = createRepeats(() => performance.now())
  app.setErrorHandler((error: FrameworkError, request, reply) => {
    const known = error instanceof GatewayError ? error : fromFramework(error)
    const asPage = request.routeOptions.config.forPeople && wantsPage(request)
    const reference = asPage && known.status >= 500 ? newReference() : undefined
    // Who leaves takes the request to the upstream along, which is nobody's failure.
    const left = known.code === 'bad_upstream' && (reply.raw.socket?.destroyed ?? true)
    if (known.status < 500 || left) request.log.debug({ err: error }, left ? 'client left' : 'request refused')
    else if (known.status !== 503 || asPage) request.log.error({ err: error, reference }, 'request failed')
    else {
      // An outage meets every request, and the first of them has said what there is to say.
      const repeated = repeats(`${known.code} ${known.detail}`)
      if (repeated === null) request.log.debug({ err: error }, 'request failed')
      else request.log.error({ err: error, ...(repeated > 0 && { repeated }) }, 'request failed')
    }
    // The length of the file, for whoever asked for a part that it does not have (RFC 9110 §15.5.17).
    if (known.code === 'range_not_satisfiable') reply.headers(error.headers ?? {})
    if (asPage) return sendErrorPage(reply, known, options, reference)
    const problem = problemOf(known.code, known.message, options)
    if (known instanceof NotAuthenticated && known.reason !== null) problem.reason = known.reason
    if (known instanceof StepUpRequired && known.handle !== undefined && problem.loginUrl !== undefined)
      problem.loginUrl += `?step_up=${known.handle}`
    return sendProblem(reply, problem, known.retryAfter)
  })
  app.setNotFoundHandler((request, reply) => {
    const refuse = () => void sendProblem(reply, problemOf('not_found', 'There is nothing here.', options))
    if (options.openPage) options.openPage(request, reply, refuse)
    else refuse()
  })
}

const frameworkProblems: Record<number, [ProblemCode, string]> = {
  400: ['bad_request', 'The request is not understood.'],
  404: ['not_found', 'There is nothing here.'],
  405: ['method_not_allowed', 'The method is not allowed here.'],
  412: ['precondition_failed', 'The file is not the one that the request is about.'],
  413: ['payload_too_large', 'The request body is too large.'],
  414: ['uri_too_long', 'The request target is too long.'],
  415: ['unsupported_media_type', 'The media type is not supported.'],
  416: ['range_not_satisfiable', 'The file has no such part.'],
}

/** What a refusal of the framework's is called here. */
export function fromFramework(error: Error & { statusCode?: number }): GatewayError {
  const [code, message] = frameworkProblems[error.statusCode ?? 500] ?? ['internal_error', 'The gateway failed.']
  return new GatewayError(code, message, { cause: error })
}

function wantsPage(request: FastifyRequest): boolean {
  return request.headers.accept?.includes('text/html') ?? false
}

function sendErrorPage(
  reply: FastifyReply,
  error: GatewayError,
  options: ProblemOptions,
  reference: string | undefined,
): FastifyReply {
  markOwn(reply)
  if (error.retryAfter !== undefined) reply.header('retry-after', String(error.retryAfter))
  return sendPage(reply, {
    status: error.status,
    title: problems[error.code].title,
    text: error.message,
    ...(options.loginUrl !== undefined && { link: { href: options.loginUrl, label: 'Sign in' } }),
    ...(reference !== undefined && { reference }),
  })
}
