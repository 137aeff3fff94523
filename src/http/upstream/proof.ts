import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Clock } from '../../core/clock.ts'
import { challengesForNonce, type DpopKey, dpopNonceOf, dpopProof } from '../../core/dpop.ts'
import { GatewayError } from '../../core/errors.ts'
import type { Answer } from './answers.ts'
import { isRepeatable, setAside } from './repeatable.ts'

/** How the proxy sends a request on; the members that a proof has a part in. */
export interface SendOptions {
  rewriteRequestHeaders(request: FastifyRequest, headers: IncomingHttpHeaders): IncomingHttpHeaders
  rewriteHeaders(headers: IncomingHttpHeaders, request: FastifyRequest): IncomingHttpHeaders
  onResponse(request: FastifyRequest, reply: FastifyReply, answer: Answer): unknown
}

/** A request of a session whose tokens are bound to a key. */
export interface BoundRequest {
  key: DpopKey
  /** The path at the upstream. */
  destination: string
  /** The token at the moment of sending: a refused one may be replaced in between. */
  accessToken: () => string
  /** Sends the request, or sends it again. */
  send: (options: SendOptions) => unknown
}

/** Sends bound tokens to one upstream (RFC 9449 §7). */
export interface UpstreamProofs {
  /**
   * The same options, with a proof in every request. An upstream that wants its nonce in the proof gets the request once
   * more; where that cannot be sent again, the answer is 502 and the next request has the nonce.
   */
  bind(options: SendOptions, request: BoundRequest): SendOptions
}

/** The upstream's nonce is kept here, for all sessions, as it came with the last answer (RFC 9449 §8.2, §9). */
export function createUpstreamProofs({ origin, clock }: { origin: string; clock: Clock }): UpstreamProofs {
  let nonce: string | undefined

  return {
    bind(options, { key, destination, accessToken, send }) {
      let repeated = false

      const bound: SendOptions = {
        ...options,

        rewriteRequestHeaders(request, headers) {
          const token = accessToken()
          const url = new URL(origin + destination)
          const about = { method: request.method, url, accessToken: token, nonce, now: clock.now() }
          const own = options.rewriteRequestHeaders(request, headers)
          return { ...own, authorization: `DPoP ${token}`, dpop: dpopProof(key, about) }
        },

        rewriteHeaders(headers, request) {
          const { 'dpop-nonce': given, ...kept } = options.rewriteHeaders(headers, request)
          nonce = dpopNonceOf(given) ?? nonce
          return kept
        },

        onResponse(request, reply, answer) {
          if (answer.statusCode !== 401 || !challengesForNonce(answer.headers['www-authenticate']))
            return options.onResponse(request, reply, answer)
          setAside(answer)
          const given = dpopNonceOf(answer.headers['dpop-nonce']) !== undefined
          // To a script a 401 would mean that a login helps.
          if (repeated || !given || !isRepeatable(request))
            return reply.send(
              new GatewayError('bad_upstream', 'The API wants this request to be sent again.', { retryAfter: 1 }),
            )
          repeated = true
          return send(bound)
        },
      }
      return bound
    },
  }
}
