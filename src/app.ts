import { randomBytes } from 'node:crypto'
import cookie from '@fastify/cookie'
import fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import type { Config } from './config/load.ts'
import { type Clock, systemClock } from './core/clock.ts'
import type { Audit } from './core/events.ts'
import { createSeal } from './core/seal.ts'
import { type Session, sessionHandle } from './core/session.ts'
import { createGetAccessToken } from './flows/access-token.ts'
import { createEndSession, createRevokeToken } from './flows/end-session.ts'
import { createLoginFlow } from './flows/login.ts'
import { createLogoutFlow } from './flows/logout.ts'
import { createCookies } from './http/cookies.ts'
import { createCsrf } from './http/csrf.ts'
import { createGuard, type GuardedRoute, registerGuarded } from './http/guard.ts'
import { registerTargetChecks } from './http/listener.ts'
import { type LogStream, loggerOptions } from './http/logging.ts'
import { answerParserError, registerProblems } from './http/problem.ts'
import { registerProxy } from './http/proxy.ts'
import { registerHealth } from './http/routes/health.ts'
import { createLoginRoutes } from './http/routes/login.ts'
import { createLogoutRoutes } from './http/routes/logout.ts'
import { createUserRoute } from './http/routes/user.ts'
import { createReadSession } from './http/session.ts'
import { opensPage, registerSpa } from './http/spa.ts'
import { createProviderFetch, type FetchLimits } from './oidc/fetch.ts'
import { createProvider } from './oidc/provider.ts'
import { createMemoryStore } from './store/memory.ts'
import { createRedisStore } from './store/redis.ts'
import { createRedisClient } from './store/redis-client.ts'
import type { Store } from './store/store.ts'

/** What a gateway is built from; tests bring their own clock, log stream and limits. */
export interface AppOptions {
  config: Config
  clock?: Clock
  /** Takes the log, a JSON object a line; stdout without it. */
  logStream?: LogStream
  providerLimits?: Partial<FetchLimits>
}

/** A gateway: two listeners, and everything behind them. Two of them in one process do not know of each other. */
export interface App {
  publicServer: FastifyInstance
  internalServer: FastifyInstance
  /** Binds both listeners. */
  listen(): Promise<void>
  /** Stops taking requests, finishes those in flight, and lets go of the store. */
  close(): Promise<void>
}

/** Constructs the parts and registers them, in the order in which a request meets them. */
export async function buildApp(options: AppOptions): Promise<App> {
  const { config, clock = systemClock } = options
  const publicOrigin = new URL(config.publicUrl)
  const endpoint = (name: string) => `${config.bffPath}/${name}`
  // What lies below these answers scripts; everything else is the SPA's.
  const scriptPaths = [config.bffPath, ...config.upstreams.map(upstream => upstream.path)]

  const serverOptions = {
    logger: loggerOptions(config.logLevel, options.logStream),
    clientErrorHandler: answerParserError,
    requestTimeout: 120_000,
    http: { headersTimeout: 20_000 },
  }
  const logging = (everyRequest: boolean) => ({
    logController: new LogController({ disableRequestLogging: !everyRequest }),
  })
  const publicServer: FastifyInstance = fastify({ ...serverOptions, ...logging(config.accessLog) })
  const internalServer: FastifyInstance = fastify({ ...serverOptions, ...logging(false) })
  const { log } = publicServer
  const audit: Audit = event => log.info(event, 'audit')

  const store = createStore({ config, clock, audit, log })
  const provider = createProvider({
    issuer: config.oidcIssuer,
    discoveryUrl: config.oidcDiscoveryUrl,
    clientId: config.oidcClientId,
    clientSecret: config.oidcClientSecret,
    clientAuth: config.oidcClientAuth,
    redirectUri: config.publicUrl + endpoint('callback'),
    postLogoutUri: config.publicUrl + config.postLogoutPath,
    scope: config.oidcScope,
    authorizeParameters: config.oidcAuthorizeParams,
    idTokenAlgorithms: config.oidcIdTokenAlgs,
    userInfo: config.oidcUserinfo,
    userClaims: config.userClaims,
    fetch: createProviderFetch(options.providerLimits),
    clock,
  })

  const revokeToken = createRevokeToken({ provider, audit })
  const endSession = createEndSession({ store, revokeToken, audit })
  const login = createLoginFlow({
    store,
    provider,
    endSession,
    revokeToken,
    audit,
    clock,
    returnUrlRules: {
      origin: config.publicUrl,
      excludedPaths: scriptPaths,
    },
  })
  const logout = createLogoutFlow({ store, provider, endSession, postLogoutPath: config.postLogoutPath })
  const getAccessToken = createGetAccessToken({ endSession, clock })

  const cookies = createCookies({ name: config.sessionCookieName, sameSite: config.sessionCookieSamesite })
  const guardDeps = {
    csrf: createCsrf({ origin: config.publicUrl }),
    readSession: createReadSession({ cookies, store, endSession }),
    audit,
  }
  const loginRoutes = createLoginRoutes({
    login,
    cookies,
    audit,
    loginUrl: endpoint('login'),
    failedUrl: endpoint('login/failed'),
  })
  const logoutRoutes = createLogoutRoutes({
    logout,
    cookies,
    postLogoutPath: config.postLogoutPath,
    logoutUrl: endpoint('logout'),
    continueUrl: endpoint('logout/continue'),
  })
  const user = createUserRoute({
    logoutUrl: (session: Session) => `${endpoint('logout')}?token=${session.logoutToken}`,
  })

  // The guard table. Only what is for people may redirect; every answer here is no-store.
  // biome-ignore format: a table
  const table: GuardedRoute[] = [
    { method: 'GET',  path: endpoint('login'),           csrf: 'navigation', session: 'none',     slides: false, forPeople: true,  handler: loginRoutes.start },
    { method: 'GET',  path: endpoint('callback'),        csrf: 'navigation', session: 'none',     slides: false, forPeople: true,  handler: loginRoutes.callback },
    { method: 'GET',  path: endpoint('login/failed'),    csrf: 'navigation', session: 'optional', slides: false, forPeople: true,  handler: loginRoutes.failed },
    { method: 'GET',  path: endpoint('user'),            csrf: 'header',     session: 'optional', slides: true,  forPeople: false, handler: user },
    { method: 'GET',  path: endpoint('logout'),          csrf: 'no-prefetch', session: 'optional', slides: false, forPeople: true,  handler: logoutRoutes.navigate },
    { method: 'POST', path: endpoint('logout'),          csrf: 'header',     session: 'optional', slides: false, forPeople: false, handler: logoutRoutes.byScript },
    { method: 'GET',  path: endpoint('logout/continue'), csrf: 'navigation', session: 'none',     slides: false, forPeople: true,  handler: logoutRoutes.continue },
  ]

  await publicServer.register(cookie, { hook: false })
  registerTargetChecks(publicServer, { publicOrigin })
  registerProblems(publicServer, {
    loginUrl: endpoint('login'),
    opensPage: request => config.spaDir !== undefined && opensPage(request, scriptPaths),
  })
  registerGuarded(publicServer, table, guardDeps)
  registerProxy(publicServer, config.upstreams, { check: createGuard(guardDeps), getAccessToken, publicOrigin })
  if (config.spaDir !== undefined) await registerSpa(publicServer, { directory: config.spaDir })

  let stopping = false
  registerHealth(internalServer, { checks: { store: store.ping, provider: provider.ready }, stopping: () => stopping })

  return {
    publicServer,
    internalServer,
    async listen() {
      await internalServer.listen({ host: config.adminHost, port: config.adminPort })
      await publicServer.listen({ host: config.host, port: config.port })
    },
    async close() {
      stopping = true
      await publicServer.close()
      await internalServer.close()
      await store.close()
    },
  }
}

function createStore(deps: { config: Config; clock: Clock; audit: Audit; log: FastifyBaseLogger }): Store {
  const { config, clock, audit, log } = deps
  const lifetimes = { idleTimeout: config.sessionIdleTimeout, absoluteTimeout: config.sessionAbsoluteTimeout }
  if (config.redisUrl === undefined) {
    log.warn('sessions live in the memory of this process and end with it: set REDIS_URL')
    return createMemoryStore({ clock, lifetimes })
  }
  if (config.sessionKeys === undefined)
    log.warn('sessions are sealed with a key made up at this start and end with it: set SESSION_KEYS')
  const client = createRedisClient({ url: config.redisUrl, ca: config.redisCaFile })
  client.on('error', error => log.warn({ err: error }, 'the link to Redis is broken'))
  return createRedisStore({
    client,
    seal: createSeal({
      keys: config.sessionKeys ?? [randomBytes(32)],
      context: JSON.stringify([config.oidcIssuer, config.oidcClientId]),
    }),
    prefix: config.redisPrefix,
    lifetimes,
    onUnreadable: id => audit({ event: 'record_unreadable', session: sessionHandle(id) }),
  })
}
