// What must hold whatever happens at the same time. A seed makes a schedule: users with several sessions each call two
// upstreams through random replicas, sign in and out, here and at the provider, are thrown out; the provider answers refreshes late, never, or with
// a refusal; links to Redis break, and processes are killed. What happened in which order is up to the machine, so a
// seed that failed once may need some runs to fail again:
//
//   SEED=17 node build/test/journeys/schedule.test.js                      one schedule of each kind
//   SCHEDULE_RUNS=500 SEED=1000 node build/test/journeys/schedule.test.js  many, from this seed on
import { randomBytes } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import tap, { type Test, test } from 'tap'
import { sessionIdOf } from '../../src/core/session.ts'
import { createKeys } from '../../src/store/redis/keys.ts'
import { createBrowser, type TestBrowser } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { startGateway } from '../support/gateway.ts'
import { login } from '../support/login.ts'
import { startProvider } from '../support/provider.ts'
import { startRedis } from '../support/redis.ts'
import { startReplicas } from '../support/replicas.ts'
import { type Chain, keepLedger, type LedgerHooks } from '../support/schedule/ledger.ts'
import { type Plan, planOf, type Step } from '../support/schedule/plan.ts'
import { type LinkFault, startRedisLink } from '../support/schedule/redis-link.ts'
import { sessionCookie } from '../support/stage.ts'
import { startUpstream, type UpstreamRequest } from '../support/upstream.ts'

const seedGiven = process.env.SEED === undefined ? undefined : Number(process.env.SEED)
const runsGiven = process.env.SCHEDULE_RUNS === undefined ? undefined : Number(process.env.SCHEDULE_RUNS)
const seedsOf = (usual: number) =>
  Array.from({ length: runsGiven ?? (seedGiven === undefined ? usual : 1) }, (_, index) => (seedGiven ?? 1) + index)

const keys = createKeys('coatcheck:')
const adminToken = 'the-administrators-own-secret'
const reportsScope = 'api:read'
/** A session that has ended is unusable on every replica after this, in milliseconds. */
const everywhereMs = 1000
/** How long it may take until everything is ended, revoked and quiet: a replica visits each outbox every 30 seconds. */
const quietMs = 60_000
const hasteMs = 700

/** The replicas of a run. */
interface Fleet {
  publicUrl: string
  urls: readonly string[]
  internalUrls(): readonly string[]
  fail(replica: number, fault: LinkFault): void
  mend(replica: number): void
  /** Kills the replica and lets the time pass after which others take over what it held. It comes back by itself. */
  kill(replica: number): Promise<void>
  /** The replica whose lease this is. */
  holderOf(owner: string): number
  /** Lets so much time pass, where that can be done. */
  pass(ms: number): void
  /** Resolves when all replicas are up. */
  complete(): Promise<unknown>
  close(): Promise<void>
}

/** A session as its browser knows it. */
interface Held {
  label: string
  user: string
  cookie: string
  chain: Chain | undefined
  /** When it was first heard from each replica, in an answer to this cookie, that the session has ended. */
  refusedAt: Map<number, number>
  /** When it was first heard that it has ended. */
  endedAt: number | null
}

/** A browser of a user's, and the session that it holds. */
interface Place {
  user: string
  browser: TestBrowser
  held: Held | null
  loggingIn: boolean
}

/** The time of the provider, and of the replicas in this process, for which {@link hasten} turns it on. */
const clock = { aheadMs: 0, now: () => Date.now() + clock.aheadMs }
const provider = await startProvider({ accessTokens: 'jwt', clock })
const redis = await startRedis()
const [api, reports] = await Promise.all([startUpstream(), startUpstream()])
const idle: LedgerHooks = {
  decide: () => ({ verdict: 'prompt', ms: 0 }),
  killHolder: async () => {},
  note: () => {},
  fault: () => {},
}
const ledger = keepLedger(provider, idle)
tap.teardown(() => Promise.all([provider.close(), redis.stop(), api.close(), reports.close()]))

const environment = {
  ADMIN_TOKEN: adminToken,
  SESSION_KEYS: randomBytes(32).toString('base64'),
  LOG_LEVEL: 'info',
  ACCESS_LOG: 'false',
  UPSTREAM_API_PATH: '/api',
  UPSTREAM_API_URL: api.url,
  UPSTREAM_REPORTS_PATH: '/reports',
  UPSTREAM_REPORTS_URL: reports.url,
  UPSTREAM_REPORTS_SCOPE: reportsScope,
}

/** Replicas in this process, whose links to Redis can fail. */
async function startThreads(count: number): Promise<Fleet> {
  const links = await Promise.all(Array.from({ length: count }, () => startRedisLink(redis)))
  const start = (index: number, env: Record<string, string>) =>
    startGateway({
      provider,
      clock,
      env: { ...environment, SESSION_IDLE_TIMEOUT: '1s', REDIS_URL: linkUrl(index), ...env },
    })
  const linkUrl = (index: number) => links[index]?.url ?? ''
  const first = await start(0, {})
  const others = links.slice(1).map((_, index) => start(index + 1, { PUBLIC_URL: first.url }))
  const gateways = [first, ...(await Promise.all(others))]
  return {
    publicUrl: first.url,
    urls: gateways.map(({ url }) => url),
    internalUrls: () => gateways.map(({ internalUrl }) => internalUrl),
    fail: (replica, fault) => links[replica]?.fail(fault),
    mend: replica => links[replica]?.mend(),
    kill: async () => {},
    holderOf: owner => links.findIndex(link => link.hasSent(owner)),
    pass: ms => {
      clock.aheadMs += ms
    },
    complete: async () => {},
    close: async () => {
      await Promise.all(gateways.map(gateway => gateway.close()))
      await Promise.all(links.map(link => link.close()))
    },
  }
}

/** Replicas that are processes of their own and can be killed. */
async function startProcesses(count: number): Promise<Fleet> {
  clock.aheadMs = 0
  const links = await Promise.all(Array.from({ length: count }, () => startRedisLink(redis)))
  const start = (index: number, env: Record<string, string>) =>
    startReplicas(1, {
      provider,
      redis: links[index] ?? redis,
      env: { ...environment, SESSION_IDLE_TIMEOUT: '4s', ...env },
    })
  const first = await start(0, {})
  const others = links.slice(1).map((_, index) => start(index + 1, { PUBLIC_URL: first.url }))
  const fleet = [first, ...(await Promise.all(others))]
  const replicas = () => fleet.flatMap(({ all }) => all)
  const returning = new Set<Promise<unknown>>()
  const urls = replicas().map(({ url }) => url)
  return {
    publicUrl: first.url,
    urls,
    internalUrls: () => replicas().map(({ internalUrl }) => internalUrl),
    fail: () => {},
    mend: () => {},
    async kill(replica) {
      await replicas()[replica]?.stop('SIGKILL')
      const back = sleep(300)
        .then(() => fleet[replica]?.restart(0))
        .finally(() => returning.delete(back))
      returning.add(back)
    },
    holderOf: owner => links.findIndex(link => link.hasSent(owner)),
    pass: () => {},
    complete: () => Promise.all(returning),
    close: async () => {
      await Promise.all(fleet.map(each => each.stop()))
      await Promise.all(links.map(link => link.close()))
    },
  }
}

/** Runs a schedule; what was wrong, and what happened. */
async function run(fleet: Fleet, plan: Plan): Promise<{ faults: string[]; story: string[] }> {
  const startedAt = performance.now()
  const faults: string[] = []
  const story: string[] = []
  const note = (line: string) => void story.push(`${(performance.now() - startedAt).toFixed(0).padStart(6)} ${line}`)
  const fault = (text: string) => {
    note(`FAULT: ${text}`)
    faults.push(text)
  }
  const sessions = new Map<string, Held>()
  const work = new Set<Promise<unknown>>()
  const broken = new Set<number>()
  const linksFail = plan.steps.some(({ kind }) => kind === 'break')
  let [calm, killed, revocations] = [false, false, 0]

  const users = Array.from({ length: plan.users }, (_, index) => `user-${plan.seed}-${index}`)
  const places = plan.places.map((user): Place => {
    const browser = createBrowser({ origin: fleet.publicUrl })
    return { user: users[user] ?? '', browser, held: null, loggingIn: false }
  })
  const ofUser = (user: string) => [...sessions.values()].filter(held => held.user === user)

  const track = (promise: Promise<unknown>) => {
    const tracked = promise
      .catch(error => fault(`the test itself failed: ${error.stack}`))
      .finally(() => work.delete(tracked))
    work.add(tracked)
  }

  /** What the answer to a cookie says about its session, held against what was known when it was sent. */
  const judge = (held: Held, replica: number, sentAt: number, status: number, text: string, asked: string) => {
    note(`${held.label} ${asked} at ${replica}: ${status} ${text.slice(0, 160)}`)
    const { code, reason, detail } = status === 200 ? ({} as Record<string, string>) : parse(text)
    // A logout succeeds whether or not there is anything left to end.
    if (asked === 'POST /bff/logout' && status === 200) return
    if (status === 200) {
      if (sentAt > (held.refusedAt.get(replica) ?? Number.POSITIVE_INFINITY))
        fault(`${held.label} lives again where it was refused`)
      if (held.endedAt !== null && sentAt > held.endedAt + everywhereMs) fault(`${held.label} outlives its end`)
      return
    }
    const excused = held.chain !== undefined && ledger.excused(held.chain)
    if (code === 'session_expired' || code === 'session_revoked') {
      if (!held.refusedAt.has(replica)) held.refusedAt.set(replica, performance.now())
      held.endedAt ??= performance.now()
      if (tokenReasons.includes(reason ?? '') && !excused)
        fault(`${held.label} ended as ${reason}, and its refresh token was good`)
      if (!knownReasons.includes(reason ?? '')) fault(`${held.label} ended as ${reason}`)
      return
    }
    const allowed = ['provider_unavailable', 'store_unavailable', 'step_up_required', 'upstream_refuses']
    const mayBeForbidden = code === 'forbidden' && excused
    if (!allowed.includes(code ?? '') && !mayBeForbidden) fault(`${held.label} got ${status} ${code} ${detail}`)
  }

  /** A request as a script of the application makes it, at any replica. */
  const ask = async (
    held: Held,
    replica: number,
    method: string,
    path: string,
    headers: Record<string, string> = {},
  ) => {
    const sentAt = performance.now()
    try {
      const cookie = `${sessionCookie}=${held.cookie}`
      const answer = await fetch(`${fleet.urls[replica]}${path}`, {
        method,
        headers: { cookie, 'x-csrf': '1', ...headers },
        signal: AbortSignal.timeout(20_000),
      })
      const text = await answer.text()
      judge(held, replica, sentAt, answer.status, text, `${method} ${path.split('?')[0]}`)
      return { status: answer.status, text }
    } catch (error) {
      note(`${held.label} ${method} ${path} at ${replica}: ${error}`)
      if (!killed) fault(`${held.label} got no answer: ${error}`)
      return null
    }
  }

  const signIn = async (place: Place) => {
    if (place.loggingIn) return
    place.loggingIn = true
    const previous = place.held
    const before = place.browser.jar.get(sessionCookie)
    const end = await login(place.browser, fleet.publicUrl, provider, { user: place.user }).catch(() => null)
    place.loggingIn = false
    const cookie = place.browser.jar.get(sessionCookie)
    if (end === null || cookie === undefined || cookie === before) return note(`${place.user} could not sign in`)
    const callback = end.chain.map(({ url }) => new URL(url)).find(({ pathname }) => pathname === '/bff/callback')
    const label = `${place.user}.${sessions.size}`
    const chain = ledger.chains.get(callback?.searchParams.get('code') ?? '')
    const held: Held = { label, user: place.user, cookie, chain, refusedAt: new Map(), endedAt: null }
    if (chain === undefined) fault('a session was opened with no code')
    sessions.set(label, held)
    place.held = held
    note(`${label} signed in${previous ? ` in the place of ${previous.label}` : ''}`)
    // With Redis away at that moment the old session is left to its deadlines.
    if (previous !== null && !linksFail && !plan.steps.some(({ kind }) => kind === 'kill'))
      previous.endedAt = performance.now()
  }

  const revokeUser = async (user: string, replica: number) => {
    const known = ofUser(user)
    const answer = await fetch(`${fleet.internalUrls()[replica]}/admin/revoke`, {
      method: 'POST',
      headers: { authorization: `Bearer ${adminToken}`, 'content-type': 'application/json' },
      body: JSON.stringify({ sub: user }),
    }).catch(() => null)
    note(`all sessions of ${user} revoked at ${replica}: ${answer?.status}`)
    if (answer?.status === 200) for (const held of known) held.endedAt ??= performance.now()
    return answer?.status === 200
  }

  /** The provider says that the user has signed out there, until it hears that this was heard. */
  const providerLogout = async ({ chain, user }: Held, of: 'session' | 'user', replicas: readonly number[]) => {
    if (chain === undefined) return
    const { sid, sub } = chain
    const known = of === 'user' ? ofUser(user) : [...sessions.values()].filter(held => held.chain?.sid === sid)
    const token = provider.logoutToken(of === 'user' ? { sub } : { sid, sub })
    for (const replica of replicas) {
      const body = new URLSearchParams({ logout_token: token })
      const answer = await fetch(`${fleet.urls[replica]}/bff/backchannel`, { method: 'POST', body }).catch(() => null)
      note(`the provider signs out ${of} of ${known.map(({ label }) => label)} at ${replica}: ${answer?.status}`)
      if (answer?.status === 200) for (const held of known) held.endedAt ??= performance.now()
      if (answer !== null && ![200, 400].includes(answer.status)) fault(`a provider logout was ${answer.status}`)
      if (answer?.status === 200) return
    }
    if (!linksFail && !killed) fault('a provider logout failed for no reason')
  }

  const kill = async (replica: number) => {
    // Two at a time would leave nobody to take over.
    if (killed) return
    killed = true
    note(`replica ${replica} killed`)
    const signalledAt = performance.now()
    await fleet.kill(replica)
    ledger.killed(signalledAt)
    await lapse(fleet, replica)
  }

  const perform = async (step: Step): Promise<unknown> => {
    if (step.kind === 'kill') return kill(step.replica)
    if (step.kind === 'break') {
      if (broken.has(step.replica)) return
      broken.add(step.replica)
      note(`link of ${step.replica}: ${step.fault} for ${step.ms}`)
      fleet.fail(step.replica, step.fault)
      await sleep(step.ms)
      broken.delete(step.replica)
      return fleet.mend(step.replica)
    }
    if (step.kind === 'revoke_user') return revokeUser(users[step.user] ?? '', step.replica)
    const place = places[step.place]
    if (place === undefined) return
    if (step.kind === 'login') return signIn(place)
    const { held } = place
    if (held === null) return signIn(place)
    if (step.kind === 'provider_logout') return providerLogout(held, step.of, step.replicas)
    if (step.kind === 'call') {
      const refuse = step.refuse ? '&refuse=1' : ''
      const path = `/${step.upstream}/items?of=${held.label}${refuse}`
      return Promise.all(step.replicas.map(replica => ask(held, replica, step.method, path)))
    }
    const known = ofUser(held.user)
    if (step.kind === 'logout') {
      const answer = await ask(held, step.replica, 'POST', '/bff/logout')
      if (answer?.status === 200) held.endedAt ??= performance.now()
      return
    }
    const answer = await ask(held, step.replica, 'DELETE', '/bff/sessions')
    if (answer?.status === 200) for (const other of known) if (other !== held) other.endedAt ??= performance.now()
  }

  /** What came with a refresh token is used when that is stored, not before: a death in between would cost the session. */
  const checkStored = async ({ label, cookie }: Held, least: number | null) => {
    const id = sessionIdOf(cookie)
    const version = await redis.client.hget(keys.session(id), 'version')
    if (version !== null && least !== null && Number(version) < least)
      fault(`a token of ${label} was used before it was stored`)
  }

  /** Whose token an upstream sees: that of the session whose cookie the request had, obtained for this upstream. */
  const serve = (scope: string | null) => (request: UpstreamRequest, res: ServerResponse) => {
    const query = new URL(request.url, 'http://upstream').searchParams
    const held = sessions.get(query.get('of') ?? '')
    const token = request.headers.authorization?.replace('Bearer ', '') ?? ''
    const origin = ledger.originOf(token)
    if (held === undefined || origin === undefined) fault(`an upstream saw a token nobody was given: ${token}`)
    else {
      if (origin.chain !== held.chain) fault(`an upstream saw the token of another session than ${held.label}`)
      if (parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()).sub !== held.user)
        fault(`an upstream saw the token of another user than ${held.user}`)
      if (origin.scope !== scope) fault(`the upstream for ${scope} saw a token for ${origin.scope}`)
      track(checkStored(held, ledger.storedBefore(origin)))
    }
    if (request.headers.cookie?.includes(sessionCookie)) fault('an upstream saw the cookie')
    const refuse = query.has('refuse') && !refusedTokens.has(token)
    if (refuse) refusedTokens.add(token)
    if (refuse && origin !== undefined) origin.chain.refusedByUpstream = true
    res.writeHead(refuse ? 401 : 200, { 'content-type': 'application/json' })
    res.end(JSON.stringify(refuse ? { code: 'upstream_refuses' } : {}))
  }
  const refusedTokens = new Set<string>()

  ledger.clear()
  provider.clear()
  ledger.lifetime = plan.lifetime
  ledger.hooks = {
    note,
    fault,
    decide: (chain, index) => {
      const label = [...sessions.values()].find(held => held.chain === chain)?.label ?? chain.code
      return calm ? { verdict: 'prompt', ms: 0 } : plan.verdict(label, index)
    },
    killHolder: async chain => {
      const held = [...sessions.values()].find(each => each.chain === chain)
      if (held === undefined) return
      const id = sessionIdOf(held.cookie)
      const lease = (await redis.keys()).find(key => key.endsWith(`:lease:${id}`))
      const owner = lease === undefined ? null : await redis.client.get(lease)
      const replica = owner === null ? -1 : fleet.holderOf(owner)
      if (replica >= 0) await kill(replica)
    },
  }
  api.respond = serve(null)
  reports.respond = serve(reportsScope)
  const failing = provider.respond('revocation', ({ form }) => {
    revocations += 1
    const fails = !calm && plan.revocationFails(revocations)
    note(`revocation of ${form.get('token')?.slice(0, 6)}${fails ? ' fails' : ''}`)
    return fails ? { status: 503 } : 'pass'
  })

  await Promise.all(places.map(signIn))
  if (places.some(({ held }) => held === null)) fault('nobody can sign in')
  const began = performance.now()
  for (const step of plan.steps) {
    const wait = began + step.at - performance.now()
    if (wait > 0) await sleep(wait)
    track(perform(step))
  }
  await Promise.all(work)
  await fleet.complete()

  note('calm')
  calm = true
  for (const held of sessions.values())
    for (const replica of fleet.urls.keys()) track(ask(held, replica, 'GET', `/api/items?of=${held.label}`))
  await Promise.all(work)
  if (plan.revokedInTheEnd)
    for (const user of users) if (!(await eventually(() => revokeUser(user, 0)))) fault(`${user} cannot be revoked`)

  const remains = async () => (await redis.keys()).filter(key => /:session:|:outbox$/.test(key))
  let hastenAt = 0
  const quiet = await eventually(async () => {
    await sleep(30)
    if (performance.now() >= hastenAt) {
      await hasten(fleet)
      hastenAt = performance.now() + hasteMs
    }
    return !ledger.busy() && (await remains()).length === 0
  }, quietMs)
  if (!quiet) fault(`not all is ended and revoked: ${await remains()}`)

  for (const held of sessions.values())
    for (const replica of fleet.urls.keys()) {
      const refused = async () => {
        const answer = await ask(held, replica, 'GET', '/bff/user', { 'x-activity': 'passive' })
        // A link that broke takes a while to come back.
        if (answer?.status === 503) await sleep(100)
        return answer?.status === 401
      }
      if (!(await eventually(refused))) fault(`${held.label} is not refused by replica ${replica} in the end`)
    }
  note('over')
  await checkRevoked([...sessions.values()], { killed, fault })
  failing.stop()
  await redis.client.flushall()
  return { faults, story }
}

/** The newest refresh token that a gateway had of each login is revoked at the provider. */
async function checkRevoked(sessions: Held[], { killed, fault }: { killed: boolean; fault: (text: string) => void }) {
  const done = provider.revocations().filter(({ answered }) => answered === 200)
  const revoked = new Set(done.map(({ form }) => form.get('token')))
  for (const chain of ledger.chains.values()) {
    const held = sessions.find(each => each.chain === chain)
    // A process that dies between the code and the session leaves tokens behind that nobody knows.
    if (held === undefined && killed) continue
    const newest = chain.tokens.at(-1) ?? ''
    if (ledger.lost(chain, newest)) continue
    // With Redis away the tokens of a login that failed are revoked at once, and once.
    if (held === undefined && provider.revocations().some(({ form }) => form.get('token') === newest)) continue
    if (!revoked.has(newest))
      fault(`the newest refresh token ${newest.slice(0, 6)} of ${held?.label ?? 'a failed login'} is not revoked`)
  }
  for (const { form } of provider.replays()) {
    const token = form.get('refresh_token') ?? ''
    const chain = [...ledger.chains.values()].find(({ tokens }) => tokens.includes(token))
    const children = chain?.presentations.flatMap(each => (each.token === token ? (each.child ?? []) : [])) ?? []
    if (chain === undefined || !children.every(child => ledger.lost(chain, child)))
      fault(`a replaced refresh token was presented again: ${token.slice(0, 6)}`)
  }
}

/** Lets the leases of a dead replica run out now rather than later. */
async function lapse(fleet: Fleet, replica: number): Promise<void> {
  for (const key of await redis.keys()) {
    if (!key.includes(':lease:')) continue
    const owner = await redis.client.get(key)
    if (owner !== null && fleet.holderOf(owner) === replica) await redis.client.pexpire(key, 50)
  }
}

/**
 * Lets the time pass for which revocations wait, because the provider failed, or whoever claimed them died or never heard
 * of them, and the time until a replica looks into each outbox again. To revoke a token twice does no harm.
 */
async function hasten(fleet: Fleet): Promise<void> {
  for (const key of (await redis.keys()).filter(name => name.endsWith(':outbox')))
    for (const [id, score] of pairs(await redis.client.zrange(key, '0', '-1', 'WITHSCORES'))) {
      if (Number(score) > Date.now() + hasteMs) await redis.client.zadd(key, 'XX', Date.now().toString(), id)
      fleet.pass(31_000)
    }
}

function pairs(flat: string[]): [string, string][] {
  return flat.flatMap((name, index): [string, string][] => (index % 2 === 0 ? [[name, flat[index + 1] ?? '']] : []))
}

function parse(text: string): Record<string, string> {
  try {
    return JSON.parse(text)
  } catch {
    return {}
  }
}

/** A session ends for these only when the provider, or a death, gave cause. */
const tokenReasons = ['refresh_token_dead', 'rotation_lost']
const knownReasons = [...tokenReasons, 'idle', 'logout', 'replaced', 'ended_elsewhere', 'admin', 'backchannel_logout']

async function runAll(t: Test, seeds: number[], fleet: Fleet, kind: { processes: boolean; length: number }) {
  for (const seed of seeds) {
    const { faults, story } = await run(fleet, planOf(seed, { replicas: fleet.urls.length, ...kind }))
    const passed = faults.length === 0
    const firstFault = story.findIndex(line => line.includes(' FAULT: '))
    const before = passed ? [] : story.slice(Math.max(0, firstFault - 40), firstFault + 1)
    t.ok(passed, `the schedule of seed ${seed}`, { faults: [...new Set(faults)].slice(0, 10), before })
    if (process.env.STORY) t.comment(story.join('\n'))
    if (passed) continue
    t.comment(story.join('\n'))
    t.comment(`again with: SEED=${seed} node ${process.argv[1]}`)
    return
  }
}

test('whatever is interleaved over replicas, tokens stay with their session and end with it', async t => {
  const fleet = await startThreads(3)
  t.teardown(() => fleet.close())
  await runAll(t, seedsOf(12), fleet, { processes: false, length: 1200 })
})

test('a replica that is killed in the middle of anything leaves nothing behind', async t => {
  const fleet = await startProcesses(3)
  t.teardown(() => fleet.close())
  await runAll(t, seedsOf(3), fleet, { processes: true, length: 1200 })
})
