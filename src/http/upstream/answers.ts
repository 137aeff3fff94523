import type { FastifyReply, FastifyRequest } from 'fastify'
import { challengeOf, type Demand } from '../../core/challenge.ts'
import { GatewayError } from '../../core/errors.ts'
import type { StoredSession } from '../../core/session.ts'
import type { AccessTokens } from '../../flows/access-token.ts'
import type { StepUps } from '../../flows/step-up.ts'
import { type Admission, admissionOf, type Policy, setAdmission } from './admission.ts'
import type { Deliver } from './delivery.ts'
import type { UpstreamAnswer } from './exchange.ts'
import { type RedirectRules, redirectFor } from './redirects.ts'
import { isRepeatable, setAside } from './repeatable.ts'
import { forOneUser } from './shared-caches.ts'

/** Sends a request to its upstream another time; null once that has been done. */
export const again = Symbol('again')

declare module 'fastify' {
  interface FastifyRequest {
    [again]: (() => unknown) | null
  }
}

/** An answer of an upstream, its body not yet read, and the headers that the client is told. */
export interface Answer extends UpstreamAnswer {
  told: UpstreamAnswer['headers']
}

/** What becomes of the answers of an upstream. */
export interface AnswersDeps {
  policy: Pick<Policy, 'audience' | 'auth'>
  accessTokens: Pick<AccessTokens, 'replace'>
  stepUps: Pick<StepUps, 'demandIn' | 'refreshFor' | 'offering' | 'answer'>
  redirects: RedirectRules
  /** What the upstream was asked for: path and query there. */
  targetOf: (request: FastifyRequest) => string
  deliver: Deliver
}

/** Receives the answers of one upstream and passes them on, or acts on them. */
export function createAnswers({ policy, accessTokens, stepUps, redirects, targetOf, deliver }: AnswersDeps) {
  const { audience, auth } = policy

  /** A token that meets what the upstream demands: once for a request, and only if it takes no login. */
  const satisfied = async (request: FastifyRequest, stored: StoredSession, demand: Demand) => {
    const once = request[again] !== null
    const work = () => stepUps.offering(stored.session, stepUps.refreshFor(stored, audience, demand))
    const another = once ? await work() : null
    if (another === null) throw await stepUps.answer(stored.session, challengeOf(audience, demand))
    return another
  }

  /** Another token for a request that the upstream has refused, or null. */
  const anotherToken = async (request: FastifyRequest, { headers }: Answer, stored: StoredSession) => {
    const demand = stepUps.demandIn(headers['www-authenticate'])
    if (demand !== null) return satisfied(request, stored, demand)
    return isReplayable(request) ? accessTokens.replace(stored, audience) : null
  }

  /** An upstream may know before its time that a token is over: once, a safe request is sent again with another. */
  const reconsider = async (request: FastifyRequest, reply: FastifyReply, answer: Answer, stored: StoredSession) => {
    const accessToken = await anotherToken(request, answer, stored)
    if (accessToken === null || !isReplayable(request)) return pass(request, reply, answer)
    setAside(answer)
    setAdmission(request, { ...admissionOf(request), accessToken })
    const resend = request[again]
    request[again] = null
    resend?.()
  }

  const pass = (request: FastifyRequest, reply: FastifyReply, answer: Answer) => {
    const { statusCode, told } = answer
    for (const name of ['location', 'content-location'] as const) {
      // Of two, each reader takes another one.
      const address = told[name]
      if (address === undefined) continue
      const here = Array.isArray(address) ? null : redirectFor(address, targetOf(request), redirects)
      if (here !== null) told[name] = here
      else if (name === 'location' && (statusCode === 201 || statusCode >= 300))
        throw new GatewayError('bad_upstream', 'The API led to an address that this application does not lead to.', {
          detail: 'an upstream redirects to an origin that is not its own, nor in its _REDIRECTS',
        })
      else delete told[name]
    }
    const { stored } = admissionOf(request)
    if (stored !== null) told['cache-control'] = forOneUser(told['cache-control'])
    // With a session it is another answer at the same address.
    if (auth === 'optional') told.vary = [told.vary ?? [], 'Cookie'].flat().join(', ')
    deliver(request, reply, answer)
  }

  return {
    /** Never throws: a failure is the answer. */
    receive(request: FastifyRequest, reply: FastifyReply, answer: Answer): void {
      const refuse = (error: unknown) => {
        setAside(answer)
        reply.send(error)
      }
      const refused = answer.statusCode === 401 ? withRefused(admissionOf(request)) : null
      if (refused !== null) return void reconsider(request, reply, answer, refused).catch(refuse)
      try {
        pass(request, reply, answer)
      } catch (error) {
        refuse(error)
      }
    },
  }
}

function isReplayable(request: FastifyRequest): boolean {
  return request[again] !== null && isRepeatable(request)
}

/** The session with the token that was sent: it may be a newer one than the session was read with. */
function withRefused({ stored, accessToken }: Admission): StoredSession | null {
  if (stored === null || accessToken === null) return null
  return { ...stored, accessToken: { value: accessToken, expiresAt: 0, refreshAt: 0, scope: undefined } }
}
