import httpProxy from '@fastify/http-proxy'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError } from '../core/errors.ts'
import type { GetAccessToken } from '../flows/access-token.ts'
import type { Guard } from './guard.ts'
import { liveSession } from './session.ts'
import { requestHeaders, responseHeaders } from './upstream-headers.ts'

/** Where the access token rides between the guard and the rewriting of headers; no other hook can reach it. */
const accessToken = Symbol('access token')

declare module 'fastify' {
  interface FastifyRequest {
    [accessToken]: string
  }
}

/** One upstream. */
export interface UpstreamRoute {
  path: string
  url: URL
  /** Seconds until response headers. */
  timeout: number
}

/** What the proxy needs. */
export interface ProxyDeps {
  check: (guard: Guard, request: FastifyRequest) => Promise<void>
  getAccessToken: GetAccessToken
  publicOrigin: URL
}

const guard: Guard = { csrf: 'header', session: 'required', slides: true }

/** Sends the requests under each upstream's path to it, with the session's access token in the place of the cookie. */
export function registerProxy(app: FastifyInstance, upstreams: readonly UpstreamRoute[], deps: ProxyDeps): void {
  app.decorateRequest(accessToken, '')

  for (const { path, url, timeout } of upstreams) {
    app.register(async scope => {
      scope.addHook('onRequest', async request => {
        await deps.check(guard, request)
        request[accessToken] = await deps.getAccessToken(liveSession(request.found))
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
        replyOptions: {
          rewriteRequestHeaders: (request, headers) =>
            requestHeaders(headers as FastifyRequest['headers'], {
              accessToken: (request as FastifyRequest)[accessToken],
              clientAddress: request.ip,
              publicOrigin: deps.publicOrigin,
            }),
          rewriteHeaders: headers => responseHeaders(headers as FastifyRequest['headers']),
          onError: (reply, { error }) => upstreamFailed(reply as FastifyReply, error),
        },
      })
    })
  }
}

function upstreamFailed(reply: FastifyReply, error: Error & { statusCode?: number }): void {
  const fault =
    error.statusCode === 504
      ? new GatewayError('upstream_timeout', 'The API did not answer in time.', { cause: error })
      : new GatewayError('bad_upstream', 'The API gave no usable answer.', { cause: error })
  reply.send(fault)
}
