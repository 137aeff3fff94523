import fastify, { type FastifyInstance } from 'fastify'
import { type Caller, createAccessTokenCheck, type DemoApiOptions, TokenRefused } from './api/access-token.ts'

export type { DemoApiOptions } from './api/access-token.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Set on every request that got past the access-token check of the demo API. */
    apiCaller: Caller
  }
}

const mostItems = 50

interface Item {
  id: number
  name: string
  addedBy: string
}

/**
 * A JSON API that knows nothing of the gateway: it takes a bearer token of its provider, or answers 401.
 * Items live in memory, the latest fifty. The server does not listen yet; `close()` drops what is still connected.
 */
export function createDemoApi(options: DemoApiOptions): FastifyInstance {
  const callerOf = createAccessTokenCheck(options)
  const items: Item[] = ['Navy wool coat', 'Yellow raincoat', 'Umbrella, slightly bent'].map((name, at) => ({
    id: at + 1,
    name,
    addedBy: 'the house',
  }))
  let lastId = items.length

  const server = fastify({ forceCloseConnections: true, bodyLimit: 16 * 1024 })

  server.setErrorHandler<Error & { statusCode?: number }>(async (error, _request, reply) => {
    if (error instanceof TokenRefused) reply.header('www-authenticate', error.challenge)
    const status = error.statusCode ?? 500
    return reply.code(status).send({ status, error: status < 500 ? error.message : 'the API cannot answer right now' })
  })

  server.get('/healthz', async () => ({ status: 'ok' }))

  server.register(async guarded => {
    guarded.decorateRequest('apiCaller')
    guarded.addHook('onRequest', async request => {
      request.apiCaller = await callerOf(request.headers.authorization)
    })

    guarded.get('/items', async () => ({ items }))

    guarded.post<{ Body: { name: string } }>('/items', { schema: { body: itemSchema } }, async (request, reply) => {
      lastId += 1
      const item = { id: lastId, name: request.body.name, addedBy: request.apiCaller.sub }
      items.push(item)
      if (items.length > mostItems) items.shift()
      return reply.code(201).send(item)
    })

    guarded.get('/whoami', async request => {
      const { sub, scope, aud, exp } = request.apiCaller
      return { sub, scope, aud, exp }
    })
  })

  return server
}

const itemSchema = {
  type: 'object',
  required: ['name'],
  additionalProperties: false,
  properties: { name: { type: 'string', minLength: 1, maxLength: 80, pattern: '\\S' } },
}
