import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import tap, { test } from 'tap'
import { sessionIdOf } from '../../src/core/session.ts'
import { createBrowser } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { login } from '../support/login.ts'
import { createPlanter, type Planted, type Planter } from '../support/planted.ts'
import { startProvider, type TestProvider } from '../support/provider.ts'
import { createRandom } from '../support/random.ts'
import { startRedis } from '../support/redis.ts'
import { startReplicas } from '../support/replicas.ts'
import { sessionCookie } from '../support/stage.ts'

// Side by side: two of these mostly wait, and one is busy for a minute.
tap.jobs = 3

const compiled = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const lifetimes = { idleTimeout: 1, absoluteTimeout: 3600 }

/** How often the provider was asked to revoke each token, brought up to date with each call. */
function createTally(provider: TestProvider) {
  const counts = new Map<string, number>()
  let read = 0
  return () => {
    for (; read < provider.requests.length; read += 1) {
      const { kind, form } = provider.requests[read] ?? {}
      const token = form?.get('token')
      if (kind === 'revocation' && token) counts.set(token, (counts.get(token) ?? 0) + 1)
    }
    return counts
  }
}

async function secretsInRedis(dump: () => Promise<Buffer>, secrets: Iterable<string>): Promise<string[]> {
  const text = (await dump()).toString('latin1')
  return [...secrets].filter(secret => text.includes(secret))
}

// The whole site loses power before the sessions of the evening are due; it comes back the next morning.
test('what came due while no replica ran is revoked when one starts, and nothing was lost or revoked twice', {
  buffered: true,
}, async t => {
  const [provider, redis, sessionKey] = [
    await startProvider({ autoLogin: 'alice' }),
    await startRedis(),
    randomBytes(32),
  ]
  const env = { SESSION_IDLE_TIMEOUT: '15s', SESSION_KEYS: sessionKey.toString('base64') }
  const replicas = await startReplicas(3, { provider, redis, env })
  const planter = await createPlanter({ redis, provider, sessionKey, lifetimes: { ...lifetimes, idleTimeout: 15 } })
  t.teardown(async () => {
    await Promise.all([replicas.stop(), planter.close()])
    await Promise.all([provider.close(), redis.stop()])
  })
  const logins: string[] = []
  for (let count = 0; count < 2; count += 1) {
    const browser = createBrowser({ origin: replicas.url })
    await login(browser, replicas.url, provider)
    logins.push(sessionIdOf(browser.jar.get(sessionCookie) ?? ''))
  }
  const planted = await planter.plant(63)
  const ids = [...logins, ...planted.map(({ id }) => id)]
  await Promise.all(replicas.all.map((replica, index) => replica.stop(index === 0 ? 'SIGKILL' : 'SIGTERM')))
  t.same(await secretsInRedis(redis.dump, [...provider.issued.refreshTokens, ...planted.map(p => p.refreshToken)]), [])
  const latest = Math.max(...(await planter.deadlines(ids)))
  await sleep(Math.max(0, latest + 500 - Date.now()))
  t.ok(
    (await planter.whereabouts(ids)).every(({ stored }) => stored),
    'nobody there: all sessions are as they were',
  )
  t.equal(provider.revocations().length, 0)

  const startedAt = Date.now()
  await replicas.restart(1)
  const tally = createTally(provider)
  t.ok(await eventually(() => tally().size === 65, 45_000), 'all are revoked')
  t.comment(`65 sessions were over ${Date.now() - startedAt} ms after the start of a replica began`)
  t.ok(await eventually(async () => (await planter.queueLength()) === 0), 'the outbox is empty')
  t.same(new Set(tally().values()), new Set([1]), 'each once')
  for (const token of [...provider.issued.refreshTokens, ...planted.map(p => p.refreshToken)])
    if (!tally().has(token)) t.fail('a token was not revoked')
  t.ok((await planter.whereabouts(ids)).every(({ stored, queued }) => !stored && !queued))
})

// A deployment restarts one replica after the other while hundreds of sessions are ending.
test('a rolling restart in the middle of a burst loses no revocation and repeats none', { buffered: true }, async t => {
  const [provider, redis, sessionKey] = [await startProvider(), await startRedis(), randomBytes(32)]
  const env = { SESSION_IDLE_TIMEOUT: '1s', SESSION_KEYS: sessionKey.toString('base64') }
  const replicas = await startReplicas(2, { provider, redis, env })
  const planter = await createPlanter({ redis, provider, sessionKey, lifetimes })
  t.teardown(async () => {
    await Promise.all([replicas.stop(), planter.close()])
    await Promise.all([provider.close(), redis.stop()])
  })
  // Slow enough that each replica is told to stop with calls to the provider under way.
  provider.respond('revocation', () => sleep(30, 'pass' as const))
  const planted: Planted[] = []
  const planting = (async () => {
    for (let batch = 0; batch < 20; batch += 1) {
      planted.push(...(await planter.plant(10)))
      await sleep(100)
    }
  })()
  await sleep(1200)
  await replicas.all[0]?.stop()
  await replicas.restart(0)
  await replicas.all[1]?.stop()
  await replicas.restart(1)
  await planting
  const tally = createTally(provider)
  t.ok(await eventually(() => tally().size === planted.length, 45_000), `${tally().size} of 200 revoked`)
  t.ok(await eventually(async () => (await planter.queueLength()) === 0), 'the outbox is empty')
  t.same(new Set(tally().values()), new Set([1]), 'each once')
})

/** A process that sweeps: mostly one that does nothing else, since those start fast, and now and then a whole gateway. */
async function startVictim(environment: Record<string, string>, whole: boolean): Promise<ChildProcess> {
  const [port, adminPort] = whole ? [await freePort(), await freePort()] : [0, 0]
  const program = whole
    ? [compiled('../../src/main.js')]
    : // What makes a long run fast only costs a process that lives for a moment.
      ['--single-threaded', '--max-lazy', '--no-opt', '--min-semi-space-size=32', compiled('../support/sweeper.js')]
  const child = spawn(process.execPath, program, {
    env: {
      PATH: process.env.PATH,
      ...environment,
      ...(whole && { HOST: '127.0.0.1', PORT: `${port}`, ADMIN_PORT: `${adminPort}` }),
    },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const lines = createInterface({ input: child.stdout })
  let started = false
  for await (const line of lines) {
    started = /"started"|Server listening at .*/.test(line)
    if (started) break
  }
  if (!started) throw new Error('a process ended before it swept')
  child.stdout.resume()
  return child
}

/** Fewer would prove nothing. */
const leastKills = 40

/** Kills in one lane, each lane with sessions and processes of its own. */
interface Lane {
  planter: Planter
  environment: Record<string, string>
  /** At most so many, and on a slow machine as many as there is time for, but {@link leastKills} of all lanes. */
  kills: number
  random: () => number
  whole: (kill: number) => boolean
}

// Power cuts, out-of-memory kills and crashes strike between any two instructions. If a session is deleted first and
// its token revoked later, sooner or later a token stays valid for ever with nobody left who knows it.
test('a process killed at any moment of expiry leaves each session stored, queued or revoked, and in the end all are revoked', {
  buffered: true,
}, async t => {
  const [provider, redis, sessionKey] = [await startProvider(), await startRedis(), randomBytes(32)]
  t.teardown(() => Promise.all([provider.close(), redis.stop()]))
  const seed = Number(process.env.KILL_SEED ?? Date.now() % 1_000_000)
  const told = `KILL_SEED=${seed}`
  const tally = createTally(provider)
  // A call takes a while, so that many are under way when the process dies.
  const latency = createRandom(seed).next
  provider.respond('revocation', () => sleep(latency() * 40, { status: 200 }))
  const everything: Planted[] = []
  const seen = { stored: 0, queued: 0, revoked: 0, looks: 0, kills: 0 }

  const look = async (planter: Planter, open: Map<string, Planted>, when: string) => {
    const ids = [...open.keys()]
    const places = await planter.whereabouts(ids)
    const revoked = tally()
    seen.looks += 1
    for (const [index, id] of ids.entries()) {
      const { stored, queued } = places[index] ?? {}
      const asked = revoked.has(open.get(id)?.refreshToken ?? '')
      if (!stored && !queued && !asked) t.fail(`a session was deleted and not queued, ${when} (${told})`)
      if (stored) seen.stored += 1
      else if (queued) seen.queued += 1
      else {
        seen.revoked += 1
        open.delete(id)
      }
    }
  }

  const runLane = async ({ planter, environment, kills, random, whole }: Lane) => {
    const [open, postponed] = [new Map<string, Planted>(), new Map<string, Planted>()]
    const isTime = () => seen.kills < leastKills || Date.now() < startedAt + 45_000
    for (let kill = 0; kill < kills && isTime(); kill += 1) {
      const starting = startVictim(environment, whole(kill))
      const planted = await planter.plant(6)
      everything.push(...planted)
      for (const session of planted) open.set(session.id, session)
      const victim = await starting
      const momentMs = random() * 350
      const lookMs = momentMs * random()
      await sleep(lookMs)
      await look(planter, open, `before kill ${kill}`)
      await sleep(momentMs - lookMs)
      const ended = once(victim, 'exit')
      victim.kill('SIGKILL')
      await ended
      seen.kills += 1
      await look(planter, open, `after kill ${kill}`)
      // Otherwise what was under way at one kill would be so again at a later one, and its count would tell nothing.
      for (const id of await planter.reschedule([...open.keys()], Date.now() + 3_600_000)) {
        const session = open.get(id)
        if (session !== undefined) postponed.set(id, session)
        open.delete(id)
      }
    }
    for (const [id, session] of postponed) open.set(id, session)
    await look(planter, open, 'after all kills')
    // Nobody waits half a minute here: what the dead had claimed is due now.
    await planter.reschedule([...open.keys()], Date.now())
    const heir = await startVictim(environment, true)
    t.ok(
      await eventually(async () => {
        await look(planter, open, 'in the end')
        return open.size === 0 || sleep(100, false)
      }, 45_000),
      `${open.size} sessions are left (${told})`,
    )
    t.ok(await eventually(async () => (await planter.queueLength()) === 0), 'the outbox is empty')
    heir.kill('SIGTERM')
    await once(heir, 'exit')
  }

  const startedAt = Date.now()
  const lanes = 4
  await Promise.all(
    Array.from({ length: lanes }, async (_, lane) => {
      const prefix = `lane${lane}:`
      // Due by the time the next process is there.
      const planter = await createPlanter({
        redis,
        provider,
        sessionKey,
        prefix,
        lifetimes: { ...lifetimes, idleTimeout: 0.3 },
      })
      const environment = {
        ...provider.env(),
        PUBLIC_URL: 'http://localhost',
        REDIS_URL: redis.url,
        REDIS_PREFIX: prefix,
        SESSION_KEYS: sessionKey.toString('base64'),
        SESSION_IDLE_TIMEOUT: '1',
        SESSION_ABSOLUTE_TIMEOUT: '3600',
      }
      await runLane({
        planter,
        environment,
        kills: 200 / lanes,
        random: createRandom(seed + lane).next,
        whole: kill => kill % 10 === 9,
      })
      await planter.close()
    }),
  )
  const counts = everything.map(({ refreshToken }) => tally().get(refreshToken) ?? 0)
  const twice = counts.filter(count => count === 2).length
  t.comment(
    `${seen.kills} kills in ${Math.round((Date.now() - startedAt) / 1000)} s, ${everything.length} sessions, ${twice} revoked twice; ` +
      `in ${seen.looks} looks: ${seen.stored} stored, ${seen.queued} queued, ${seen.revoked} newly revoked`,
  )
  t.equal(Math.min(...counts), 1, `each is revoked (${told})`)
  t.ok(Math.max(...counts) <= 2, `none more than twice (${told})`)
  const { kills } = seen
  t.ok(kills >= leastKills, `${kills} kills`)
  const met = seen.stored > kills / 2 && seen.queued > kills / 10 && seen.revoked > kills / 2 && twice > 0
  t.ok(met, 'every stage was met')
  t.same(
    await secretsInRedis(
      redis.dump,
      everything.map(p => p.refreshToken),
    ),
    [],
  )
  t.same(provider.errors, [])
})
