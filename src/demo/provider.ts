import { generateKeyPairSync, randomUUID } from 'node:crypto'
import fastify, { type FastifyInstance } from 'fastify'
import { signOutScript, styleSheet } from './provider/assets.ts'
import { type DemoProviderOptions, homeOf, providerConfiguration } from './provider/configuration.ts'
import { interactionRoutes } from './provider/interaction.ts'
import { muteProviderNotices } from './provider/notices.ts'
import { messagePage } from './provider/pages.ts'
import { userinfoRoute } from './provider/userinfo.ts'

export type { DemoProviderOptions } from './provider/configuration.ts'

const unmuteAfterImport = muteProviderNotices()
const { default: Provider, errors, interactionPolicy } = await import('oidc-provider')
unmuteAfterImport()

/**
 * A small OpenID Provider for demos: one confidential client, two users, no consent, nothing kept across restarts.
 * Keys are made at each call. The server does not listen yet; `close()` drops what is still connected.
 */
export function createDemoProvider(options: DemoProviderOptions): FastifyInstance {
  const { issuer, audience } = options
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const key = { kid: randomUUID(), use: 'sig', alg: 'RS256' }

  const unmute = muteProviderNotices()
  const configuration = providerConfiguration(
    options,
    { kty: 'RSA', ...privateKey.export({ format: 'jwk' }), ...key },
    { errors, interactionPolicy },
  )
  const provider = new Provider(issuer, configuration)
  unmute()
  provider.on('grant.success', ctx => ctx.set('x-grant-type', String(ctx.oidc.params?.grant_type)))

  const server = fastify({ forceCloseConnections: true })
  const home = homeOf(options)

  // oidc-provider builds its URLs from the Host header; in containers that may be any alias of this machine.
  server.addHook('onRequest', async ({ raw }) => {
    raw.headers.host = new URL(issuer).host
  })

  server.get('/healthz', async () => ({ status: 'ok' }))
  server.get('/style.css', async (_request, reply) => reply.type('text/css; charset=utf-8').send(styleSheet))
  server.get('/sign-out.js', async (_request, reply) =>
    reply.type('text/javascript; charset=utf-8').send(signOutScript),
  )

  server.register(async pages => {
    pages.addHook('onRequest', async (_request, reply) => {
      reply.headers({
        'content-type': 'text/html; charset=utf-8',
        'cache-control': 'no-store',
        'referrer-policy': 'no-referrer',
        'content-security-policy': "default-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
      })
    })
    pages.setErrorHandler<Error & { statusCode?: number }>(async (error, _request, reply) => {
      const known = error.statusCode !== undefined && error.statusCode < 500
      const text = known
        ? 'This sign-in has expired or was begun in another window.'
        : 'The demo provider ran into a fault of its own.'
      return reply.code(known ? (error.statusCode ?? 400) : 500).send(messagePage('That did not work', text, home))
    })
    await pages.register(interactionRoutes({ provider, clientHost: new URL(home).host }))
  })

  server.register(async protocol => {
    protocol.removeAllContentTypeParsers()
    protocol.addContentTypeParser('*', (_request, _payload, done) => done(null))
    const publicJwk = { kty: 'RSA', ...publicKey.export({ format: 'jwk' }), ...key }
    await protocol.register(userinfoRoute({ issuer, audience, jwks: { keys: [publicJwk] } }))

    const answer = provider.callback()
    protocol.all('/*', async (request, reply) => {
      reply.hijack()
      await answer(request.raw, reply.raw)
    })
  })

  return server
}
