import type { FastifyReply, FastifyRequest } from 'fastify'
import { BadRequest, LogoutTokenRefused } from '../../core/errors.ts'
import type { ProviderLogout } from '../../flows/provider-logout.ts'
import { formOf, onlyValue } from '../form.ts'
import { queryOf } from '../query.ts'
import type { RateLimit } from '../rate-limit.ts'

/** What the provider's two ways to log a user out here need. */
export interface ProviderLogoutRouteDeps {
  providerLogout: ProviderLogout
  /** Bound refused logout tokens, and front-channel logouts. */
  limits: { tokens: RateLimit; browsers: RateLimit }
  /** Whose pages may hold the answer in a frame. */
  providerOrigin: string
}

/** The handlers of `POST /backchannel` and `GET /frontchannel`. */
export function createProviderLogoutRoutes({ providerLogout, limits, providerOrigin }: ProviderLogoutRouteDeps) {
  const framePolicy = `default-src 'none'; frame-ancestors ${providerOrigin}`

  return {
    /** The provider itself, with a signed token (OpenID Connect Back-Channel Logout 1.0 §2.5). */
    async backchannel(request: FastifyRequest, reply: FastifyReply) {
      const token = onlyValue(formOf(request), 'logout_token')
      if (token === null) throw new BadRequest('The form must have logout_token, once.')
      try {
        await providerLogout.byToken(token)
      } catch (error) {
        // A good token is never turned away, whatever else came from its address: that may be a proxy's.
        if (error instanceof LogoutTokenRefused) await limits.tokens.use(request.client.address)
        throw error
      }
      return reply.code(200).send()
    },

    /**
     * A frame in the provider's own logout page (Front-Channel Logout 1.0 §2): no cookie comes along. Whoever made the
     * request, and whatever became of it, the answer is the same, so that it tells nobody which sessions there are.
     */
    async frontchannel(request: FastifyRequest, reply: FastifyReply) {
      // Whether anything ended is nobody's business, so that each counts.
      await limits.browsers.use(request.client.address)
      const query = queryOf(request)
      const sid = onlyValue(query, 'sid')
      const iss = query.has('iss') ? onlyValue(query, 'iss') : undefined
      if (sid !== null && iss !== null) await providerLogout.byBrowser({ sid, iss })
      return reply.code(200).type('text/html; charset=utf-8').header('content-security-policy', framePolicy).send('')
    },
  }
}
