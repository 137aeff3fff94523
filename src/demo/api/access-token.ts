import { createRemoteJWKSet, errors, type JWTPayload, jwtVerify } from 'jose'

/** Whose access tokens the API takes. */
export interface DemoApiOptions {
  issuer: string
  audience: string
  /** Where the provider's keys are; the demo provider's own place unless said. */
  jwksUrl?: string
}

/** The token is missing or not good for this API (RFC 6750 §3). */
export class TokenRefused extends Error {
  readonly statusCode = 401
  readonly challenge: string

  constructor(message: string, challenge: string) {
    super(message)
    this.challenge = challenge
  }
}

/** The provider's keys cannot be had: nothing is known about the token. */
export class KeysUnavailable extends Error {
  readonly statusCode = 503
}

/** The verified claims of an access token. */
export type Caller = JWTPayload & { sub: string; scope?: string }

/**
 * @returns a function from an Authorization header to the claims of its access token
 * @throws {TokenRefused} without a token, or with one that is not a JWT access token of this issuer for this audience
 * @throws {KeysUnavailable} while the provider cannot be reached
 */
export function createAccessTokenCheck({ issuer, audience, jwksUrl = `${issuer}/jwks` }: DemoApiOptions) {
  const keys = createRemoteJWKSet(new URL(jwksUrl))

  return async (authorization: string | undefined): Promise<Caller> => {
    const token = /^Bearer (\S+)$/i.exec(authorization ?? '')?.[1]
    if (!token) throw new TokenRefused('an access token is needed', 'Bearer realm="demo-api"')
    try {
      const { payload } = await jwtVerify<Caller>(token, keys, {
        issuer,
        audience,
        typ: 'at+jwt',
        algorithms: ['RS256'],
        requiredClaims: ['sub', 'exp'],
      })
      return payload
    } catch (cause) {
      if (
        !(cause instanceof errors.JOSEError) ||
        cause instanceof errors.JWKSTimeout ||
        cause.code === 'ERR_JOSE_GENERIC'
      ) {
        throw new KeysUnavailable('the keys of the provider cannot be had', { cause })
      }
      throw new TokenRefused('the access token is not valid here', 'Bearer realm="demo-api", error="invalid_token"')
    }
  }
}
