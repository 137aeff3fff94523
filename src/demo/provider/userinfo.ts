import type { FastifyPluginAsync } from 'fastify'
import { createLocalJWKSet, type JSONWebKeySet, jwtVerify } from 'jose'
import { accountBySubject, claimsOfScope } from './accounts.ts'

interface Deps {
  issuer: string
  audience: string
  /** The provider's public keys. */
  jwks: JSONWebKeySet
}

/**
 * UserInfo for the API's access token (OpenID Connect Core §5.3). oidc-provider's own endpoint takes only tokens
 * without an audience, while most hosted providers take the one token for both.
 */
export function userinfoRoute({ issuer, audience, jwks }: Deps): FastifyPluginAsync {
  const keys = createLocalJWKSet(jwks)

  return async server => {
    server.route({
      method: ['GET', 'POST'],
      url: '/me',
      handler: async (request, reply) => {
        const token = /^Bearer ([\w.~+/-]+=*)$/i.exec(request.headers.authorization ?? '')?.[1]
        if (!token) return reply.code(401).header('www-authenticate', `Bearer realm="${issuer}"`).send()
        const claims = await jwtVerify(token, keys, { issuer, audience, typ: 'at+jwt' }).catch(() => undefined)
        const account = accountBySubject(claims?.payload.sub)
        const scopes = String(claims?.payload.scope).split(' ')
        if (!account || !scopes.includes('openid')) {
          const challenge = `Bearer realm="${issuer}", error="invalid_token"`
          return reply.code(401).header('www-authenticate', challenge).send({ error: 'invalid_token' })
        }
        const open = scopes.flatMap(scope => claimsOfScope[scope] ?? [])
        return Object.fromEntries(Object.entries(account.claims).filter(([name]) => open.includes(name)))
      },
    })
  }
}
