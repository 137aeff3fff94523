import httpProxy from '@fastify/http-proxy'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { challengeOf, type Demand } from '../core/challenge.ts'
import type { Clock } from '../core/clock.ts'
import { GatewayError } from '../core/errors.ts'
import type { StoredSession } from '../core/session.ts'
import type { AccessTokens, TokenAudience } from '../flows/access-token.ts'
import type { StepUps } from '../flows/step-up.ts'
import type { Guard } from './guard.ts'
import { isRepeatable, setAside } from './repeatable.ts'
import { liveSession } from './session.ts'
import { requestHeaders, responseHeaders } from './upstream-headers.ts'
import { createUpstreamProofs } from './upstream-proof.ts'

/** Where the access token rides between the guard and the rewriting of headers; no other hook can reach it. */
const accessToken = Symbol('access token')
/** Sends a request to its upstream another time; null once that has been done. */
const again = Symbol('again')

declare module 'fastify' {
  interface FastifyRequest {
    [accessToken]: string
    [again]: (() => FastifyReply) | null
  }
}

/** One upstream. */
export interface UpstreamRoute {
  path: string
  url: URL
  /** Seconds until response headers. */
  timeout: number
  audience: TokenAudience
}

/** What the proxy needs. */
export interface ProxyDeps {
  check: (guard: Guard, request: FastifyRequest) => Promise<void>
  accessTokens: Pick<AccessTokens, 'get' | 'replace'>
  stepUps: Pick<StepUps, 'demandIn' | 'refreshFor' | 'offering' | 'answer'>
  publicOrigin: URL
  clock: Clock
}

/** An answer of an upstream, its body not yet read. */
interface UpstreamAnswer {
  statusCode: number
  headers: Record<string, string | string[] | undefined>
  stream: NodeJS.ReadableStream & { resume(): unknown }
}

/** Sends the requests under each upstream's path to it, with the session's access token in the place of the cookie. */
export function registerProxy(app: FastifyInstance, upstreams: readonly UpstreamRoute[], deps: ProxyDeps): void {
  const { accessTokens, stepUps } = deps
  app.decorateRequest(accessToken, '')
  app.decorateRequest(again, null)

  for (const { path, url, timeout, audience } of upstreams) {
    const proofs = createUpstreamProofs({ origin: url.origin, clock: deps.clock })
    const guard: Guard = { csrf: 'header', session: 'required', slides: true, slot: audience.slot }
    const replyOptions = {
      rewriteRequestHeaders: (request: unknown, headers: unknown) =>
        requestHeaders(headers as FastifyRequest['headers'], {
          accessToken: (request as FastifyRequest)[accessToken],
          clientAddress: (request as FastifyRequest).ip,
          publicOrigin: deps.publicOrigin,
        }),
      rewriteHeaders: (headers: unknown) => responseHeaders(headers as FastifyRequest['headers']),
      onError: (reply: unknown, { error }: { error: Error }) => upstreamFailed(reply as FastifyReply, error),
      onResponse: (request: unknown, reply: unknown, answer: unknown) =>
        answered(request as FastifyRequest, reply as FastifyReply, answer as UpstreamAnswer).catch(error =>
          refuse(reply as FastifyReply, answer as UpstreamAnswer, error),
        ),
    }

    /** An upstream may know before its time that a token is over: once, a safe request is sent again with another. */
    const answered = async (request: FastifyRequest, reply: FastifyReply, answer: UpstreamAnswer) => {
      const demand = answer.statusCode === 401 ? stepUps.demandIn(answer.headers['www-authenticate']) : null
      const replayable = isReplayable(request, answer)
      const another =
        demand !== null ? await satisfied(request, demand) : replayable ? await replacement(request) : null
      if (another === null || !replayable) return reply.send(answer.stream)
      setAside(reply, answer)
      request[accessToken] = another
      const resend = request[again]
      request[again] = null
      return resend?.()
    }

    /** A token that meets what the upstream demands: once for a request, and only if it takes no login. */
    const satisfied = async (request: FastifyRequest, demand: Demand) => {
      const stored = withRefused(request)
      const { session } = stored
      const once = request[again] !== null
      const another = once ? await stepUps.offering(session, stepUps.refreshFor(stored, audience, demand)) : null
      if (another === null) throw await stepUps.answer(session, challengeOf(audience, demand))
      return another
    }

    const replacement = (request: FastifyRequest) => accessTokens.replace(withRefused(request), audience)

    app.register(async scope => {
      scope.addHook('onRequest', async request => {
        await deps.check(guard, request)
        const stored = liveSession(request.found)
        request[accessToken] = await stepUps.offering(stored.session, accessTokens.get(stored, audience))
      })
      // Bodies go through as streams; a parser would read them whole.
      scope.removeAllContentTypeParsers()
      await scope.register(httpProxy, {
        upstream: url.origin,
        prefix: path === '/' ? '' : path,
        rewritePrefix: url.pathname === '/' ? '' : url.pathname.replace(/\/$/, ''),
        httpMethods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'],
        // Without this an upstream's 503 makes eleven calls of one.
        retryMethods: [],
        // A dispatcher's timeout, since the proxy's own would also end an event stream that is quiet.
        undici: { headersTimeout: timeout * 1000, bodyTimeout: 0 },
        disableRequestLogging: true,
        handler(request, reply, destination, plain) {
          const { dpopKey: key } = liveSession(request.found).session
          // By the session, not by configuration: a bound token never goes out as if it were none.
          const options =
            key === undefined
              ? plain
              : (proofs.bind(plain, { key, destination, accessToken: () => request[accessToken] }) as typeof plain)
          request[again] = () => reply.from(destination, options)
          return reply.from(destination, options)
        },
        replyOptions: replyOptions as object,
      })
    })
  }
}

function isReplayable(request: FastifyRequest, { statusCode }: UpstreamAnswer): boolean {
  return statusCode === 401 && request[again] !== null && isRepeatable(request)
}

/** The session with the token that was sent: it may be a newer one than the session was read with. */
function withRefused(request: FastifyRequest): StoredSession {
  const sent = { value: request[accessToken], expiresAt: 0, refreshAt: 0, scope: undefined }
  return { ...liveSession(request.found), accessToken: sent }
}

function refuse(reply: FastifyReply, answer: UpstreamAnswer, error: unknown): void {
  setAside(reply, answer)
  // What is still to come of a body would be read as the next request.
  if (!reply.request.raw.complete) reply.header('connection', 'close')
  reply.send(error)
}

function upstreamFailed(reply: FastifyReply, error: Error & { statusCode?: number }): void {
  const fault =
    error.statusCode === 504
      ? new GatewayError('upstream_timeout', 'The API did not answer in time.', { cause: error })
      : new GatewayError('bad_upstream', 'The API gave no usable answer.', { cause: error })
  reply.send(fault)
}
