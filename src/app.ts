import cookie from '@fastify/cookie'
import type { FastifyInstance } from 'fastify'
import type { Config } from './config/load.ts'
import { type Clock, systemClock } from './core/clock.ts'
import type { Audit, RateLimited } from './core/events.ts'
import { createPathCheck } from './core/request-path.ts'
import { createConcurrency } from './http/concurrency.ts'
import { createCookies } from './http/cookies.ts'
import { createCsrf } from './http/csrf.ts'
import { createEventStreams } from './http/event-streams.ts'
import { createGuard, type GuardedRoute, registerGuarded } from './http/guard.ts'
import { registerProblems, transportSecurity } from './http/problem.ts'
import { type Count, createCount, createRateLimit } from './http/rate-limit.ts'
import { createRepeats } from './http/repeats.ts'
import { registerAdmin } from './http/routes/admin.ts'
import { createEventsRoute } from './http/routes/events.ts'
import { registerForwardAuth } from './http/routes/forward-auth.ts'
import { type Phase, registerHealth } from './http/routes/health.ts'
import { createLoginRoutes } from './http/routes/login.ts'
import { createLogoutRoutes } from './http/routes/logout.ts'
import { createProviderLogoutRoutes } from './http/routes/provider-logout.ts'
import { createSessionsRoutes } from './http/routes/sessions.ts'
import { createUserRoute } from './http/routes/user.ts'
import { createTrusts, registerClientAddress } from './http/server/client-address.ts'
import { type ClientLimits, clientLimitsFor } from './http/server/client-limits.ts'
import { createCors, registerCors } from './http/server/cors.ts'
import { type LogStream, loggerOptions, unsaid } from './http/server/logging.ts'
import { createServer } from './http/server/server.ts'
import { registerTargetChecks } from './http/server/target-checks.ts'
import { createReadSession } from './http/session.ts'
import { createSessionWatch } from './http/session-watch.ts'
import { createSpa } from './http/spa.ts'
import { createAdmission } from './http/upstream/admission.ts'
import { registerProxy } from './http/upstream/proxy.ts'
import { createWebSockets } from './http/upstream/websockets.ts'
import type { FetchLimits } from './oidc/fetch.ts'
import { createParts } from './parts.ts'
import { warningMs } from './store/store.ts'
import { upstreamsOf } from './upstreams.ts'
import type { Shared } from './workers/messages.ts'
import type { Primary } from './workers/primary.ts'
import type { Workers } from './workers/workers.ts'

/** What a gateway is built from; tests bring their own clock, log stream and limits. */
export interface AppOptions {
  config: Config
  clock?: Clock
  /** Takes the log, a JSON object a line; stdout without it. */
  logStream?: LogStream
  providerLimits?: Partial<FetchLimits>
  clientLimits?: Partial<ClientLimits>
  /** Who serves the public listener in the place of this process, which does everything else. */
  workers?: Workers | undefined
  /** Who does everything else while this process serves the public listener. */
  primary?: Primary | undefined
}

/** A gateway: two listeners, and everything behind them. Two of them in one process do not know of each other. */
export interface App {
  publicServer: FastifyInstance
  internalServer: FastifyInstance
  /** Binds both listeners, or the one that is this process's. */
  listen(): Promise<void>
  /** Stops taking requests, finishes those in flight, and lets go of the store. */
  close(): Promise<void>
}

/** What a session may have under way in one process: requests to upstreams, and event streams and websockets. */
const [requestsPerSession, streamsPerSession] = [128, 64]

/** Constructs the parts and registers them, in the order in which a request meets them. */
export async function buildApp(options: AppOptions): Promise<App> {
  const { config, clock = systemClock, workers, primary } = options
  const publicOrigin = new URL(config.publicUrl)
  const { corsOrigins } = config
  const cors = createCors({ origins: corsOrigins })
  /** How scripts are told of a path: in full, where they may be of another origin. */
  const addressOf = (path: string) => (corsOrigins.length > 0 ? config.publicUrl + path : path)
  const endpoint = (name: string) => `${config.bffPath}/${name}`
  // What lies below these answers scripts; everything else is the SPA's.
  const scriptPaths = [config.bffPath, ...config.upstreams.map(upstream => upstream.path)]

  const upstreams = upstreamsOf(config)
  const logger = loggerOptions(config.logLevel, {
    stream: options.logStream,
    severalProcesses: workers !== undefined || primary !== undefined,
  })
  const limits = {
    ...clientLimitsFor(Math.max(...upstreams.map(({ maxBody }) => maxBody), 0)),
    ...options.clientLimits,
  }
  const publicServer = createServer({ logger, limits, logsEveryRequest: config.accessLog, cors, publicOrigin })
  const internalServer = createServer({ logger, limits, logsEveryRequest: false, cors: createCors({ origins: [] }) })
  const { log } = publicServer
  const audit: Audit = event => log.info(event, 'audit')
  // A manual clock also tells how long ago things were; the machine's may jump, so that is asked of another.
  const elapsed = options.clock?.now ?? (() => performance.now())
  const { providerLimits } = options
  const parts = createParts({ config, clock, elapsed, audit, log, providerLimits, scriptPaths, primary })
  const { store, sessionUse, sessions } = parts

  const limited = createRepeats(() => performance.now())
  const counts = new Map<string, Count>()
  const limitOf = (limit: RateLimited, rate: { points: number; seconds: number }, name: string = limit) => {
    // A client's connections go to all workers: none of them alone could tell what is too much.
    const count = primary === undefined ? createCount(rate) : (key: string) => primary.count(name, key)
    counts.set(name, count)
    return createRateLimit({
      count,
      // A flood must not become one of the log.
      onExceeded(address) {
        const repeated = limited(limit)
        if (repeated !== null) audit({ event: 'rate_limited', limit, address, ...(repeated > 0 && { repeated }) })
      },
    })
  }
  const limit = limitOf('login', config.rateLimitLogin)
  const openRequests = createConcurrency({ most: requestsPerSession })
  const openStreams = createConcurrency({ most: streamsPerSession })

  const formPost = config.oidcResponseMode === 'form_post'
  const cookies = createCookies({
    name: config.sessionCookieName,
    sameSite: config.sessionCookieSamesite,
    crossSitePost: formPost,
  })
  const check = createGuard({
    csrf: createCsrf({ origin: config.publicUrl, corsOrigins }),
    readSession: createReadSession({
      cookies,
      sessionUse,
      invalid: limitOf('invalid', config.rateLimitInvalid),
    }),
    audit,
  })
  const [loginUrl, logoutUrl] = [endpoint('login'), endpoint('logout')]
  const { login, logout } = parts
  const loginRoutes = createLoginRoutes({ login, cookies, audit, loginUrl, failedUrl: endpoint('login/failed') })
  const logoutRoutes = createLogoutRoutes({
    logout,
    cookies,
    postLogoutPath: config.postLogoutPath,
    logoutUrl,
    continueUrl: endpoint('logout/continue'),
    addressOf,
  })
  const providerLogoutRoutes = createProviderLogoutRoutes({
    providerLogout: parts.providerLogout,
    limits: {
      tokens: limitOf('provider_logout', config.rateLimitInvalid, 'logout_tokens'),
      browsers: limitOf('provider_logout', config.rateLimitInvalid, 'frontchannel_logouts'),
    },
    providerOrigin: new URL(config.oidcIssuer).origin,
  })
  const user = createUserRoute({
    userClaims: config.userClaims,
    logoutUrl: session => addressOf(`${logoutUrl}?token=${session.logoutToken}`),
  })
  const sessionsRoutes = createSessionsRoutes({ sessions })
  const sessionWatch = createSessionWatch({
    look: id => sessionUse.use(id, { active: false }),
    missingAmong: store.missingAmong,
  })
  store.onSessionEvent(sessionWatch.dispatch)
  const headers = publicServer.ownHeaders
  const streams = createEventStreams({ sessionWatch, warningMs: warningMs(parts.lifetimes), headers })
  const webSockets = createWebSockets({ sessionWatch })

  // biome-ignore format: a row of the table below
  const postedCallback: GuardedRoute =
    { method: 'POST',   path: endpoint('callback'),         csrf: 'navigation',     session: 'none',     slides: false,          forPeople: true,  handler: loginRoutes.callback, body: 'form', limit }
  // The guard table. Only what is for people may redirect; every answer here is no-store.
  // biome-ignore format: a table
  const table: GuardedRoute[] = [
    { method: 'GET',    path: endpoint('login'),            csrf: 'navigation',     session: 'none',     slides: false,          forPeople: true,  handler: loginRoutes.start, limit },
    { method: 'GET',    path: endpoint('callback'),         csrf: 'navigation',     session: 'none',     slides: false,          forPeople: true,  handler: formPost ? loginRoutes.misplaced : loginRoutes.callback, limit },
    ...(formPost ? [postedCallback] : []),
    { method: 'GET',    path: endpoint('login/failed'),     csrf: 'navigation',     session: 'optional', slides: false,          forPeople: true,  handler: loginRoutes.failed },
    { method: 'GET',    path: endpoint('user'),             csrf: 'header',         session: 'optional', slides: 'unless-asked', forPeople: false, handler: user },
    { method: 'GET',    path: endpoint('logout'),           csrf: 'no-prefetch',    session: 'optional', slides: false,          forPeople: true,  handler: logoutRoutes.navigate, limit },
    { method: 'POST',   path: endpoint('logout'),           csrf: 'header',         session: 'optional', slides: false,          forPeople: false, handler: logoutRoutes.byScript, limit },
    { method: 'GET',    path: endpoint('logout/continue'),  csrf: 'navigation',     session: 'none',     slides: false,          forPeople: true,  handler: logoutRoutes.continue, limit },
    { method: 'POST',   path: endpoint('activity'),         csrf: 'header',         session: 'required', slides: true,           forPeople: false, handler: sessionsRoutes.activity },
    { method: 'GET',    path: endpoint('sessions'),         csrf: 'header',         session: 'required', slides: false,          forPeople: false, handler: sessionsRoutes.list },
    { method: 'DELETE', path: endpoint('sessions'),         csrf: 'header',         session: 'required', slides: true,           forPeople: false, handler: sessionsRoutes.endOthers },
    { method: 'DELETE', path: endpoint('sessions/:id'),     csrf: 'header',         session: 'required', slides: true,           forPeople: false, handler: sessionsRoutes.endOne },
    { method: 'GET',    path: endpoint('events'),           csrf: 'fetch-metadata', session: 'required', slides: false,          forPeople: false, handler: createEventsRoute({ streams, cors, open: openStreams }) },
    { method: 'POST',   path: endpoint('backchannel'),      csrf: 'none',           session: 'none',     slides: false,          forPeople: false, handler: providerLogoutRoutes.backchannel, body: 'form' },
    { method: 'GET',    path: endpoint('frontchannel'),     csrf: 'none',           session: 'none',     slides: false,          forPeople: true,  handler: providerLogoutRoutes.frontchannel },
  ]

  const spa =
    config.spaDir === undefined
      ? undefined
      : createSpa({
          directory: config.spaDir,
          contentSecurityPolicy: config.spaCsp,
          transportSecurity: transportSecurity(publicOrigin),
          scriptPaths,
        })

  await publicServer.register(cookie, { hook: false })
  const trusts = createTrusts(config.trustedProxies)
  registerClientAddress(publicServer, { trusts, log })
  registerTargetChecks(publicServer, { publicOrigin, trusts, checkPath: createPathCheck(scriptPaths) })
  registerCors(publicServer, { cors, publicOrigin: config.publicUrl, audit })
  registerProblems(publicServer, { loginUrl: addressOf(loginUrl), openPage: spa?.openPage })
  registerGuarded(publicServer, config.bffPath, table, check)
  const { accessTokens, stepUps } = parts
  const admit = createAdmission({ check, accessTokens, stepUps })
  const origins = config.corsOrigins
  registerProxy(publicServer, upstreams, {
    admit,
    accessTokens,
    stepUps,
    sessionWatch,
    cors,
    webSockets,
    openRequests,
    openStreams,
    publicOrigin,
    origins,
    clock,
  })
  await spa?.register(publicServer)
  publicServer.addHook('preClose', async () => {
    streams.close()
    webSockets.close()
  })

  let phase: Phase = 'starting'
  const checks = { store: store.ping, provider: parts.provider.ready, ...(workers && { workers: workers.ready }) }
  registerClientAddress(internalServer, { trusts, log })
  registerProblems(internalServer, {})
  registerHealth(internalServer, { checks, phase: () => phase })
  if (config.adminToken !== undefined)
    registerAdmin(internalServer, { sessions, token: config.adminToken, issuer: config.oidcIssuer, audit })
  if (config.forwardAuthToken !== undefined)
    registerForwardAuth(internalServer, {
      admit,
      policies: upstreams,
      token: config.forwardAuthToken,
      loginUrl: addressOf(loginUrl),
      audit,
    })

  const { sealingKeys, expiry } = parts
  const shared: Shared = {
    soon: expiry.soon,
    within: expiry.within,
    count: async (name, key) => (await counts.get(name)?.(key)) ?? 0,
  }
  const openToPublic = async () => {
    if (workers !== undefined) return await workers.start({ sealingKeys, shared, log })
    const address = { host: config.host, port: config.port }
    if (primary === undefined) return void (await publicServer.listen(address))
    // The primary says it for all.
    const bound = await publicServer.listen({ ...address, listenTextResolver: () => unsaid })
    // Each has a link to Redis and a standing with the provider of its own, which the primary cannot know.
    primary.serving(bound, async () => void (await Promise.all([store.ping(), parts.provider.ready()])))
  }

  return {
    publicServer,
    internalServer,
    async listen() {
      if (primary === undefined) await internalServer.listen({ host: config.adminHost, port: config.adminPort })
      await parts.start()
      await openToPublic()
      if (phase === 'starting') phase = 'serving'
    },
    async close() {
      phase = 'stopping'
      // They are told no later than their primary stops doing what they leave to it.
      await workers?.stop()
      await publicServer.close()
      await internalServer.close()
      await parts.stop()
    },
  }
}
