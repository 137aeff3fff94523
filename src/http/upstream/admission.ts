import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { type ClaimHeader, type ClaimRule, claimHeaderValues, satisfies } from '../../core/claim-rules.ts'
import { GatewayError } from '../../core/errors.ts'
import type { StoredSession } from '../../core/session.ts'
import type { AccessTokens, TokenAudience } from '../../flows/access-token.ts'
import type { StepUps } from '../../flows/step-up.ts'
import { type Eventual, whenThere } from '../eventual.ts'
import type { Check, Guard } from '../guard.ts'

/** Who may use an upstream, and how. */
export interface Policy {
  audience: TokenAudience
  /** `required`: only with a session; `optional`: without one as well, then without a token; `none`: never with a token. */
  auth: 'required' | 'optional' | 'none'
  csrf: 'header' | 'fetch-metadata' | 'none'
  /** Whether requests count as user activity, unless they say otherwise of themselves. */
  activity: 'active' | 'passive'
  /** What must be known of a user. */
  require: readonly ClaimRule[]
  /** What is told of a user. */
  claimsHeaders: readonly ClaimHeader[]
}

/** Where a request's admission rides; the symbol keeps the token from any other hook. */
const admitted = Symbol('admitted')

declare module 'fastify' {
  interface FastifyRequest {
    [admitted]: Admission | null
  }
}

/** What a request to an upstream is let through with. */
export interface Admission {
  /** Null for a request without a session, or where none is looked for. */
  stored: StoredSession | null
  /** Null exactly when `stored` is. */
  accessToken: string | null
  /** Headers that tell the upstream of the user; none without a session. */
  claims: Readonly<Record<string, string>>
}

/**
 * Lets a request through to an upstream, for whoever carries it there.
 *
 * @throws {CsrfRefused} @throws {NotAuthenticated} @throws {StepUpRequired} @throws {TokenRefused}
 * @throws {GatewayError} 403 for a user who does not meet the policy
 * @throws {ProviderUnavailable} @throws {StoreUnavailable} neither of which is ever taken for the lack of a session
 */
export type Admit = (request: FastifyRequest, policy: Policy, kind: 'request' | 'websocket') => Eventual<Admission>

/** What admission needs. */
export interface AdmissionDeps {
  check: Check
  accessTokens: Pick<AccessTokens, 'atHand' | 'get'>
  stepUps: Pick<StepUps, 'offering'>
}

export function createAdmission({ check, accessTokens, stepUps }: AdmissionDeps): Admit {
  const tokenFor = (stored: StoredSession, audience: TokenAudience) =>
    accessTokens.atHand(stored, audience) ?? stepUps.offering(stored.session, accessTokens.get(stored, audience))

  const admitSession = (stored: StoredSession, policy: Policy): Eventual<Admission> => {
    const { claims } = stored.session.identity
    if (!satisfies(claims, policy.require)) throw new GatewayError('forbidden', 'Your account may not use this.')
    const told = claimHeaderValues(claims, policy.claimsHeaders)
    return whenThere(tokenFor(stored, policy.audience), accessToken => ({ stored, accessToken, claims: told }))
  }

  return (request, policy, kind) =>
    whenThere(check(guardOf(policy, kind, request.headers), request), () =>
      request.found?.state === 'live' ? admitSession(request.found.stored, policy) : nobody,
    )
}

/**
 * A page of another site can open a websocket with the user's cookie, and no header of its own will stop it: only its
 * `Origin` tells, with or without a session. What goes over one does not say whether anybody is there, and neither does an
 * event stream: a browser opens either anew by itself.
 */
function guardOf(
  { auth, csrf, activity, audience }: Policy,
  kind: 'request' | 'websocket',
  { accept, upgrade }: IncomingHttpHeaders,
): Guard {
  const websocket = kind === 'websocket'
  const opensByItself = upgrade !== undefined || accept?.includes('text/event-stream') === true
  return {
    csrf: websocket ? 'websocket' : auth === 'none' ? 'none' : csrf,
    session: auth,
    slides: activity === 'active' && !opensByItself,
    slot: audience.slot,
  }
}

const nobody: Admission = { stored: null, accessToken: null, claims: {} }

/** What a request was let through with. */
export function admissionOf(request: FastifyRequest): Admission {
  return request[admitted] ?? nobody
}

export function setAdmission(request: FastifyRequest, admission: Admission): void {
  request[admitted] = admission
}

/** Makes room on requests for their admission. */
export function decorateAdmission(app: FastifyInstance): void {
  app.decorateRequest(admitted, null)
}
