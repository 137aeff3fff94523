import fastify, { type FastifyInstance, type FastifyServerOptions, LogController } from 'fastify'
import { ownHeadersFor } from '../problem.ts'
import { type ClientLimits, closeUnread, serverOptionsOf } from './client-limits.ts'
import { watchConnections } from './connections.ts'
import type { Cors } from './cors.ts'
import { createEarlyAnswers } from './early-answers.ts'
import { registerFraming } from './framing.ts'
import { registerUpgrades } from './upgrades.ts'

/** What a listener is made of. */
export interface ServerOptions {
  logger: Exclude<FastifyServerOptions['logger'], boolean | undefined>
  limits: ClientLimits
  logsEveryRequest: boolean
  cors: Cors
  /** The application's origin, for the listener that browsers talk to; only that one knows upgrades. */
  publicOrigin?: URL
}

/** A listener without routes: what holds for each request before there is one. */
export function createServer({ logger, limits, logsEveryRequest, cors, publicOrigin }: ServerOptions): FastifyInstance {
  const ownHeaders = ownHeadersFor(publicOrigin)
  const early = createEarlyAnswers({ ownHeaders, cors })
  const { http, ...timeouts } = serverOptionsOf(limits)
  const server = fastify({
    logger,
    logController: new LogController({ disableRequestLogging: !logsEveryRequest }),
    clientErrorHandler: early.ofParser,
    frameworkErrors: early.ofFramework,
    ...timeouts,
    // The target checks refuse a missing Host themselves, with an answer like any other. The parser is strict whatever
    // NODE_OPTIONS say.
    http: { ...http, requireHostHeader: false, insecureHTTPParser: false },
  })
  server.decorate('ownHeaders', ownHeaders)
  const connections = watchConnections(server.server)
  closeUnread(server, connections)
  early.watch(server, connections)
  server.addHook('preClose', async () => connections.closeIdle())
  if (publicOrigin !== undefined)
    registerUpgrades(server, { connections, refuse: socket => early.ofParser(new Error('no upgrade'), socket) })
  registerFraming(server)
  return server
}
