import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { authenticationOf } from './config/client-auth.ts'
import type { Config } from './config/load.ts'
import { authorizeParameters, loginScope, presetFor } from './config/provider.ts'
import { claimsNamed } from './core/claim-rules.ts'
import type { Clock, Elapsed } from './core/clock.ts'
import type { Audit } from './core/events.ts'
import type { Preset } from './core/presets.ts'
import { createSeal } from './core/seal.ts'
import { sessionHandle } from './core/session.ts'
import { succeeds } from './core/succeeds.ts'
import { createAccessTokens } from './flows/access-token.ts'
import { createBreaker } from './flows/breaker.ts'
import { createEndSession, createNoteEnded } from './flows/end-session.ts'
import { createExpiry, type Expiry } from './flows/expiry.ts'
import { createLoginFlow } from './flows/login.ts'
import { createLogoutFlow } from './flows/logout.ts'
import { createProviderLogout } from './flows/provider-logout.ts'
import { createRefreshing } from './flows/refresh.ts'
import { createRenew } from './flows/renew.ts'
import { createRevoker, createRevokeToken } from './flows/revocation.ts'
import { createSessionsFlow } from './flows/sessions.ts'
import { createStepUps } from './flows/step-up.ts'
import { createSessionUse } from './flows/use-session.ts'
import { createProviderFetch, type FetchLimits } from './oidc/fetch.ts'
import { createProvider, type Provider } from './oidc/provider.ts'
import { createMemoryStore } from './store/memory.ts'
import type { RedisAddress } from './store/redis/address.ts'
import { createRedisStore } from './store/redis.ts'
import { type Lifetimes, type Store, touchIntervalMs } from './store/store.ts'

/** What the parts are made of. */
export interface PartsOptions {
  config: Config
  clock: Clock
  elapsed: Elapsed
  audit: Audit
  log: { warn(fields: object, message: string): void }
  providerLimits: Partial<FetchLimits> | undefined
  /** Paths that answer scripts, to which nobody is sent after a login. */
  scriptPaths: readonly string[]
  /**
   * In a worker: who sweeps and empties the outbox in its place, and what all seal with. The rest is right in each process
   * as it is in each replica: refreshes are serialised by leases in the store, word of a session comes by subscription,
   * activity is remembered where it was seen, and each learns for itself what the provider says and whether it answers.
   */
  primary: (Pick<Expiry, 'soon' | 'within'> & { sealingKeys: readonly Buffer[] }) | undefined
}

/** Constructs everything below http: the two outside worlds and the flows between them. */
export function createParts(options: PartsOptions) {
  const { config, clock, elapsed, audit, log } = options
  const lifetimes: Lifetimes = {
    idleTimeout: Math.min(config.sessionIdleTimeout, config.sessionAbsoluteTimeout),
    absoluteTimeout: config.sessionAbsoluteTimeout,
  }
  const idleTimeoutMs = lifetimes.idleTimeout * 1000
  const touchMs = touchIntervalMs(lifetimes)
  const { random } = Math

  const { primary } = options
  const sealingKeys = primary?.sealingKeys ?? config.sessionKeys ?? [randomBytes(32)]
  const store = openStore(options, sealingKeys, lifetimes)
  const preset = presetFor(config)
  const provider = openProvider(options, preset)

  const revoker = createRevoker({ store, provider, audit, random })
  const noteEnded = createNoteEnded({ store, audit, revokeSoon: id => expiry.soon(id) })
  // Other replicas are given two intervals after an outage to write what they remember, and the time to find Redis again.
  const settlingMs = Math.max(2 * touchMs, reconnectMs)
  const expiry: Expiry =
    primary === undefined
      ? createExpiry({ store, noteEnded, revoker, elapsed, random, settlingMs, idleTimeoutMs })
      : { start() {}, soon: primary.soon, within: primary.within, async stop() {} }
  const revokeToken = createRevokeToken({ store, provider, audit, revokeSoon: expiry.soon })
  const endSession = createEndSession({ store, noteEnded })
  const sessionUse = createSessionUse({ store, noteEnded, elapsed, lifetimes })
  const maximumPerUser = config.sessionMaxPerUser
  const sessions = createSessionsFlow({ store, endSession, clock, idleTimeoutMs, maximumPerUser })
  const { enforceLimit } = sessions
  const logout = createLogoutFlow({ store, provider, endSession, postLogoutPath: config.postLogoutPath })
  const providerLogout = createProviderLogout({
    store,
    provider,
    sessions,
    audit,
    clock,
    issuer: config.oidcIssuer,
    frontchannelIssOptional: preset.frontchannelIssOptional,
  })
  const breaker = createBreaker({ elapsed, random })
  const revokeSoon = expiry.soon
  const renew = createRenew({
    store,
    provider,
    breaker,
    endSession,
    revokeToken,
    revokeSoon,
    audit,
    reusable: preset.refreshTokens === 'reusable',
    clock,
    random,
  })
  const { refreshTokens, dispatch } = createRefreshing({ store, renew, clock, elapsed })
  const accessTokens = createAccessTokens({ refreshTokens, clock, elapsed })
  const stepUps = createStepUps({ store, accessTokens, challengeStyle: preset.challenge, audit })
  const { publicUrl: origin, corsOrigins } = config
  const returnUrlRules = { origin, corsOrigins, excludedPaths: options.scriptPaths }
  const login = createLoginFlow({
    store,
    provider,
    stepUps,
    endSession,
    revokeToken,
    enforceLimit,
    dueWithin: expiry.within,
    audit,
    clock,
    random,
    absoluteTimeoutMs: lifetimes.absoluteTimeout * 1000,
    sharedGrants: preset.grants === 'shared',
    returnUrlRules,
    look: id => sessionUse.use(id, { active: false }),
    reauth: config.sessionReauth,
    dpop: config.oidcDpop,
  })
  store.onSessionEvent(dispatch)

  let flushing: NodeJS.Timeout | undefined
  return {
    lifetimes,
    sealingKeys,
    store,
    provider,
    expiry,
    login,
    logout,
    providerLogout,
    sessions,
    sessionUse,
    accessTokens,
    stepUps,
    /** Waits a moment for the store, so that the first requests find it, and starts what happens without a request. */
    async start() {
      await answers(store)
      if (primary === undefined) void warnOfEviction(store, log)
      expiry.start()
      flushing = setInterval(() => void sessionUse.flush(), touchMs)
      flushing.unref()
    },
    /** Writes the activity that is remembered, finishes the revocations under way, and lets go of the store. */
    async stop() {
      clearInterval(flushing)
      // A refresh under way holds the only copy of a rotated token until it is stored.
      await accessTokens.idle()
      await sessionUse.flush()
      await expiry.stop()
      await store.close()
    },
  }
}

const patienceMs = 3000
/** Far longer than a link to Redis rests between two attempts, so that a busy machine finds it in time, too. */
const reconnectMs = 3000

/** Resolves when the store answers, or when it has been waited for long enough: it may come up later. */
async function answers(store: Store): Promise<void> {
  for (let waitedMs = 0; waitedMs < patienceMs; waitedMs += 50) {
    if (await succeeds(store.ping())) return
    await sleep(50)
  }
}

/** A store that does not say so, or may not be asked, is left at that. */
async function warnOfEviction(store: Store, log: PartsOptions['log']): Promise<void> {
  if (await store.evicts().catch(() => false))
    log.warn({ variable: 'REDIS_URL' }, 'Redis drops sessions when it is full: set its maxmemory-policy to noeviction')
}

function openProvider(options: PartsOptions, preset: Preset): Provider {
  const { config, clock, audit, log, providerLimits, primary } = options
  if (config.oidcAllowedTenants?.includes('*') && primary === undefined)
    log.warn({ variable: 'OIDC_ALLOWED_TENANTS' }, 'users of every organisation may sign in')
  return createProvider({
    issuer: config.oidcIssuer,
    discoveryUrl: config.oidcDiscoveryUrl,
    clientId: config.oidcClientId,
    authentication: authenticationOf(config),
    preset,
    allowedTenants: config.oidcAllowedTenants,
    redirectUri: `${config.publicUrl}${config.bffPath}/callback`,
    postLogoutUri: config.publicUrl + config.postLogoutPath,
    loginScope: loginScope(config),
    scope: union([loginScope(config), ...config.upstreams.map(upstream => upstream.scope ?? '')]),
    resources: config.upstreams.flatMap(upstream => upstream.resource ?? []),
    authorizeParameters: authorizeParameters(config),
    responseMode: config.oidcResponseMode,
    par: config.oidcPar,
    idTokenAlgorithms: config.oidcIdTokenAlgs,
    userInfo: config.oidcUserinfo,
    keptClaims: claimsToKeep(config),
    fetch: createProviderFetch(providerLimits),
    audit,
    log,
    clock,
  })
}

/** What `/user` shows, and what upstreams ask for or are told of. */
function claimsToKeep({ userClaims, upstreams }: Config): string[] {
  const named = upstreams.flatMap(({ require, claimsHeaders }) => claimsNamed(require, claimsHeaders))
  return [...new Set([...userClaims, ...named])]
}

/** All scopes, each once. */
function union(scopes: readonly string[]): string {
  return [...new Set(scopes.join(' ').split(' ').filter(Boolean))].join(' ')
}

function redisAddress(config: Config, url: URL): RedisAddress {
  const { redisCaFile: ca, redisCluster: cluster, redisSentinels: nodes, redisSentinelMaster: master } = config
  const named = nodes !== undefined && master !== undefined
  return { url, ca, cluster, sentinel: named ? { nodes, master, password: config.redisSentinelPassword } : undefined }
}

function openStore(options: PartsOptions, sealingKeys: readonly Buffer[], lifetimes: Lifetimes): Store {
  const { config, clock, audit, log, primary } = options
  if (config.redisUrl === undefined) {
    log.warn({ variable: 'REDIS_URL' }, 'sessions live in the memory of this process and end with it')
    return createMemoryStore({ clock, lifetimes })
  }
  if (config.sessionKeys === undefined && primary === undefined)
    log.warn({ variable: 'SESSION_KEYS' }, 'sessions are sealed with a key made up at this start and end with it')
  return createRedisStore({
    address: redisAddress(config, config.redisUrl),
    seal: createSeal({
      keys: sealingKeys,
      context: JSON.stringify([config.oidcIssuer, config.oidcClientId]),
    }),
    prefix: config.redisPrefix,
    lifetimes,
    // Redis's deadlines follow no manual clock, and so must not what is kept of them.
    elapsed: () => performance.now(),
    onUnreadable: id => audit({ event: 'record_unreadable', session: sessionHandle(id) }),
    onLinkError: error => log.warn({ err: error }, 'the link to Redis is broken'),
  })
}
