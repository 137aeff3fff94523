import type { Clock } from '../../core/clock.ts'
import { challengesForNonce, type DpopKey, dpopNonceOf, dpopProof } from '../../core/dpop.ts'
import { GatewayError } from '../../core/errors.ts'
import { isRepeatable, setAside } from './repeatable.ts'
import type { Sending } from './sending.ts'

/** A request of a session whose tokens are bound to a key. */
export interface BoundRequest {
  key: DpopKey
  /** The path at the upstream. */
  destination: string
  /** The token at the moment of sending: a refused one may be replaced in between. */
  accessToken: () => string
  /** Sends the request, or sends it again. */
  send: (sending: Sending) => unknown
}

/** Sends bound tokens to one upstream (RFC 9449 §7). */
export interface UpstreamProofs {
  /**
   * The same, with a proof in every request. An upstream that wants its nonce in the proof gets the request once
   * more; where that cannot be sent again, the answer is 502 and the next request has the nonce.
   */
  bind(sending: Sending, request: BoundRequest): Sending
}

/** The upstream's nonce is kept here, for all sessions, as it came with the last answer (RFC 9449 §8.2, §9). */
export function createUpstreamProofs({ origin, clock }: { origin: string; clock: Clock }): UpstreamProofs {
  let nonce: string | undefined

  return {
    bind(sending, { key, destination, accessToken, send }) {
      let repeated = false

      const bound: Sending = {
        ...sending,

        requestHeaders(request, headers) {
          const token = accessToken()
          const url = new URL(origin + destination)
          const about = { method: request.method, url, accessToken: token, nonce, now: clock.now() }
          const own = sending.requestHeaders(request, headers)
          return { ...own, authorization: `DPoP ${token}`, dpop: dpopProof(key, about) }
        },

        toldHeaders(headers, request) {
          const { 'dpop-nonce': given, ...kept } = sending.toldHeaders(headers, request)
          nonce = dpopNonceOf(given) ?? nonce
          return kept
        },

        receive(request, reply, answer) {
          if (answer.statusCode !== 401 || !challengesForNonce(answer.headers['www-authenticate']))
            return sending.receive(request, reply, answer)
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
