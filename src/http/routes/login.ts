import type { FastifyReply, FastifyRequest } from 'fastify'
import { standardCode } from '../../core/error-code.ts'
import { BadRequest, LoginRejected, type LoginRejection, ProviderUnavailable } from '../../core/errors.ts'
import type { Audit } from '../../core/events.ts'
import { isRandomToken } from '../../core/random.ts'
import { sessionIdOf } from '../../core/session.ts'
import type { LoginFlow, LoginRequest } from '../../flows/login.ts'
import type { Cookies } from '../cookies.ts'
import { formOf } from '../form.ts'
import { sendPage } from '../page.ts'
import { queryOf } from '../query.ts'
import { isReference, newReference } from '../reference.ts'

/** What the login's endpoints need. */
export interface LoginRouteDeps {
  login: LoginFlow
  cookies: Cookies
  audit: Audit
  /** Where a login starts, and where a failed one ends. */
  loginUrl: string
  failedUrl: string
}

const prompts = ['none', 'login', 'select_account', 'consent'] as const

/** What the page says after a login that opened no session; nothing of the request is repeated. */
const sentences: Record<LoginRejection | 'unavailable', string> = {
  stale: 'This sign-in is no longer valid: it was finished already, took too long, or was started in another browser.',
  denied: 'The sign-in was cancelled, or the identity provider refused it.',
  consent_required:
    'The identity provider needs a consent before you can sign in here: yours, or that of an administrator.',
  interaction_required: 'The identity provider needs something more from you. Sign in again, and do what it asks for.',
  provider_error: 'The identity provider reported an error.',
  invalid_response: 'The answer of the identity provider could not be verified.',
  tenant_not_allowed: 'Users of your organisation may not sign in here.',
  too_weak: 'The sign-in was not as strong as was asked for.',
  another_user: 'Somebody else signed in than the user of this session.',
  unavailable: 'The identity provider cannot be used at the moment. Try again later.',
}

/** The handlers of `GET /login`, `GET` or `POST /callback` and the page after a failed login. */
export function createLoginRoutes(deps: LoginRouteDeps) {
  const { login, cookies, audit, loginUrl, failedUrl } = deps

  /**
   * The provider's site started this navigation, so a Strict cookie is not with it: a hop from a page of this site
   * brings it along, and what comes next can tell whether there is a session.
   */
  const refuse = (reply: FastifyReply, status: number, reason: keyof typeof sentences, reference: string) => {
    const next = `${failedUrl}?reason=${reason}&reference=${reference}`
    // These leave the session as it was: gone on at once, the page would never be read.
    const stays = reason === 'too_weak' || reason === 'another_user'
    return sendPage(reply, {
      status,
      title: 'The sign-in was not completed',
      text: sentences[reason],
      ...(!stays && { hop: next }),
      link: { href: next, label: 'Continue' },
      reference,
    })
  }

  return {
    async start(request: FastifyRequest, reply: FastifyReply) {
      const cookie = cookies.session(request.headers.cookie)
      const started = await login.start({
        ...loginRequest(queryOf(request)),
        previousSessionId: cookie === null ? null : sessionIdOf(cookie),
      })
      cookies.setBinding(reply, request.headers.cookie, started.state, started.binding)
      return reply.redirect(started.authorizationUrl, 302)
    },

    async callback(request: FastifyRequest, reply: FastifyReply) {
      const query = request.method === 'POST' ? formOf(request) : queryOf(request)
      const state = query.get('state') ?? ''
      const binding = isRandomToken(state) ? cookies.binding(request.headers.cookie, state) : null
      try {
        requireSingle(query)
        if (binding === null)
          throw new LoginRejected('stale', { detail: 'the state and the binding cookie do not belong together' })
        const client = { userAgent: userAgentOf(request), address: request.client.address }
        const finished = await login.finish({ query, state, binding, client })
        cookies.clearBinding(reply, state)
        if (finished.outcome === 'opened') cookies.setSession(reply, finished.cookie)
        return reply.redirect(finished.returnUrl, 303)
      } catch (error) {
        if (!(error instanceof LoginRejected || error instanceof ProviderUnavailable)) throw error
        const { detail, advice, status } = error
        const reference = newReference()
        const reason = error instanceof LoginRejected ? error.reason : error.code
        audit({ event: 'login_rejected', reason, detail, reference, ...advice })
        if (binding !== null) cookies.clearBinding(reply, state)
        if (error instanceof LoginRejected) return refuse(reply, status, error.reason, reference)
        reply.header('retry-after', String(error.retryAfter))
        return refuse(reply, status, 'unavailable', reference)
      }
    },

    /**
     * An answer in the address where a form was asked for: the code in it may be in somebody's history or log, so nothing
     * is redeemed or spent. A provider that knows no form says so in this way.
     */
    async misplaced(request: FastifyRequest, reply: FastifyReply) {
      const error = queryOf(request).get('error')
      const reason = error === null ? 'stale' : 'provider_error'
      const reference = newReference()
      const detail = `the answer came by GET and not by a form: ${standardCode(error, 'no known error')}`
      audit({ event: 'login_rejected', reason, detail, reference })
      return refuse(reply, 400, reason, reference)
    },

    /** With a live session the failed login is of no interest to anybody; without one, a link starts over. */
    async failed(request: FastifyRequest, reply: FastifyReply) {
      if (request.found?.state === 'live') return reply.redirect('/', 303)
      const query = queryOf(request)
      const [reason, reference] = [query.get('reason') ?? '', query.get('reference')]
      return sendPage(reply, {
        status: 200,
        title: 'You are not signed in',
        text: Object.hasOwn(sentences, reason) ? sentences[reason as keyof typeof sentences] : sentences.stale,
        link: { href: loginUrl, label: 'Sign in again' },
        ...(isReference(reference) && { reference }),
      })
    },
  }
}

/** What a browser calls itself; kept to show the user, so bounded. */
function userAgentOf(request: FastifyRequest): string {
  return (request.headers['user-agent'] ?? '').slice(0, 256)
}

/** The parameters that a browser may shape a login by; all others are ignored, and none may be repeated. */
function loginRequest(query: URLSearchParams): Omit<LoginRequest, 'previousSessionId'> {
  for (const name of ['returnUrl', 'prompt', 'login_hint', 'step_up'])
    if (query.getAll(name).length > 1) throw new BadRequest(`${name} must be given once`)
  const asked = query.get('prompt') || undefined
  const prompt = prompts.find(word => word === asked)
  if (asked !== prompt) throw new BadRequest(`prompt must be one of ${prompts.join(', ')}`)
  const loginHint = query.get('login_hint') || undefined
  if (loginHint !== undefined && !/^[\x20-\x7e\u00a0-\uffff]{1,320}$/.test(loginHint))
    throw new BadRequest('login_hint must be at most 320 printable characters')
  const stepUp = query.get('step_up') || undefined
  return { returnUrl: query.get('returnUrl') ?? '/', prompt, loginHint, stepUp }
}

/** RFC 6749 §3.1: parameters must not be repeated, and those sent without a value count as omitted. */
function requireSingle(query: URLSearchParams): void {
  const names = [...query.keys()]
  const single = new Set(names).size === names.length
  const complete = ['code', 'iss', 'error', 'state'].every(name => query.get(name) !== '')
  if (!single || !complete || (!query.has('code') && !query.has('error')))
    throw new LoginRejected('invalid_response', { detail: 'a parameter of the callback is missing, empty or repeated' })
}
