import type { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Clock } from '../../core/clock.ts'
import { BadRequest } from '../../core/errors.ts'
import type { AccessTokens } from '../../flows/access-token.ts'
import type { StepUps } from '../../flows/step-up.ts'
import type { Concurrency } from '../concurrency.ts'
import { whenThere } from '../eventual.ts'
import { markOwn } from '../problem.ts'
import type { Cors } from '../server/cors.ts'
import { type Upgrade, websocketUpgrade } from '../server/upgrades.ts'
import type { SessionWatch } from '../session-watch.ts'
import { type Admission, type Admit, admissionOf, decorateAdmission, type Policy, setAdmission } from './admission.ts'
import { again, createAnswers } from './answers.ts'
import { checkBody, limitedBody } from './body-limit.ts'
import { createUpstreamClient } from './client.ts'
import { createDelivery, type Deliver } from './delivery.ts'
import { createRequestHeaders, responseHeaders } from './headers.ts'
import { createUpstreamProofs } from './proof.ts'
import { basePath } from './redirects.ts'
import { isRepeatable, setAside } from './repeatable.ts'
import type { Sending } from './sending.ts'
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
  cors: Cors
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
  const { deliver, endStreams } = createDelivery(deps)
  app.addHook('preClose', async () => endStreams())
  for (const upstream of upstreams) {
    app.register(async scope => registerUpstream(scope, upstream, upstreams, { ...deps, deliver }))
    for (const path of routesOf(upstream))
      app.options(path, async (_request, reply) => {
        markOwn(reply)
        return reply
          .code(204)
          .header('allow', [...methods, 'OPTIONS'].join(', '))
          .send()
      })
  }
}

/** The prefix itself, and all that lies below it. */
function routesOf({ path }: UpstreamRoute): string[] {
  return path === '/' ? ['/', '/*'] : [path, `${path}/*`]
}

function registerUpstream(
  scope: FastifyInstance,
  upstream: UpstreamRoute,
  upstreams: readonly UpstreamRoute[],
  deps: ProxyDeps & { deliver: Deliver },
): void {
  const { path, url, maxBody, caFile: ca } = upstream
  const { publicOrigin, clock } = deps
  const base = basePath(url)
  const timeoutMs = upstream.timeout * 1000
  const client = createUpstreamClient({ origin: url.origin, timeoutMs, ca })
  const proofs = createUpstreamProofs({ origin: url.origin, clock })
  const claimNames = upstreams.flatMap(({ claimsHeaders }) => claimsHeaders.map(({ name }) => name))
  const requestHeaders = createRequestHeaders({ host: url.host, publicOrigin, claimNames })
  const origins = [publicOrigin.origin, ...deps.origins, ...upstream.redirects]
  const answers = createAnswers({
    ...deps,
    policy: upstream,
    redirects: { upstream, upstreams, origins },
    targetOf,
  })

  /** Path and query at the upstream, byte for byte what the client sent below the upstream's path. */
  function targetOf({ raw }: FastifyRequest): string {
    const rest = raw.url?.slice(path === '/' ? 0 : path.length) ?? ''
    return rest.startsWith('/') ? base + rest : `${base || '/'}${rest}`
  }

  const plain: Sending = {
    requestHeaders(request, headers) {
      const { accessToken, claims } = admissionOf(request)
      return requestHeaders(headers, {
        authorization: accessToken === null ? undefined : `Bearer ${accessToken}`,
        addresses: request.client.chain,
        claims,
      })
    },
    toldHeaders: headers => Object.assign(responseHeaders(headers), upstream.answerHeaders),
    receive: answers.receive,
  }

  /** By the session, not by configuration: a bound token never goes out as if it were none. */
  const sendingFor = (request: FastifyRequest, destination: string, send: (sending: Sending) => unknown): Sending => {
    const key = admissionOf(request).stored?.session.dpopKey
    const accessToken = () => admissionOf(request).accessToken ?? ''
    return key === undefined ? plain : proofs.bind(plain, { key, destination, accessToken, send })
  }

  const sendRequest = (request: FastifyRequest, reply: FastifyReply, target: string, sending: Sending) => {
    const headers = sending.requestHeaders(request, request.headers)
    const body = (request.body as Readable | undefined) ?? null
    const repeatable = isRepeatable(request)
    const sent = { method: request.method, target, headers, body, repeatable, client: reply.raw }
    client.request(sent, (failure, answer) => {
      if (answer === undefined) return void reply.send(failure)
      try {
        const told = sending.toldHeaders(answer.headers, request)
        sending.receive(request, reply, { ...answer, told })
      } catch (error) {
        setAside(answer)
        reply.send(error)
      }
    })
  }

  const joinWebSocket = async (request: FastifyRequest, reply: FastifyReply, upgrade: Upgrade, sending: Sending) => {
    const headers = sending.requestHeaders(request, request.headers)
    const handshake = { origin: url.origin, target: targetOf(request), headers, timeoutMs, ca, maxMessage: maxBody }
    const dialled = await deps.webSockets.dial(request, upgrade, handshake)
    if ('refusal' in dialled) {
      const { refusal } = dialled
      return sending.receive(request, reply, { ...refusal, told: sending.toldHeaders(refusal.headers, request) })
    }
    reply.hijack()
    deps.webSockets.join(request, upgrade, dialled, admissionOf(request).stored, maxBody)
  }

  const enter = (request: FastifyRequest, reply: FastifyReply, upgrade: Upgrade | null, admission: Admission) => {
    setAdmission(request, admission)
    if (upgrade !== null && !upstream.websocket) throw new BadRequest('There are no websockets here.')
    checkBody(request, maxBody)
    const { stored } = admission
    if (stored === null) return
    if (upgrade === null) deps.openRequests.enter(stored.session.id, reply.raw)
    else deps.openStreams.enter(stored.session.id, upgrade.socket)
  }

  scope.addHook('onRequest', (request, reply, done) => {
    const upgrade = websocketUpgrade(request)
    const admission = deps.admit(request, upstream, upgrade === null ? 'request' : 'websocket')
    const entered = whenThere(admission, admission => enter(request, reply, upgrade, admission))
    if (entered instanceof Promise) return entered
    done()
  })
  scope.addHook('preParsing', ({ headers }, _reply, payload, done) =>
    done(null, headers['transfer-encoding'] === undefined ? payload : limitedBody(payload, maxBody)),
  )
  // Bodies go through as streams; a parser would read them whole.
  scope.removeAllContentTypeParsers()
  scope.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
  for (const route of routesOf(upstream))
    scope.route({
      method: [...methods],
      url: route,
      handler(request, reply) {
        const target = targetOf(request)
        const upgrade = websocketUpgrade(request)
        const send = (sending: Sending) => {
          if (upgrade === null) sendRequest(request, reply, target, sending)
          else joinWebSocket(request, reply, upgrade, sending).catch(error => reply.send(error))
        }
        const sending = sendingFor(request, target.split('?', 1)[0] ?? target, send)
        request[again] = () => send(sending)
        send(sending)
      },
    })
  scope.addHook('onClose', async () => client.destroy())
}
