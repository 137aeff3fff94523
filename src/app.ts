import { randomBytes } from 'node:crypto'
import cookie from '@fastify/cookie'
import fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import type { Config } from './config/load.ts'
import { type Clock, type Elapsed, systemClock } from './core/clock.ts'
import type { Audit } from './core/events.ts'
import { createSeal } from './core/seal.ts'
import { type Session, sessionHandle } from './core/session.ts'
import { createGetAccessToken } from './flows/access-token.ts'
import { createEndSession, createNoteEnded } from './flows/end-session.ts'
import { createExpiry } from './flows/expiry.ts'
import { createLoginFlow } from './flows/login.ts'
import { createLogoutFlow } from './flows/logout.ts'
import { createRevoker, createRevokeToken } from './flows/revocation.ts'
import { createSessionsFlow } from './flows/sessions.ts'
import { createSessionUse } from './flows/use-session.ts'
import { createCookies } from './http/cookies.ts'
import { createCsrf } from './http/csrf.ts'
import { createEventStreams } from './http/event-streams.ts'
import { createGuard, type GuardedRoute, registerGuarded } from './http/guard.ts'
import { registerTargetChecks } from './http/listener.ts'
import { type LogStream, loggerOptions } from './http/logging.ts'
import { answerParserError, ownHeaders, registerProblems } from './http/problem.ts'
import { registerProxy } from './http/proxy.ts'
import { registerAdmin } from './http/routes/admin.ts'
import { createEventsRoute } from './http/routes/events.ts'
import { registerHealth } from './http/routes/health.ts'
import { createLoginRoutes } from './http/routes/login.ts'
import { createLogoutRoutes } from './http/routes/logout.ts'
import { createSessionsRoutes } from './http/routes/sessions.ts'
import { createUserRoute } from './http/routes/user.ts'
import { createReadSession } from './http/session.ts'
import { opensPage, registerSpa } from './http/spa.ts'
import { createProviderFetch, type FetchLimits } from './oidc/fetch.ts'
import { createProvider } from './oidc/provider.ts'
import { createMemoryStore } from './store/memory.ts'
import { createRedisStore } from './store/redis.ts'
import { type Lifetimes, type Store, touchIntervalMs, warningMs } from './store/store.ts'

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
  // A manual clock also tells how long ago things were; the machine's may jump, so that is asked of another.
  const elapsed: Elapsed = options.clock?.now ?? (() => performance.now())
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

  const lifetimes = lifetimesOf(config)
  const revoker = createRevoker({ store, provider, audit, random: Math.random })
  const noteEnded = createNoteEnded({ store, audit, revokeSoon: id => expiry.soon(id) })
  const expiry = createExpiry({
    store,
    noteEnded,
    revoker,
    elapsed,
    random: Math.random,
    settlingMs: 2 * touchIntervalMs(lifetimes),
    idleTimeoutMs: lifetimes.idleTimeout * 1000,
  })
  const revokeToken = createRevokeToken({ store, provider, audit, revokeSoon: expiry.soon })
  const endSession = createEndSession({ store, noteEnded })
  const sessionUse = createSessionUse({ store, noteEnded, elapsed })
  const sessions = createSessionsFlow({
    store,
    endSession,
    clock,
    idleTimeoutMs: lifetimes.idleTimeout * 1000,
    maximumPerUser: config.sessionMaxPerUser,
  })
  const login = createLoginFlow({
    store,
    provider,
    endSession,
    revokeToken,
    enforceLimit: sessions.enforceLimit,
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
    readSession: createReadSession({ cookies, use: sessionUse.use }),
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

  const sessionsRoutes = createSessionsRoutes({ sessions })
  const streams = createEventStreams({
    look: id => sessionUse.use(id, { active: false }),
    warningMs: warningMs(lifetimes),
    headers: ownHeaders,
  })
  store.onSessionEvent(streams.dispatch)

  // The guard table. Only what is for people may redirect; every answer here is no-store.
  // biome-ignore format: a table
  const table: GuardedRoute[] = [
    { method: 'GET',    path: endpoint('login'),            csrf: 'navigation',     session: 'none',     slides: false,          forPeople: true,  handler: loginRoutes.start },
    { method: 'GET',    path: endpoint('callback'),         csrf: 'navigation',     session: 'none',     slides: false,          forPeople: true,  handler: loginRoutes.callback },
    { method: 'GET',    path: endpoint('login/failed'),     csrf: 'navigation',     session: 'optional', slides: false,          forPeople: true,  handler: loginRoutes.failed },
    { method: 'GET',    path: endpoint('user'),             csrf: 'header',         session: 'optional', slides: 'unless-asked', forPeople: false, handler: user },
    { method: 'GET',    path: endpoint('logout'),           csrf: 'no-prefetch',    session: 'optional', slides: false,          forPeople: true,  handler: logoutRoutes.navigate },
    { method: 'POST',   path: endpoint('logout'),           csrf: 'header',         session: 'optional', slides: false,          forPeople: false, handler: logoutRoutes.byScript },
    { method: 'GET',    path: endpoint('logout/continue'),  csrf: 'navigation',     session: 'none',     slides: false,          forPeople: true,  handler: logoutRoutes.continue },
    { method: 'POST',   path: endpoint('activity'),         csrf: 'header',         session: 'required', slides: true,           forPeople: false, handler: sessionsRoutes.activity },
    { method: 'GET',    path: endpoint('sessions'),         csrf: 'header',         session: 'required', slides: false,          forPeople: false, handler: sessionsRoutes.list },
    { method: 'DELETE', path: endpoint('sessions'),         csrf: 'header',         session: 'required', slides: true,           forPeople: false, handler: sessionsRoutes.endOthers },
    { method: 'DELETE', path: endpoint('sessions/:id'),     csrf: 'header',         session: 'required', slides: true,           forPeople: false, handler: sessionsRoutes.endOne },
    { method: 'GET',    path: endpoint('events'),           csrf: 'fetch-metadata', session: 'required', slides: false,          forPeople: false, handler: createEventsRoute({ streams }) },
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
  registerProblems(internalServer, { opensPage: () => false })
  registerHealth(internalServer, { checks: { store: store.ping, provider: provider.ready }, stopping: () => stopping })

  if (config.adminToken !== undefined)
    registerAdmin(internalServer, { sessions, token: config.adminToken, issuer: config.oidcIssuer, audit })
  publicServer.addHook('preClose', async () => streams.close())
  const flushing = setInterval(() => void sessionUse.flush(), touchIntervalMs(lifetimes))
  flushing.unref()

  return {
    publicServer,
    internalServer,
    async listen() {
      await internalServer.listen({ host: config.adminHost, port: config.adminPort })
      await publicServer.listen({ host: config.host, port: config.port })
      expiry.start()
    },
    async close() {
      stopping = true
      await publicServer.close()
      await internalServer.close()
      clearInterval(flushing)
      await sessionUse.flush()
      await expiry.stop()
      await store.close()
    },
  }
}

function createStore(deps: { config: Config; clock: Clock; audit: Audit; log: FastifyBaseLogger }): Store {
  const { config, clock, audit, log } = deps
  const lifetimes = lifetimesOf(config)
  if (config.redisUrl === undefined) {
    log.warn('sessions live in the memory of this process and end with it: set REDIS_URL')
    return createMemoryStore({ clock, lifetimes })
  }
  if (config.sessionKeys === undefined)
    log.warn('sessions are sealed with a key made up at this start and end with it: set SESSION_KEYS')
  return createRedisStore({
    address: { url: config.redisUrl, ca: config.redisCaFile },
    seal: createSeal({
      keys: config.sessionKeys ?? [randomBytes(32)],
      context: JSON.stringify([config.oidcIssuer, config.oidcClientId]),
    }),
    prefix: config.redisPrefix,
    lifetimes,
    onUnreadable: id => audit({ event: 'record_unreadable', session: sessionHandle(id) }),
    onLinkError: error => log.warn({ err: error }, 'the link to Redis is broken'),
  })
}

function lifetimesOf(config: Config): Lifetimes {
  return { idleTimeout: config.sessionIdleTimeout, absoluteTimeout: config.sessionAbsoluteTimeout }
}
