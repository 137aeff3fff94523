import type { TokenEndpointResponse } from 'openid-client'
import type { TokenResponse } from '../core/token-set.ts'

/**
 * What the gateway keeps of a token response, or why none of it can be used. `bound`: the tokens must be bound to the key
 * of the request's proof.
 */
export function readTokenResponse(
  wire: TokenEndpointResponse,
  { bound }: { bound: boolean },
): { tokens: TokenResponse } | { fault: string } {
  // An upstream would not understand a DPoP-bound token in the place of a bearer token (RFC 6750 §2.1), and a bearer token
  // in the place of a bound one is good for whoever steals it (RFC 9449 §5).
  if (wire.token_type !== (bound ? 'dpop' : 'bearer'))
    return { fault: `the token_type is not ${bound ? 'DPoP' : 'Bearer'}` }
  // It becomes part of a header (RFC 6749 Appendix A.12, RFC 6750 §2.1).
  if (!/^[\x21-\x7e]+$/.test(wire.access_token)) return { fault: 'the access token does not fit a header' }
  const { access_token: accessToken, expires_in: expiresIn, refresh_token: refreshToken, scope } = wire
  return { tokens: { accessToken, expiresIn, refreshToken, scope } }
}
