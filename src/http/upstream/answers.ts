import type { IncomingHttpHeaders, ServerResponse } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { challengeOf, type Demand } from '../../core/challenge.ts'
import { GatewayError } from '../../core/errors.ts'
import type { StoredSession } from '../../core/session.ts'
import type { AccessTokens } from '../../flows/access-token.ts'
import type { StepUps } from '../../flows/step-up.ts'
import type { SessionWatch } from '../session-watch.ts'
import { type Admission, admissionOf, type Policy, setAdmission } from './admission.ts'
import { isEventStream, type UpstreamBody } from './client.ts'
import { type RedirectRules, redirectFor } from './redirects.ts'
import { isRepeatable, setAside } from './repeatable.ts'
import { forOneUser } from './shared-caches.ts'
import { passTrailers } from './trailers.ts'

/** Sends a request to its upstream another time; null once that has been done. */
export const again = Symbol('again')

declare module 'fastify' {
  interface FastifyRequest {
    [again]: (() => unknown) | null
  }
}

/** An answer of an upstream, its body not yet read. */
export interface Answer {
  statusCode: number
  headers: IncomingHttpHeaders
  stream: UpstreamBody
}

/** What becomes of the answers of an upstream. */
export interface AnswersDeps {
  policy: Pick<Policy, 'audience' | 'auth'>
  accessTokens: Pick<AccessTokens, 'replace'>
  stepUps: Pick<StepUps, 'demandIn' | 'refreshFor' | 'offering' | 'answer'>
  sessionWatch: SessionWatch
  redirects: RedirectRules
  /** What the upstream was asked for: path and query there. */
  targetOf: (request: FastifyRequest) => string
}

/** Receives the answers of one upstream, their headers already on the reply, and passes them on or acts on them. */
export function createAnswers(deps: AnswersDeps) {
  const { accessTokens, stepUps, sessionWatch } = deps
  const { audience, auth } = deps.policy

  /** A token that meets what the upstream demands: once for a request, and only if it takes no login. */
  const satisfied = async (request: FastifyRequest, stored: StoredSession, demand: Demand) => {
    const once = request[again] !== null
    const work = () => stepUps.offering(stored.session, stepUps.refreshFor(stored, audience, demand))
    const another = once ? await work() : null
    if (another === null) throw await stepUps.answer(stored.session, challengeOf(audience, demand))
    return another
  }

  /** Another token for a request that the upstream has refused, or null. */
  const anotherToken = async (request: FastifyRequest, answer: Answer) => {
    const stored = withRefused(admissionOf(request))
    if (answer.statusCode !== 401 || stored === null) return null
    const demand = stepUps.demandIn(answer.headers['www-authenticate'])
    if (demand !== null) return satisfied(request, stored, demand)
    return isReplayable(request) ? accessTokens.replace(stored, audience) : null
  }

  /** An upstream may know before its time that a token is over: once, a safe request is sent again with another. */
  const receive = async (request: FastifyRequest, reply: FastifyReply, answer: Answer) => {
    const accessToken = await anotherToken(request, answer)
    if (accessToken === null || !isReplayable(request)) return pass(request, reply, answer)
    setAside(reply, answer)
    setAdmission(request, { ...admissionOf(request), accessToken })
    const resend = request[again]
    request[again] = null
    return resend?.()
  }

  const pass = (request: FastifyRequest, reply: FastifyReply, answer: Answer) => {
    const { statusCode, headers, stream } = answer
    if (stream.errored) throw stream.errored
    for (const name of ['location', 'content-location'] as const) {
      const address = headers[name]
      if (address === undefined) continue
      // Of two, each reader takes another one.
      const told = Array.isArray(address) ? null : redirectFor(address, deps.targetOf(request), deps.redirects)
      if (told !== null) reply.header(name, told)
      else if (name === 'location' && (statusCode === 201 || statusCode >= 300))
        throw new GatewayError('bad_upstream', 'The API led to an address that this application does not lead to.', {
          detail: 'an upstream redirects to an origin that is not its own, nor in its _REDIRECTS',
        })
      else reply.removeHeader(name)
    }
    const { stored } = admissionOf(request)
    // By what goes out: `Connection` may have taken it away.
    if (stored !== null)
      reply.header('cache-control', forOneUser(reply.getHeader('cache-control') as string | string[] | undefined))
    // With a session it is another answer at the same address.
    if (auth === 'optional') reply.header('vary', [reply.getHeader('vary') ?? [], 'Cookie'].flat().join(', '))
    passTrailers(request, reply, answer)
    if (stored !== null && isEventStream(headers)) {
      const watched = sessionWatch.watch(stored.session.id, { ended: () => stream.destroy() })
      stream.once('close', watched.stop)
      // What happened since the session was read was told to nobody.
      void watched.look()
    }
    stream.prependOnceListener('error', () => {
      if (reply.raw.headersSent) return
      // What was said of the answer is not true of the problem in its place.
      for (const name of reply.raw.getHeaderNames()) reply.raw.removeHeader(name)
      setAside(reply, answer)
    })
    stream.once('resume', () => setImmediate(sendHeaders, reply.raw, stream))
    return reply.send(stream)
  }

  return {
    /** Never throws: a failure is the answer. */
    receive: (request: FastifyRequest, reply: FastifyReply, answer: Answer) =>
      receive(request, reply, answer).catch(error => {
        setAside(reply, answer)
        reply.send(error)
      }),
  }
}

/** Node keeps headers until there is a body; an event stream that is quiet at first would not even seem to be open. */
function sendHeaders(response: ServerResponse, stream: UpstreamBody): void {
  if (!response.headersSent && !stream.destroyed && !response.destroyed) response.flushHeaders()
}

function isReplayable(request: FastifyRequest): boolean {
  return request[again] !== null && isRepeatable(request)
}

/** The session with the token that was sent: it may be a newer one than the session was read with. */
function withRefused({ stored, accessToken }: Admission): StoredSession | null {
  if (stored === null || accessToken === null) return null
  return { ...stored, accessToken: { value: accessToken, expiresAt: 0, refreshAt: 0, scope: undefined } }
}
