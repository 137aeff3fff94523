import httpProxy from '@fastify/http-proxy'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Clock } from '../../core/clock.ts'
import { BadRequest, GatewayError } from '../../core/errors.ts'
import type { AccessTokens } from '../../flows/access-token.ts'
import type { StepUps } from '../../flows/step-up.ts'
import type { Concurrency } from '../concurrency.ts'
import { markOwn } from '../problem.ts'
import { type Upgrade, websocketUpgrade } from '../server/upgrades.ts'
import type { SessionWatch } from '../session-watch.ts'
import { type Admit, admissionOf, decorateAdmission, type Policy, setAdmission } from './admission.ts'
import { again, createAnswers } from './answers.ts'
import { checkBody, limitedBody } from './body-limit.ts'
import { createUpstreamClient, passage } from './client.ts'
import { badUpstream } from './faults.ts'
import { createRequestHeaders, responseHeaders } from './headers.ts'
import { createUpstreamProofs, type SendOptions } from './proof.ts'
import { basePath } from './redirects.ts'
import type { WebSockets } from './websockets.ts'

/** One upstream. */
export interface UpstreamRoute extends Policy {
  path: string
  url: URL
  /** Seconds until response headers. */
  timeout: number
  /** Bytes. */
  maxBody: number
  websocket: boolean
  caFile: Buffer | undefined
  /** Origins beside its own to which its redirects may lead. */
  redirects: readonly string[]
  /** What its answers say in any case. */
  answerHeaders: Readonly<Record<string, string>>
}

/** What the proxy needs. */
export interface ProxyDeps {
  admit: Admit
  accessTokens: Pick<AccessTokens, 'replace'>
  stepUps: Pick<StepUps, 'demandIn' | 'refreshFor' | 'offering' | 'answer'>
  sessionWatch: SessionWatch
  webSockets: WebSockets
  /** Of requests, and of event streams and websockets, by session. */
  openRequests: Concurrency
  openStreams: Concurrency
  publicOrigin: URL
  /** Origins of the application to which any upstream's redirects may lead. */
  origins: readonly string[]
  clock: Clock
}

/** `OPTIONS` is not among them: it is asked of this origin, not of what is behind it, and takes no token. */
const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'] as const

/** Sends the requests under each upstream's path to it, with the session's access token in the place of the cookie. */
export function registerProxy(app: FastifyInstance, upstreams: readonly UpstreamRoute[], deps: ProxyDeps): void {
  decorateAdmission(app)
  app.decorateRequest(again, null)
  app.decorateRequest(passage, undefined)
  for (const upstream of upstreams) {
    app.register(async scope => registerUpstream(scope, upstream, upstreams, deps))
    for (const path of upstream.path === '/' ? ['/', '/*'] : [upstream.path, `${upstream.path}/*`])
      app.options(path, async (_request, reply) => {
        markOwn(reply)
        return reply
          .code(204)
          .header('allow', [...methods, 'OPTIONS'].join(', '))
          .send()
      })
  }
}

async function registerUpstream(
  scope: FastifyInstance,
  upstream: UpstreamRoute,
  upstreams: readonly UpstreamRoute[],
  deps: ProxyDeps,
): Promise<void> {
  const { path, url, maxBody, caFile: ca } = upstream
  const { publicOrigin, clock } = deps
  const timeoutMs = upstream.timeout * 1000
  const client = createUpstreamClient({ origin: url.origin, timeoutMs, ca })
  const proofs = createUpstreamProofs({ origin: url.origin, clock })
  const claimNames = upstreams.flatMap(({ claimsHeaders }) => claimsHeaders.map(({ name }) => name))
  const requestHeaders = createRequestHeaders(claimNames)
  const origins = [publicOrigin.origin, ...deps.origins, ...upstream.redirects]
  const answers = createAnswers({ ...deps, policy: upstream, redirects: { upstream, upstreams, origins }, targetOf })

  /** Path and query at the upstream, byte for byte what the client sent below the upstream's path. */
  function targetOf({ raw }: FastifyRequest): string {
    const [base, rest] = [basePath(url), raw.url?.slice(path === '/' ? 0 : path.length) ?? '']
    return rest.startsWith('/') ? base + rest : `${base || '/'}${rest}`
  }

  const plain: SendOptions = {
    rewriteRequestHeaders(request, headers) {
      const { accessToken, claims } = admissionOf(request)
      const sent = requestHeaders(headers, {
        authorization: accessToken === null ? undefined : `Bearer ${accessToken}`,
        addresses: request.client.chain,
        publicOrigin,
        claims,
      })
      return Object.assign(sent, { [passage]: request[passage] })
    },
    rewriteHeaders: headers => Object.assign(responseHeaders(headers), upstream.answerHeaders),
    onResponse: answers.receive,
  }

  /** By the session, not by configuration: a bound token never goes out as if it were none. */
  const sendOptions = (
    request: FastifyRequest,
    destination: string,
    send: (options: SendOptions) => unknown,
  ): SendOptions => {
    const key = admissionOf(request).stored?.session.dpopKey
    const accessToken = () => admissionOf(request).accessToken ?? ''
    return key === undefined ? plain : proofs.bind(plain, { key, destination, accessToken, send })
  }

  const joinWebSocket = async (
    request: FastifyRequest,
    reply: FastifyReply,
    upgrade: Upgrade,
    options: SendOptions,
  ) => {
    const headers = options.rewriteRequestHeaders(request, { ...request.headers, host: url.host })
    const handshake = { origin: url.origin, target: targetOf(request), headers, timeoutMs, ca, maxMessage: maxBody }
    const dialled = await deps.webSockets.dial(request, upgrade, handshake)
    if ('refusal' in dialled) {
      const { refusal } = dialled
      reply.code(refusal.statusCode).headers(options.rewriteHeaders(refusal.headers, request))
      return options.onResponse(request, reply, refusal)
    }
    reply.hijack()
    deps.webSockets.join(request, upgrade, dialled, admissionOf(request).stored, maxBody)
  }

  scope.addHook('onRequest', async (request, reply) => {
    const upgrade = websocketUpgrade(request)
    setAdmission(request, await deps.admit(request, upstream, upgrade === null ? 'request' : 'websocket'))
    if (upgrade !== null && !upstream.websocket) throw new BadRequest('There are no websockets here.')
    checkBody(request, maxBody)
    const { stored } = admissionOf(request)
    if (stored === null) return
    if (upgrade === null) deps.openRequests.enter(stored.session.id, reply.raw)
    else deps.openStreams.enter(stored.session.id, upgrade.socket)
  })
  scope.addHook('preParsing', async ({ headers }, _reply, payload) =>
    headers['transfer-encoding'] === undefined ? payload : limitedBody(payload, maxBody),
  )
  // Bodies go through as streams; a parser would read them whole.
  scope.removeAllContentTypeParsers()
  await scope.register(httpProxy, {
    upstream: url.origin,
    prefix: path === '/' ? '' : path,
    httpMethods: [...methods],
    // Without this an upstream's 503 makes eleven calls of one.
    retryMethods: [],
    undici: client as object,
    disableRequestLogging: true,
    internalRewriteLocationHeader: false,
    handler(request, reply) {
      const target = targetOf(request)
      const destination = target.split('?', 1)[0] ?? target
      const upgrade = websocketUpgrade(request)
      const send = (options: SendOptions): unknown =>
        upgrade === null
          ? reply.from(destination, { ...options, onError: upstreamFailed } as object)
          : joinWebSocket(request, reply, upgrade, options)
      const options = sendOptions(request, destination, send)
      request[passage] = { path: target, client: reply.raw }
      request[again] = () => send(options)
      return send(options)
    },
  })
  scope.addHook('onClose', async () => client.destroy())
}

function upstreamFailed(reply: FastifyReply, { error }: { error: Error }): void {
  // The plugin wraps what the client says.
  const cause = error.cause ?? error
  reply.send(cause instanceof GatewayError ? cause : badUpstream({ cause }))
}
