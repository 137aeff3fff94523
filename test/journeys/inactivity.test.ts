import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import tap, { type Test, test } from 'tap'
import { sessionHandle, sessionIdOf } from '../../src/core/session.ts'
import { createBrowser, type RequestOptions, type TestBrowser } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { startGateway } from '../support/gateway.ts'
import { createPlanter, type Planted } from '../support/planted.ts'
import { startProvider, type TestProvider } from '../support/provider.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { type Replica, startReplicas } from '../support/replicas.ts'
import { login, sessionCookie, startStage } from '../support/stage.ts'
import { startUpstream } from '../support/upstream.ts'

const idleTimeout = 3
const idleMs = idleTimeout * 1000
const absoluteMs = 9000
const sessionKey = randomBytes(32)
const [provider, redis, upstream] = await Promise.all([startProvider(), startRedis(), startUpstream()])
const replicas = await startReplicas(3, {
  provider,
  redis,
  env: {
    SESSION_KEYS: sessionKey.toString('base64'),
    SESSION_IDLE_TIMEOUT: `${idleTimeout}s`,
    SESSION_ABSOLUTE_TIMEOUT: `${absoluteMs / 1000}s`,
    UPSTREAM_API_PATH: '/api',
    UPSTREAM_API_URL: upstream.url,
    ADMIN_TOKEN: 'a'.repeat(32),
  },
})
const planter = await createPlanter({
  redis,
  provider,
  sessionKey,
  lifetimes: { idleTimeout, absoluteTimeout: absoluteMs / 1000 },
})

tap.teardown(async () => {
  await Promise.all([replicas.stop(), planter.close()])
  await Promise.all([provider.close(), redis.stop(), upstream.close()])
})

/** A request as the balancer in front of the replicas hands it on to one of them. */
async function ask(replica: { url: string }, path: string, cookie: string, headers: Record<string, string> = {}) {
  const response = await fetch(replica.url + path, {
    headers: { cookie: `${sessionCookie}=${cookie}`, 'x-csrf': '1', ...headers },
  })
  return { status: response.status, body: await response.text() }
}

const replica = (index: number): Replica => {
  const found = replicas.all[index % replicas.all.length]
  if (found === undefined) throw new Error('there is no replica')
  return found
}

async function loggedIn(origin: string, at: { issuer: string }, user = 'alice'): Promise<TestBrowser> {
  const browser = createBrowser({ origin })
  await login(browser, origin, at, { user })
  if (cookieOf(browser) === '') throw new Error(`${user} could not log in`)
  return browser
}

const cookieOf = (browser: TestBrowser) => browser.jar.get(sessionCookie) ?? ''

/** Waits until these sessions are gone from Redis, and tells how long after its deadline each ended. */
async function lateness(ids: readonly string[]): Promise<number[]> {
  const deadlines = await planter.deadlines(ids)
  if (deadlines.includes(0)) throw new Error('a session ended before its deadline was known')
  const gone = async () => (await planter.whereabouts(ids)).every(({ stored }) => !stored) || sleep(50, false)
  if (!(await eventually(gone, idleMs + 30_000))) throw new Error('sessions do not end')
  const ends = await planter.endedAt(ids)
  return ends.map((end, index) => end - (deadlines[index] ?? 0)).sort((a, b) => a - b)
}

const quantile = (sorted: number[], part: number) => Math.round(sorted[Math.ceil(sorted.length * part) - 1] ?? 0)

/** How often the provider was asked to revoke each token. */
function revocations(at: TestProvider): Map<string, number> {
  const counts = new Map<string, number>()
  for (const { form } of at.revocations()) {
    const token = form.get('token') ?? ''
    counts.set(token, (counts.get(token) ?? 0) + 1)
  }
  return counts
}

async function holdsNoToken(t: Test, at: TestRedis) {
  const { accessTokens, refreshTokens, idTokens, codes } = provider.issued
  // All planted tokens begin like this; to look for each of hundreds in so much text takes seconds.
  const secrets = [...accessTokens, ...refreshTokens, ...idTokens, ...codes, 'planted-']
  const text = (await at.dump()).toString('latin1')
  t.same(
    secrets.filter(secret => text.includes(secret)),
    [],
    `a dump of ${text.length} bytes holds none of ${secrets.length} secrets`,
  )
}

// Somebody leaves the screen on and goes home. A time to live in Redis alone would delete the session together with the
// only copy of its refresh token, which then stays valid for weeks.
test('five hundred sessions that nobody uses end on time without a request, each revoked once, by all replicas together', async t => {
  provider.clear()
  let [underWay, most] = [0, 0]
  const slow = provider.respond('revocation', async () => {
    underWay += 1
    most = Math.max(most, underWay)
    await sleep(20)
    underWay -= 1
    return 'pass' as const
  })
  t.teardown(slow.stop)
  const before = replicas.all.map(each => each.events('revocation').length)
  const issuedBefore = new Set(provider.issued.refreshTokens)
  const browsers: TestBrowser[] = []
  const watched: Promise<number[]>[] = []
  for (let user = 0; user < 10; user += 1) {
    const browser = await loggedIn(replicas.url, provider, `user-${user}`)
    browsers.push(browser)
    watched.push(lateness([sessionIdOf(cookieOf(browser))]))
  }
  const planted: Planted[] = []
  for (let batch = 0; batch < 10; batch += 1) {
    const sessions = await planter.plant(49)
    planted.push(...sessions)
    watched.push(lateness(sessions.map(({ id }) => id)))
    await sleep(50)
  }
  const tokens = [...provider.issued.refreshTokens].filter(token => !issuedBefore.has(token))
  tokens.push(...planted.map(({ refreshToken }) => refreshToken))
  const dumping = (async () => {
    for (let moment = 0; moment < 5; moment += 1) {
      await sleep(300)
      await holdsNoToken(t, redis)
    }
  })()
  const late = (await Promise.all(watched)).flat().sort((a, b) => a - b)
  await dumping
  t.ok(await eventually(() => provider.revocations().length >= 500))
  t.ok(await eventually(async () => (await planter.queueLength()) === 0), 'the outbox is empty')

  const [most90, max] = [quantile(late, 0.9), quantile(late, 1)]
  t.comment(
    `500 sessions, 3 replicas: they ended p50 ${quantile(late, 0.5)} ms, p99 ${quantile(late, 0.99)} ms, at most ${max} ms after their deadlines`,
  )
  t.equal(late.length, 500)
  t.ok((late[0] ?? -1) >= -1, `none ended early: ${late[0]}`)
  t.ok(most90 < 1000, `they end within a second of their deadlines: ${most90} ms`)
  t.ok(max < 5000, `on a busy machine, too: ${max} ms`)

  const asked = revocations(provider)
  t.same([asked.size, new Set(asked.values())], [500, new Set([1])], 'each token once')
  t.same(
    tokens.filter(token => !asked.has(token)),
    [],
    'and it was these',
  )
  for (const call of provider.revocations().slice(0, 20)) {
    t.match(call, { method: 'POST', answered: 200 })
    t.same(
      ['token_type_hint', 'client_id', 'client_secret'].map(name => call.form.get(name)),
      ['refresh_token', provider.clientId, provider.clientSecret],
    )
  }
  const shares = replicas.all.map((each, index) => each.events('revocation').length - (before[index] ?? 0))
  t.comment(`revoked by each replica: ${shares}; at most ${most} calls to the provider at a time`)
  t.ok(shares.filter(share => share >= 50).length >= 2, 'the work is shared')
  t.ok(most <= 3 * 16, 'the provider is not overrun')
  t.equal(upstream.requests.length, 0)
  for (const browser of browsers)
    t.match(JSON.parse((await ask(replica(1), '/bff/user', cookieOf(browser))).body), { code: 'session_expired' })
})

// A token revoked by one's own logout must not take along the sessions on one's other devices.
test('the end of one session leaves the other sessions of the user alone', async t => {
  const kept = await loggedIn(replicas.url, provider)
  const keepAlive = setInterval(() => void ask(replica(0), '/bff/user', cookieOf(kept)), 300)
  t.teardown(() => clearInterval(keepAlive))
  const leftId = sessionIdOf(cookieOf(await loggedIn(replicas.url, provider)))
  await lateness([leftId])
  t.ok(await eventually(() => replicas.events('revocation').some(event => event.session === sessionHandle(leftId))))
  for (const each of replicas.all) t.equal((await ask(each, '/bff/user', cookieOf(kept))).status, 200)
  clearInterval(keepAlive)
  const [token] = [...provider.issued.refreshTokens].slice(-2)
  const grant = { grant_type: 'refresh_token', refresh_token: token ?? '' }
  const refreshed = await fetch(`${provider.issuer}/token`, {
    method: 'POST',
    body: new URLSearchParams({ ...grant, client_id: provider.clientId, client_secret: provider.clientSecret }),
  })
  t.equal(refreshed.status, 200, 'its refresh token still works')
})

test('a session used at intervals shorter than the idle timeout goes on, on whichever replica, and ends when that stops', async t => {
  const [session] = await planter.plant(1)
  const { id = '', cookie = '' } = session ?? {}
  const start = Date.now()
  for (const [turn, at] of [0.5, 1.0, 1.5].entries()) {
    await sleep(start + at * idleMs - Date.now())
    t.equal((await ask(replica(turn), '/api/items', cookie)).status, 200, `at ${at} idle timeouts`)
  }
  const [late] = await lateness([id])
  t.ok(Number(late) >= -1 && Number(late) < 5000, `it ended ${late} ms after the last deadline`)
  for (const each of replicas.all) {
    const answer = await ask(each, '/api/items', cookie)
    t.match([answer.status, JSON.parse(answer.body)], [401, { code: 'session_expired' }])
  }
})

test('constant use does not carry a session beyond its absolute end', async t => {
  const before = Date.now()
  const [session] = await planter.plant(1)
  const { id = '', cookie = '' } = session ?? {}
  const start = Date.now()
  let [served, refused] = [0, 0]
  for (let turn = 0; refused === 0 && Date.now() < start + absoluteMs + 10_000; turn += 1) {
    const sentAt = Date.now()
    const { status } = await ask(replica(turn), '/bff/user', cookie)
    if (status === 200) served = sentAt - start
    else refused = Date.now() - before
    if (status === 200 && sentAt > start + absoluteMs) t.fail(`served ${sentAt - start} ms after the login`)
    await sleep(50)
  }
  t.ok(served > 1.5 * idleMs && refused >= absoluteMs - 5, `served until ${served} ms, refused from ${refused} ms`)
  t.ok(
    await eventually(() =>
      replicas.events('session_ended').some(e => e.session === sessionHandle(id) && e.reason === 'absolute'),
    ),
  )
  t.ok(await eventually(() => revocations(provider).get(session?.refreshToken ?? '') === 1))
})

// Redis forgets to expire a key, or somebody has lifted its expiry: the deadline must not hang on that.
test('the deadline holds when no key of Redis expires by itself', async t => {
  const [session] = await planter.plant(1)
  const ending = lateness([session?.id ?? ''])
  await redis.client.pipeline((await redis.keys()).map(name => ['persist', name])).exec()
  const [late] = await ending
  t.ok(Number(late) < 5000, `it ended ${late} ms after its deadline`)
  t.equal((await ask(replica(0), '/bff/user', session?.cookie ?? '')).status, 401)
  await redis.client.flushdb()
})

interface Shot {
  active: boolean
  status: number
  /** In epoch milliseconds. */
  sentAt: number
  doneAt: number
}

/** When the ten requests around a deadline are sent, in milliseconds from it: most at once, some early, some late. */
const volleys = [
  () => (Math.random() - 0.5) * 10,
  () => (Math.random() - 0.5) * 10 + (Math.random() < 0.4 ? Math.random() * 100 : 0),
  () => Math.random() * 35 - 30,
  () => Math.random() * 35 - 5,
]

// Two replicas look at the same instant: one to serve a request, one to end the session. If reading and ending are two
// steps, a request is served and its session revoked for not having been used.
test('around the deadline a request is either served and the session lives on, or refused and the session is over', async t => {
  provider.clear()
  const fates = { requests: 0, served: 0, ended: 0, unjudged: 0 }
  /** How much earlier requests have to be sent, in milliseconds, for both fates to be met: on a slow machine all are late. */
  let lead = 0
  const mostLead = 400

  const shoot = async (session: Planted, at: number, turn: number): Promise<Shot> => {
    await sleep(Math.max(0, at - mostLead - Date.now()))
    await sleep(Math.max(0, at - lead - Date.now()))
    const active = turn % 5 !== 4
    const sentAt = Date.now()
    const { status } = await ask(replica(turn), '/bff/user', session.cookie, active ? {} : { 'x-activity': 'passive' })
    return { active, status, sentAt, doneAt: Date.now() }
  }

  const play = async (session: Planted, moment: () => number) => {
    const [deadline = 0] = await planter.deadlines([session.id])
    const shots = await Promise.all(Array.from({ length: 10 }, (_, turn) => shoot(session, deadline + moment(), turn)))
    fates.requests += shots.length
    const [served, refused] = [200, 401].map(status => shots.filter(shot => shot.status === status)) as [Shot[], Shot[]]
    t.equal(served.length + refused.length, 10, 'each is served or refused')
    if (refused.some(shot => shot.doneAt < deadline)) t.fail('refused before the deadline')
    const firstRefusal = Math.min(...refused.map(shot => shot.doneAt))
    if (served.some(shot => shot.sentAt > firstRefusal)) t.fail('served after a refusal')
    const { status } = await ask(replica(0), '/bff/user', session.cookie, { 'x-activity': 'passive' })
    // A session that was served may end before so long a volley does.
    if (Date.now() - Math.min(...shots.map(shot => shot.sentAt)) > idleMs - 500) {
      fates.unjudged += 1
      return
    }
    if (!served.some(shot => shot.active)) {
      fates.ended += 1
      lead = Math.min(mostLead, lead + 2)
      if (served.some(shot => shot.sentAt > deadline)) t.fail('served after the deadline, though nobody had used it')
      return
    }
    fates.served += 1
    lead = Math.max(0, lead - 2)
    if (refused.length > 0) t.fail('a session that was used a moment before is refused')
    t.equal(status, 200, 'a session that was served lives on')
    if (revocations(provider).has(session.refreshToken)) t.fail('served, and revoked by the deadline before that')
  }

  const plays: Promise<void>[] = []
  for (let count = 0; count < 100; count += 1) {
    const [session] = await planter.plant(1)
    const moment = volleys[count % volleys.length]
    if (session && moment) plays.push(play(session, moment))
    await sleep(70)
  }
  await Promise.all(plays)
  t.comment(
    `${fates.requests} requests around 100 deadlines: ${fates.served} sessions went on, ${fates.ended} ended, ` +
      `${fates.unjudged} took too long to be judged`,
  )
  t.equal(fates.requests, 1000)
  t.ok(fates.unjudged <= 20, 'most are judged')
  t.ok(fates.served >= 5 && fates.ended >= 5, 'both fates were met')
  t.ok(await eventually(() => revocations(provider).size === 100), 'in the end all are revoked')
  t.same(new Set(revocations(provider).values()), new Set([1]), 'once')
})

// An event stream and its heartbeats are the page's doing, not the user's.
test('an open event stream does not keep a session alive, and is told of its end', async t => {
  const browser = await loggedIn(replicas.url, provider)
  const ending = lateness([sessionIdOf(cookieOf(browser))])
  const stream = await browser.stream('/bff/events')
  t.equal(stream.status, 200)
  const [late] = await ending
  t.ok(Number(late) < 5000, `it ended ${late} ms after its deadline`)
  t.match(await stream.waitFor(/event: ended/, 10_000), /event: ended\ndata: \{"reason":"idle"\}/)
  await stream.ended
})

test('what is a user action moves the idle deadline, and nothing else does', async t => {
  const hour = 3600
  const stage = await startStage(t, {
    memory: true,
    env: { SESSION_IDLE_TIMEOUT: `${hour}s`, SESSION_ABSOLUTE_TIMEOUT: '7d' },
    provider: { lifetimes: { accessToken: 86_400 } },
  })
  const actions: Record<string, [sliding: boolean, target: string, options?: RequestOptions]> = {
    'an API call': [true, '/api/items'],
    'an API call with a body': [true, '/api/items', { method: 'POST', body: { a: 1 } }],
    'a look at the user': [true, '/bff/user'],
    'a word that the user is there': [true, '/bff/activity', { method: 'POST' }],
    'ending all other sessions': [true, '/bff/sessions', { method: 'DELETE' }],
    'ending a session that is not there': [true, '/bff/sessions/none', { method: 'DELETE' }],
    'an odd value of the header': [true, '/api/items', { headers: { 'x-activity': 'active' } }],

    'an API call that calls itself passive': [false, '/api/items', { headers: { 'x-activity': 'passive' } }],
    'a passive look at the user': [false, '/bff/user', { headers: { 'x-activity': 'passive' } }],
    'a poll of the user': [false, '/bff/user?slide=false'],
    'a passive word': [false, '/bff/activity', { method: 'POST', headers: { 'x-activity': 'passive' } }],
    'the list of sessions': [false, '/bff/sessions'],
    'a call without the CSRF header': [false, '/api/items', { headers: { 'x-csrf': '' } }],
    'a call with another origin': [false, '/api/items', { headers: { origin: 'http://evil.test' } }],
    'a call from another site': [false, '/bff/user', { headers: { 'sec-fetch-site': 'cross-site' } }],
    'an activity without the CSRF header': [false, '/bff/activity', { method: 'POST', headers: { 'x-csrf': '0' } }],
    'a preflight': [false, '/bff/user', { method: 'OPTIONS' }],
    'a method that is not allowed': [false, '/bff/user', { method: 'PUT' }],
    'the confirmation page of a logout': [false, '/bff/logout'],
    'a page that is not there': [false, '/nothing'],
    'the start of a login': [
      false,
      '/bff/login',
      { headers: { 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' } },
    ],
    'the page of a failed login': [
      false,
      '/bff/login/failed',
      { headers: { 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' } },
    ],
  }
  const cases = await Promise.all(
    Object.entries(actions).map(async ([what, action], index) => ({
      what,
      action,
      browser: await stage.loggedIn(`user-${index}`),
    })),
  )
  const [doubled, streaming] = [await stage.loggedIn('doubled'), await stage.loggedIn('streaming')]
  const stream = await streaming.stream('/bff/events')
  stage.clock.advance(hour * 700)
  for (const { browser, action } of cases) await browser.api(action[1], action[2])
  const cookie = `${sessionCookie}=${cookieOf(doubled)}`
  t.equal(
    (await doubled.api('/api/items', { cookies: [`${cookie}; ${cookie}`] })).status,
    401,
    'two cookies of the name',
  )
  stage.clock.advance(hour * 400)
  for (const { what, browser, action } of cases) {
    const { status } = await browser.api('/bff/user?slide=false')
    t.equal(status, action[0] ? 200 : 401, `${what}: ${action[0] ? 'the session goes on' : 'the session is over'}`)
  }
  t.equal((await doubled.api('/bff/user?slide=false')).status, 401, 'a refused call does not count')
  t.equal((await streaming.api('/bff/user?slide=false')).status, 401, 'nor does an open event stream')
  stream.close()
})

/**
 * Commands that write, as INFO counts them; those that scripts call included. Not DEL, by which a script makes sure that it
 * could write, on a key that never is.
 */
const writing = ['hset', 'hdel', 'zadd', 'zrem', 'set', 'getdel', 'pexpire', 'pexpireat', 'zremrangebyscore']

async function commandCounts(at: TestRedis): Promise<Map<string, number>> {
  const lines = (await at.client.info('commandstats')).split('\r\n')
  const pairs = lines.flatMap(line => {
    const [, name, calls] = /^cmdstat_([^:]+):calls=(\d+)/.exec(line) ?? []
    return name === undefined ? [] : [[name, Number(calls)] as const]
  })
  return new Map(pairs)
}

/** A gateway with the lifetimes that users get without configuring any. */
async function startDefault(t: Test) {
  const [own, api] = await Promise.all([startRedis(), startUpstream()])
  const gateway = await startGateway({
    provider,
    upstreams: { '/api': api.url },
    env: {
      REDIS_URL: own.url,
      SESSION_KEYS: sessionKey.toString('base64'),
      LOG_LEVEL: 'info',
      ACCESS_LOG: 'false',
    },
  })
  const planted = await createPlanter({
    redis: own,
    provider,
    sessionKey,
    lifetimes: { idleTimeout: 1800, absoluteTimeout: 43_200 },
  })
  t.teardown(async () => {
    await Promise.all([gateway.close(), planted.close()])
    await Promise.all([own.stop(), api.close()])
  })
  return { own, gateway, planted }
}

test('a busy session costs Redis a write every few seconds, not one a request', async t => {
  const seconds = 11
  const measure = async (sessions: number, perSecond: number) => {
    const { own, gateway, planted } = await startDefault(t)
    const all = await planted.plant(sessions)
    await sleep(500)
    const before = await commandCounts(own)
    const startedAt = Date.now()
    const calls: Promise<number>[] = []
    for (let tick = 0; tick < seconds * perSecond; tick += 1) {
      await sleep(Math.max(0, startedAt + (tick * 1000) / perSecond - Date.now()))
      const { cookie } = all[tick % sessions] ?? { cookie: '' }
      calls.push(ask(gateway, '/api/items', cookie).then(({ status }) => status))
    }
    const statuses = await Promise.all(calls)
    const requests = statuses.length
    const tookSeconds = (Date.now() - startedAt) / 1000
    await sleep(100)
    const after = await commandCounts(own)
    const delta = (name: string) => (after.get(name) ?? 0) - (before.get(name) ?? 0)
    const writes = writing.reduce((sum, name) => sum + delta(name), 0)
    const scripts = delta('evalsha') + delta('eval')
    const per1000 = (count: number) => Math.round((count * 1000) / requests)
    t.comment(
      `${sessions} sessions, ${requests} requests in ${tookSeconds.toFixed(1)} s: a thousand requests cost Redis ` +
        `${per1000(scripts)} scripts, in these ${per1000(delta('hmget') + delta('zrange'))} reads and ${per1000(writes)} writes ` +
        `(${writes} writes in all, ${(writes / sessions / tookSeconds).toFixed(2)} a second and session)`,
    )
    t.same(new Set(statuses), new Set([200]))
    return { requests, writes, tookSeconds }
  }
  const [one, fifty] = await Promise.all([measure(1, 20), measure(50, 100)])
  // One with a read each 5 seconds, and one by the flush in between.
  const most = (tookSeconds: number) => 2 * Math.ceil(tookSeconds / 5)
  t.ok(one.writes <= most(one.tookSeconds), `${one.writes} writes of one session`)
  t.ok(one.writes >= 1)
  t.ok(fifty.writes <= 50 * most(fifty.tookSeconds), `${fifty.writes} writes of fifty sessions`)
})

/** A user who works through one replica and notes what came of it. */
function startUser(at: () => { url: string }, session: Planted, everyMs: number) {
  const statuses: number[] = []
  let lastServedAt = 0
  let stopped = false
  const loop = (async () => {
    while (!stopped) {
      const sentAt = Date.now()
      const status = await ask(at(), '/bff/user', session.cookie).then(
        answer => answer.status,
        () => 0,
      )
      if (!stopped || status !== 503) statuses.push(status)
      if (status === 200) lastServedAt = sentAt
      await sleep(everyMs)
    }
  })()
  return {
    session,
    statuses,
    lastServedAt: () => lastServedAt,
    async stop() {
      stopped = true
      await loop
    },
  }
}

async function startOutage(t: Test, idle: number) {
  const dir = mkdtempSync(join(tmpdir(), 'coatcheck-'))
  const own = await startRedis({ dir })
  const both = await startReplicas(2, {
    provider,
    redis: own,
    env: {
      SESSION_KEYS: sessionKey.toString('base64'),
      SESSION_IDLE_TIMEOUT: `${idle}s`,
      UPSTREAM_API_PATH: '/api',
      UPSTREAM_API_URL: upstream.url,
    },
  })
  const planted = await createPlanter({
    redis: own,
    provider,
    sessionKey,
    lifetimes: { idleTimeout: idle, absoluteTimeout: 43_200 },
  })
  t.teardown(async () => {
    await Promise.all([both.stop(), planted.close()])
    await own.stop()
    rmSync(dir, { recursive: true })
  })
  const at = (index: number) => both.all[index % 2] ?? replica(0)
  return { own, both, planted, at }
}

// Redis restarts while people work. The gateway remembers what they did; if it swept first, it would log out whoever's
// latest click had not been written.
test('users who work while Redis is away are there afterwards, and those who left end by their own deadline', async t => {
  // Far longer than the rest of Redis below: a sweep that was sent before it is carried out after it.
  const { own, both, planted, at } = await startOutage(t, 5)
  const sessions = await planted.plant(20)
  const [quiet, ...rest] = [sessions.slice(0, 5), ...sessions.slice(5)]
  const users = rest.map((session, index) => startUser(() => at(index), session, 100))
  await sleep(1000)
  own.pause()
  await sleep(1000)
  own.resume()
  await sleep(500)
  await own.down()
  // Longer than the idle timeout: whoever had not been heard of would be over.
  await sleep(6000)
  const whileDown = await ask(at(0), '/bff/user', rest[0]?.cookie ?? '')
  t.match([whileDown.status, JSON.parse(whileDown.body)], [503, { code: 'store_unavailable' }])
  await own.restart()
  const backAt = Date.now()
  t.ok(await eventually(() => users.every(user => user.statuses.at(-1) === 200)), 'all are served again')
  t.comment(`served again ${Date.now() - backAt} ms after Redis came back`)
  await sleep(1000)
  await Promise.all(users.map(user => user.stop()))
  t.same(new Set(users.flatMap(user => user.statuses)), new Set([200, 503]), 'nobody was logged out')
  t.same(
    both.events('session_ended').filter(event => users.some(user => sessionHandle(user.session.id) === event.session)),
    [],
  )
  const over = (list: { id: string }[]) =>
    eventually(async () => (await planted.whereabouts(list.map(({ id }) => id))).every(({ stored }) => !stored))
  t.ok(await over(quiet), 'those who were not there are over')
  t.ok(await over(rest), 'and the others when they leave')
  await eventually(async () => (await planted.queueLength()) === 0)
  const asked = revocations(provider)
  t.same(
    sessions.map(({ refreshToken }) => asked.get(refreshToken)),
    sessions.map(() => 1),
    'each revoked once',
  )
  await holdsNoToken(t, own)
})

// A short outage: the last click before it was not written, and the written deadline passes before Redis is back.
test('what was done just before an outage is written after it, with its age', async t => {
  const idle = 8
  const { own, planted, at } = await startOutage(t, idle)
  const sessions = await planted.plant(12)
  const ids = sessions.map(({ id }) => id)
  // Used until the outage begins, and not again.
  const users = sessions.map((session, index) => startUser(() => at(index), session, 40))
  await sleep(1200)
  const downAt = Date.now()
  const stopping = Promise.all(users.map(user => user.stop()))
  await own.down()
  await stopping
  const written = users.map(user => user.lastServedAt() + idle * 1000)
  await sleep(700)
  await own.restart()
  t.ok(Date.now() - downAt < idle * 1000 - 500, 'all deadlines are still to come')
  let deadlines: number[] = []
  const isWritten = async () => {
    deadlines = await planted.deadlines(ids)
    return deadlines.every((deadline, index) => deadline >= (written[index] ?? 0) - 5)
  }
  await eventually(isWritten, Math.min(...written) - 200 - Date.now())
  for (const [index, deadline] of deadlines.entries()) {
    const early = (written[index] ?? 0) - deadline
    if (deadline > 0) t.ok(early <= 5, `the deadline counts from the last request served: ${early} ms early`)
    else t.fail(`a session ended ${(written[index] ?? 0) - Date.now()} ms early`)
  }
  const gone = async () => (await planted.deadlines(ids)).every(deadline => deadline === 0)
  t.ok(await eventually(gone), 'and then they end')
})

// A logout that only looks like one: the browser forgets the cookie, and whoever copied it goes on.
test('while Redis is away a logout says so and keeps the cookie, and a repeated one succeeds', async t => {
  const { own, both } = await startOutage(t, 60)
  const browser = await loggedIn(both.url, provider)
  const cookie = cookieOf(browser)
  const { session } = (await browser.api('/bff/user')).json() as { session: { logoutUrl: string } }
  await own.down()
  for (const [method, target] of [
    ['POST', '/bff/logout'],
    ['GET', session.logoutUrl],
  ] as const) {
    const answer = await browser.api(target, { method })
    t.equal(answer.status, 503, `${method} ${target.split('?')[0]}`)
    t.ok(Number(answer.headers['retry-after']) > 0)
    t.same(answer.rawSetCookie, [])
  }
  t.equal(cookieOf(browser), cookie)
  await own.restart()
  t.ok(await eventually(async () => (await browser.api('/bff/logout', { method: 'POST' })).status === 200))
  t.equal(cookieOf(browser), '')
  // Not at once: a replica whose link for words is not back yet learns of the end when it next confirms the session.
  const isRefused = async (at: Replica) => (await ask(at, '/bff/user', cookie)).status === 401
  for (const each of both.all) t.ok(await eventually(() => isRefused(each)))
  const token = [...provider.issued.refreshTokens].at(-1) ?? ''
  t.ok(await eventually(() => revocations(provider).get(token) === 1))
})

test('nothing of all this left a secret in a log, a cookie at an upstream, or an error at the provider', async t => {
  const { accessTokens, refreshTokens, idTokens, codes } = provider.issued
  const secrets = [...accessTokens, ...refreshTokens, ...idTokens, ...codes, provider.clientSecret]
  const log = JSON.stringify(replicas.all.flatMap(each => each.log))
  t.same(
    secrets.filter(secret => log.includes(secret)),
    [],
  )
  t.notMatch(log, /planted-/)
  t.notMatch(upstream.rawText(), new RegExp(sessionCookie))
  t.same(provider.errors, [])
})
