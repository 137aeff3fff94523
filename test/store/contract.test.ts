import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import tap, { type Test, test } from 'tap'
import { challengeOf } from '../../src/core/challenge.ts'
import { StoreUnavailable } from '../../src/core/errors.ts'
import type { SessionEvent } from '../../src/core/events.ts'
import { hash, randomToken } from '../../src/core/random.ts'
import { createSeal } from '../../src/core/seal.ts'
import { openSession, refreshTokenId, type Session } from '../../src/core/session.ts'
import { openTransaction } from '../../src/core/transaction.ts'
import { createMemoryStore } from '../../src/store/memory.ts'
import type { RedisAddress } from '../../src/store/redis/address.ts'
import { confirmedForMs } from '../../src/store/session-cache.ts'
import {
  type Lifetimes,
  leaseMs,
  loginSlot,
  type Renewal,
  refreshLeaseMs,
  type Store,
  type Touch,
} from '../../src/store/store.ts'
import { createClock } from '../support/clock.ts'
import { eventually } from '../support/eventually.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { startCluster } from '../support/redis-cluster.ts'
import { comesBack, openStore } from '../support/store.ts'

/** What a store under test offers beside itself. */
interface Subject {
  store: Store
  /** Lets time pass, in milliseconds: by a manual clock where the store goes by ours, for real where it goes by its own. */
  pass(ms: number): Promise<void>
  /** What the store's clock shows. */
  now(): number
  /** Ends all leases, as their time would. */
  lapse(): Promise<void>
}

const key = randomBytes(32)
const identity = {
  issuer: 'https://idp',
  subject: 'alice',
  providerSessionId: undefined,
  claims: { name: 'Ünï' },
  nonce: 'nonce',
  authTime: undefined,
}
const asked = { claims: '{"access_token":{}}', acrValues: 'gold', maxAge: 5 }
const challenge = challengeOf({ upstream: 'a', slot: 'a', scope: 'x' }, asked)
const client = { userAgent: 'test', address: '192.0.2.1' }
const tokens = { access: { value: 'at', expiresAt: 2, refreshAt: 1, scope: undefined }, refresh: 'rt' }
const look: Touch = { slot: loginSlot, active: false, pendingAgeMs: null }
const use: Touch = { ...look, active: true }
const minute = { idleTimeout: 60, absoluteTimeout: 60 }

const wishOf = (owner: string) => ({ slot: loginSlot, owner, version: 0, forced: false })
const renewal: Renewal = {
  slot: loginSlot,
  access: { value: 'at2', expiresAt: 4, refreshAt: 3, scope: undefined },
  refresh: 'rt2',
  session: undefined,
}

const newSession = (subject = 'alice') => openSession({ ...identity, subject }, client, 5).session
const newTransaction = () => openTransaction({ returnUrl: '/x', silent: false, previousSessionId: null }, Date.now())

async function memory(_t: Test, lifetimes: Lifetimes): Promise<Subject> {
  const clock = createClock()
  const pass = async (ms: number) => clock.advance(ms)
  const store = createMemoryStore({ clock, lifetimes })
  return { store, pass, now: clock.now, lapse: () => pass(refreshLeaseMs) }
}

function redisStore(redis: TestRedis, lifetimes: Lifetimes, keys = [key], onUnreadable = (_id: string) => {}) {
  return storeAt({ url: new URL(redis.url) }, 'test:', lifetimes, keys, onUnreadable)
}

/** A Redis of the test's own, with a store in it. */
async function startOwn(t: Test, lifetimes = minute) {
  const server = await startRedis()
  const store = await redisStore(server, lifetimes)
  t.teardown(async () => {
    await store.close()
    await server.stop()
  })
  return { server, store }
}

async function storeAt(
  address: RedisAddress,
  prefix: string,
  lifetimes: Lifetimes,
  keys = [key],
  onUnreadable = (_id: string) => {},
) {
  const seal = createSeal({ keys, context: 'contract' })
  return await openStore({ address, seal, prefix, lifetimes, onUnreadable })
}

async function redis(t: Test, lifetimes: Lifetimes): Promise<Subject> {
  const { server, store } = await startOwn(t, lifetimes)
  const lapse = async () => {
    for (const name of await server.keys()) if (name.includes(':lease:')) await server.client.del(name)
  }
  return { store, pass: ms => sleep(ms), now: Date.now, lapse }
}

// Nobody is to take over here: a node that the machine lets wait for seconds is not gone.
const shards = await startCluster(15_000)
tap.teardown(shards.stop)
let tenants = 0

async function cluster(t: Test, lifetimes: Lifetimes): Promise<Subject> {
  tenants += 1
  const prefix = `test-${tenants}:`
  const nodes = shards.nodes.map(({ port }) => ({ host: '127.0.0.1', port }))
  const store = await storeAt({ url: new URL('redis://cluster'), cluster: nodes }, prefix, lifetimes)
  t.teardown(store.close)
  const lapse = async () => {
    for (const name of await shards.keys())
      if (name.startsWith(prefix) && name.includes(':lease:')) await (await shards.masterOf(name)).client.del(name)
  }
  return { store, pass: ms => sleep(ms), now: Date.now, lapse }
}

async function live(store: Store, id: string, touch: Touch = look) {
  const { found } = await store.getSession(id, touch)
  return found?.state === 'live' ? found.stored : null
}

const bucketsOf = (store: Store) => Array.from({ length: store.buckets }, (_, bucket) => bucket)

/** Sweeps every bucket once. */
async function sweepAll(store: Store) {
  const visits = await Promise.all(bucketsOf(store).map(store.sweep))
  return visits.flatMap(visit => visit.found)
}

async function claimAll(store: Store, limit = 100) {
  const visits = await Promise.all(bucketsOf(store).map(bucket => store.claimRevocations(bucket, limit)))
  return visits.flatMap(visit => visit.found)
}

// Most of the time here is spent waiting.
tap.jobs = 5
const promise = (what: string, holds: (t: Test) => Promise<void>) => void test(what, { buffered: true }, holds)

for (const [name, open] of Object.entries({ memory, redis, cluster })) {
  promise(`${name}: a transaction is taken once, by one of many`, async t => {
    const { store } = await open(t, minute)
    const { id, transaction } = newTransaction()
    await store.putTransaction(id, transaction)
    const taken = await Promise.all(Array.from({ length: 50 }, () => store.takeTransaction(id)))
    t.same(
      taken.filter(result => result !== null).map(result => result.transaction),
      [transaction],
    )
    t.equal(await store.takeTransaction(randomToken()), null, 'what never was is not found')
  })

  promise(`${name}: a logout address is taken once`, async t => {
    const { store } = await open(t, minute)
    await store.putLogout('id', 'https://idp/end?x=1')
    t.equal(await store.takeLogout('id'), 'https://idp/end?x=1')
    t.equal(await store.takeLogout('id'), null)
  })

  promise(`${name}: of many sessions those that have ended are told, and hardly any other`, async t => {
    const { store } = await open(t, minute)
    const all = await Promise.all(Array.from({ length: 600 }, () => create(store)))
    const ids = all.map(({ id }) => id)
    const missingAmong = async (some: readonly string[]) => (await Promise.all(store.missingAmong(some))).flat()
    t.same(await missingAmong(ids), [])
    t.same(await missingAmong([]), [])
    const [gone = '', never] = [ids[300], randomToken()]
    await store.endSession(gone, 'logout')
    const missing = await missingAmong([...ids, never])
    for (const id of [gone, never]) t.ok(missing.includes(id))
    t.ok(missing.length < 30, `${missing.length}`)
  })

  promise(
    `${name}: a session comes back as it was put, with the time it has left and without its refresh token`,
    async t => {
      const { store } = await open(t, { idleTimeout: 60, absoluteTimeout: 100 })
      const session = newSession()
      await store.createSession(session, tokens)
      const stored = await live(store, session.id)
      t.same(stored?.session, JSON.parse(JSON.stringify(session)))
      t.match(stored?.accessToken, { value: 'at', expiresAt: 2 })
      t.notMatch(JSON.stringify(stored), '"rt"')
      t.ok(stored && stored.idleExpiresInMs > 59_000 && stored.idleExpiresInMs <= 60_000, 'idle')
      t.ok(stored && stored.absoluteExpiresInMs > 99_000 && stored.absoluteExpiresInMs <= 100_000, 'absolute')
      t.equal((await store.getSession(hash('other'), use)).found, null, 'an unknown id leads nowhere')
    },
  )

  promise(`${name}: activity moves the idle deadline, mere looking does not`, async t => {
    const { store, pass } = await open(t, { idleTimeout: 3, absoluteTimeout: 60 })
    const { id } = await create(store)
    await pass(1800)
    t.ok(((await live(store, id, look))?.idleExpiresInMs ?? 9999) <= 1200, 'looking')
    t.ok(((await live(store, id, use))?.idleExpiresInMs ?? 0) > 2900, 'activity')
    await pass(1800)
    t.ok(await live(store, id), 'alive past the first deadline')
  })

  promise(
    `${name}: activity is written once an interval, and what is not written can be told later with its age`,
    async t => {
      const { store, pass, now } = await open(t, { idleTimeout: 20, absoluteTimeout: 60 })
      const { id } = await create(store)
      t.equal((await store.getSession(id, use)).touched, false, 'the login was activity enough')
      await pass(2050)
      t.equal((await store.getSession(id, use)).touched, true, 'an interval later it is written')
      t.equal((await store.getSession(id, use)).touched, false, 'and not again at once')
      await pass(500)
      const told = now()
      await store.touchSessions([
        { id, ageMs: 200 },
        { id: randomToken(), ageMs: 0 },
      ])
      const left = (await live(store, id))?.idleExpiresInMs ?? 0
      const sinceMs = now() - told
      t.ok(left >= 19_790 - sinceMs && left <= 19_800, `the deadline counts from when it happened: ${left}`)
    },
  )

  promise(
    `${name}: activity before the deadline counts however late it is told, activity after it does not`,
    async t => {
      const { store, pass, now } = await open(t, { idleTimeout: 3, absoluteTimeout: 60 })
      const before = now()
      const [told, late, read] = [await create(store), await create(store), await create(store)]
      const after = now()
      await pass(3300)
      const early = () => now() - before - 2000
      await store.touchSessions([{ id: told.id, ageMs: early() }])
      await store.touchSessions([{ id: late.id, ageMs: now() - after - 3100 }])
      t.ok(await live(store, told.id), 'active a second before the deadline')
      t.ok(await live(store, read.id, { ...look, pendingAgeMs: early() }), 'the same, told with the read')
      const { found } = await store.getSession(late.id, use)
      t.match(found, { state: 'ended', reason: 'idle', justEnded: { session: { id: late.id }, reason: 'idle' } })
    },
  )

  promise(`${name}: no activity moves the absolute deadline`, async t => {
    const { store, pass } = await open(t, { idleTimeout: 3, absoluteTimeout: 3 })
    const { id } = await create(store)
    await pass(2000)
    const used = await live(store, id, use)
    t.ok(used && used.absoluteExpiresInMs <= 1000 && used.idleExpiresInMs <= used.absoluteExpiresInMs)
    await pass(1100)
    t.match((await store.getSession(id, use)).found, { state: 'ended', reason: 'absolute' })
  })

  promise(`${name}: a session is ended by one of many, and it is remembered why`, async t => {
    const { store } = await open(t, minute)
    const session = await create(store)
    const ended = await Promise.all(Array.from({ length: 50 }, () => store.endSession(session.id, 'logout')))
    t.match(
      ended.filter(result => result !== null),
      [{ session: { id: session.id }, reason: 'logout' }],
    )
    t.same((await store.getSession(session.id, use)).found, { state: 'ended', reason: 'logout', justEnded: null })
  })

  promise(`${name}: what is in flight does not revive a session that has ended`, async t => {
    const { store } = await open(t, minute)
    const { id } = await create(store)
    await store.endSession(id, 'admin')
    await store.touchSessions([{ id, ageMs: 0 }])
    t.match((await store.getSession(id, { ...use, pendingAgeMs: 0 })).found, { state: 'ended', reason: 'admin' })
    t.same(await sweepAll(store), [])
  })

  promise(`${name}: a sweep ends what is due, tells when the next is, and leaves the rest`, async t => {
    const { store, pass } = await open(t, { idleTimeout: 3, absoluteTimeout: 60 })
    const [used, idle] = [await create(store), await create(store)]
    await pass(1700)
    await store.getSession(used.id, use)
    await pass(1400)
    t.match(await sweepAll(store), [{ session: { id: idle.id }, reason: 'idle' }])
    const { nextInMs } = await store.sweep(store.bucketOf(used.id))
    t.ok(nextInMs !== null && nextInMs > 0 && nextInMs <= 1600, 'the one that was used is due later')
    t.ok(await live(store, used.id))
    await pass(1700)
    t.match(await sweepAll(store), [{ session: { id: used.id } }])
    t.equal((await store.sweep(store.bucketOf(used.id))).nextInMs, null)
  })

  promise(`${name}: however a session ends, its refresh token is in the outbox, once`, async t => {
    const { store, pass } = await open(t, { idleTimeout: 2, absoluteTimeout: 60 })
    const [ended, swept, used, bare] = [await create(store), await create(store), await create(store), newSession()]
    await store.createSession(bare, { ...tokens, refresh: undefined })
    await store.endSession(ended.id, 'logout')
    await pass(2100)
    await store.getSession(used.id, use)
    await sweepAll(store)
    const claimed = await claimAll(store)
    t.same(
      new Set(claimed.map(entry => entry.id)),
      new Set([ended, swept, used].map(({ id }) => refreshTokenId(id, 0))),
    )
    for (const entry of claimed)
      t.match(entry, { token: 'rt', attempts: 1, reason: entry.id.startsWith(ended.id) ? 'logout' : 'idle' })
    t.same(await claimAll(store), [], 'nobody else gets what is claimed')
  })

  promise(`${name}: an entry of the outbox is settled, or comes back when it is told to`, async t => {
    const { store, pass } = await open(t, minute)
    const [done, again] = [randomToken(), randomToken()]
    await store.queueRevocation(done, 'a', { reason: 'login_failed' })
    await store.queueRevocation(again, 'b', { reason: 'login_failed' })
    t.equal((await claimAll(store)).length, 2)
    await store.settleRevocation(done, null)
    await store.settleRevocation(again, 1000)
    await store.settleRevocation(randomToken(), 0)
    t.same(await claimAll(store), [])
    await pass(1050)
    t.match(await claimAll(store), [{ id: again, token: 'b', attempts: 2, reason: 'login_failed' }])
  })

  promise(`${name}: a claim takes no more than it is asked to`, async t => {
    const { store } = await open(t, minute)
    const first = randomToken()
    const sameBucket = (tail: string) => first.slice(0, 4) + tail.slice(4)
    for (let count = 0; count < 5; count += 1)
      await store.queueRevocation(sameBucket(randomToken()), 'x', { reason: 'login_failed' })
    const visit = await store.claimRevocations(store.bucketOf(first), 3)
    t.equal(visit.found.length, 3)
    t.equal(visit.nextInMs, 0, 'the others are due')
  })

  promise(`${name}: sessions are found by index, oldest first, and gone ones are not`, async t => {
    const { store, pass } = await open(t, minute)
    const sessions = [newSession(), newSession(), newSession()]
    for (const session of sessions) {
      await store.addToIndexes(session.id, ['user-a', `handle-${session.id}`])
      await store.createSession(session, tokens)
      await pass(5)
    }
    const found = async (index: string) => (await store.findSessions(index)).map(({ session }) => session.id)
    const ids = sessions.map(session => session.id)
    t.same(await found('user-a'), ids)
    t.same(await found(`handle-${ids[1]}`), [ids[1]])
    t.same(await found('user-b'), [])
    await store.endSession(ids[0] ?? '', 'logout')
    t.same(await found('user-a'), ids.slice(1), 'ended')
    await store.removeFromIndexes(ids[1] ?? '', ['user-a'])
    t.same(await found('user-a'), ids.slice(2), 'removed')
  })

  promise(`${name}: a login that began before all sessions of its user were ended can tell`, async t => {
    const { store, pass } = await open(t, minute)
    const started = async () => {
      const { id, transaction } = newTransaction()
      await store.putTransaction(id, transaction)
      return (await store.takeTransaction(id))?.takenAt ?? 0
    }
    const before = await started()
    t.equal(await store.endedSince(['user-a', 'handle-x'], before), null)
    await pass(5)
    await store.markIndexEnded('user-a', 'admin')
    await pass(5)
    const after = await started()
    t.equal(await store.endedSince(['handle-x', 'user-a'], before), 'admin')
    t.equal(await store.endedSince(['user-a', 'handle-x'], after), null)
    t.equal(await store.endedSince(['user-b'], before), null)
    await store.markIndexEnded('user-a', 'backchannel_logout')
    t.equal(await store.endedSince(['user-a'], before), 'backchannel_logout', 'the last time counts')
  })

  promise(`${name}: a logout token is spent by one of many, and forgotten when it would be refused anyway`, async t => {
    const { store, pass } = await open(t, minute)
    t.equal(await store.isLogoutTokenSpent('token'), false)
    const spent = await Promise.all(Array.from({ length: 50 }, () => store.spendLogoutToken('token', 1000)))
    t.equal(spent.filter(Boolean).length, 1)
    t.equal(await store.isLogoutTokenSpent('token'), true)
    t.equal(await store.isLogoutTokenSpent('another'), false)
    t.equal(await store.spendLogoutToken('another', 1000), true)
    await pass(1010)
    t.equal(await store.isLogoutTokenSpent('token'), false)
  })

  promise(`${name}: ends and extensions are told to whoever listens`, async t => {
    const { store, pass } = await open(t, { idleTimeout: 4, absoluteTimeout: 60 })
    const heard: SessionEvent[] = []
    store.onSessionEvent(event => heard.push(event))
    const listens = async () => {
      await store.endSession((await create(store)).id, 'logout')
      return heard.length > 0
    }
    t.ok(await eventually(listens, 15_000))
    const [ended, extended] = [await create(store), await create(store)]
    const events = () => heard.filter(event => [ended.id, extended.id].includes(event.sessionId))
    await store.endSession(ended.id, 'admin')
    await pass(2750)
    await store.getSession(extended.id, use)
    await eventually(() => events().length >= 2)
    t.match(events(), [
      { type: 'ended', sessionId: ended.id, reason: 'admin' },
      { type: 'extended', sessionId: extended.id },
    ])
  })

  promise(`${name}: one process at a time holds the refresh token, and what it saves is there for all`, async t => {
    const { store } = await open(t, minute)
    const { id } = await create(store)
    const [first, second] = [wishOf('first'), wishOf('second')]
    const granted = await store.beginRefresh(id, first)
    t.match(granted, { state: 'granted', refreshToken: 'rt', interrupted: false, stored: { version: 0 } })
    t.same(await store.beginRefresh(id, second), { state: 'held' })
    t.match(await store.beginRefresh(id, first), { state: 'granted' }, 'the holder may ask again')
    t.equal(await store.saveRefresh(id, 'first', 0, renewal), 'saved')
    t.match(await store.beginRefresh(id, second), {
      state: 'changed',
      stored: { version: 1, accessToken: { value: 'at2' } },
    })
    const next = await store.beginRefresh(id, { ...second, version: 1 })
    t.match(next, { state: 'granted', refreshToken: 'rt2', interrupted: false }, 'and the next one gets the new token')
    t.match((await store.getSession(id, { ...look, slot: 'other' })).found, {
      state: 'live',
      stored: { session: { id }, version: 1, accessToken: null },
    })
  })

  // A holder is slow, its lease runs out, another refreshes; then the first one's answer comes in after all.
  promise(`${name}: a slow holder never overwrites newer tokens`, async t => {
    const { store } = await open(t, minute)
    const { id } = await create(store)
    await store.beginRefresh(id, wishOf('first'))
    await store.abandonRefresh(id, 'first', { unsure: true })
    t.match(await store.beginRefresh(id, wishOf('second')), { state: 'granted', interrupted: true })
    t.equal(await store.saveRefresh(id, 'second', 0, renewal), 'saved')
    const stale = { ...renewal, access: { ...tokens.access, value: 'stale' }, refresh: 'stale' }
    t.equal(await store.saveRefresh(id, 'first', 0, stale), 'superseded')
    const now = await store.beginRefresh(id, { ...wishOf('third'), version: 1 })
    t.match(now, { refreshToken: 'rt2', stored: { accessToken: { value: 'at2' } } })
  })

  promise(`${name}: tokens for a session that has ended meanwhile go to the outbox and revive nothing`, async t => {
    const { store } = await open(t, minute)
    const { id } = await create(store)
    await store.beginRefresh(id, wishOf('first'))
    await store.endSession(id, 'admin')
    t.equal(await store.saveRefresh(id, 'first', 0, renewal), 'gone')
    t.match((await store.getSession(id, use)).found, { state: 'ended', reason: 'admin' })
    t.same(await store.beginRefresh(id, wishOf('second')), { state: 'gone' })
    const queued = (await claimAll(store)).map(({ token, reason }) => [token, reason]).sort()
    t.same(queued, [
      ['rt', 'admin'],
      ['rt2', 'ended_meanwhile'],
    ])
  })

  promise(`${name}: where the token of an ended session has to wait, so has the one that replaces it`, async t => {
    const { store, pass } = await open(t, minute)
    const { id } = await create(store)
    await store.beginRefresh(id, wishOf('first'))
    await store.endSession(id, 'replaced', 600)
    t.equal(await store.saveRefresh(id, 'first', 0, renewal), 'gone')
    t.same(await claimAll(store), [])
    await pass(700)
    const queued = (await claimAll(store)).map(({ token, reason }) => [token, reason]).sort()
    t.same(queued, [
      ['rt', 'replaced'],
      ['rt2', 'ended_meanwhile'],
    ])
  })

  promise(`${name}: a holder that gives up leaves things as they were, or says that it is not sure`, async t => {
    const { store } = await open(t, minute)
    const { id } = await create(store)
    await store.beginRefresh(id, wishOf('first'))
    await store.abandonRefresh(id, 'second', { unsure: false })
    t.same(await store.beginRefresh(id, wishOf('second')), { state: 'held' }, 'only the holder can')
    await store.abandonRefresh(id, 'first', { unsure: false })
    t.match(await store.beginRefresh(id, wishOf('second')), { state: 'granted', interrupted: false })
    await store.abandonRefresh(id, 'second', { unsure: true })
    const gaveUp = { state: 'granted', interrupted: true, mayReturn: false }
    t.match(await store.beginRefresh(id, wishOf('third')), gaveUp)
    await store.abandonRefresh(id, 'third', { unsure: false })
    t.match(await store.beginRefresh(id, wishOf('fourth')), gaveUp, 'which one that did nothing does not undo')
    t.equal(await store.saveRefresh(id, 'fourth', 0, renewal), 'saved')
    const next = await store.beginRefresh(id, { ...wishOf('fifth'), version: 1 })
    t.match(next, { state: 'granted', interrupted: false, mayReturn: false }, 'until something is saved')
  })

  // A holder that dies cannot say so: its lease runs out, and a slow one may still come back.
  promise(`${name}: whoever takes over from a holder that went silent is told so, once`, async t => {
    const { store, lapse } = await open(t, minute)
    const { id } = await create(store)
    await store.beginRefresh(id, wishOf('first'))
    await lapse()
    t.match(await store.beginRefresh(id, wishOf('second')), { state: 'granted', interrupted: true, mayReturn: true })
    t.match(await store.beginRefresh(id, wishOf('second')), { state: 'granted', interrupted: true, mayReturn: false })
    await store.abandonRefresh(id, 'second', { unsure: false })
    t.match(await store.beginRefresh(id, wishOf('third')), { state: 'granted', interrupted: true, mayReturn: false })
  })

  promise(
    `${name}: a refusal for one slot is remembered until a token comes, and keeps no other slot waiting`,
    async t => {
      const { store } = await open(t, minute)
      const { id } = await create(store)
      const refusal = { code: 'forbidden', detail: 'why' } as const
      await store.beginRefresh(id, wishOf('first'))
      await store.abandonRefresh(id, 'first', { unsure: false, refused: { slot: wishOf('x').slot, refusal } })
      t.same(await store.beginRefresh(id, wishOf('second')), { state: 'refused', refusal })
      t.match(await store.beginRefresh(id, { ...wishOf('second'), slot: 'other' }), { state: 'granted' })
      t.equal(await store.saveRefresh(id, 'second', 0, renewal), 'saved')
      t.match(await store.beginRefresh(id, { ...wishOf('third'), version: 1 }), { state: 'granted' })
      await store.endSession(id, 'admin')
      await store.abandonRefresh(id, 'third', { unsure: false, refused: { slot: 'x', refusal } })
      t.match((await store.getSession(id, use)).found, { state: 'ended' }, 'and revives nothing')
    },
  )

  promise(`${name}: what is demanded beyond a scope is refused and forced apart from the scope itself`, async t => {
    const { store } = await open(t, minute)
    const { id } = await create(store)
    const refusal = { code: 'step_up_required', detail: 'why', challenge } as const
    const demanding = { ...wishOf('first'), forced: true, demanding: true }
    t.match(await store.beginRefresh(id, demanding), { state: 'granted' })
    const refused = { slot: demanding.slot, demanding: true, refusal }
    await store.abandonRefresh(id, 'first', { unsure: false, refused })
    t.same(await store.beginRefresh(id, { ...demanding, forced: false }), { state: 'refused', refusal })
    t.match(await store.beginRefresh(id, { ...wishOf('first'), forced: true }), { state: 'granted' }, 'the scope alone')
    await store.abandonRefresh(id, 'first', { unsure: false })
    t.match(await store.beginRefresh(id, { ...demanding, slot: 'other' }), { state: 'granted' }, 'another slot')
    t.equal(await store.saveRefresh(id, 'first', 0, { ...renewal, slot: 'other' }), 'saved')
    t.same(await store.beginRefresh(id, { ...demanding, slot: 'other', version: 1 }), { state: 'cooldown' })
  })

  promise(`${name}: a session ends by the deadline that it took over`, async t => {
    const { store, pass } = await open(t, minute)
    const short = newSession()
    await store.createSession(short, tokens, 1000)
    const long = newSession()
    await store.createSession(long, tokens, 10 * 60_000)
    const left = async (session: Session) => {
      const { found } = await store.getSession(session.id, look)
      return found?.state === 'live' ? found.stored.absoluteExpiresInMs : 0
    }
    t.ok((await left(short)) <= 1000)
    t.ok((await left(long)) <= 60_000, 'never further away than that of a new session')
    await pass(1100)
    t.match((await store.getSession(short.id, look)).found, { state: 'ended', reason: 'absolute' })
    t.match((await store.getSession(long.id, look)).found, { state: 'live' })
  })

  promise(`${name}: a step-up is taken once, and counted`, async t => {
    const { store } = await open(t, minute)
    const [id, counter] = [randomToken(), randomToken()]
    const stepUp = { challenge, lineage: 'first', identity: { ...identity, authTime: 7 }, loginHint: 'alice' }
    await store.putStepUp(id, stepUp)
    const taken = await Promise.all([store.takeStepUp(id), store.takeStepUp(id), store.takeStepUp(id)])
    t.match(
      taken.filter(one => one !== null),
      [JSON.parse(JSON.stringify(stepUp))],
    )
    t.equal(taken.filter(one => one !== null).length, 1)
    t.equal(await store.takeStepUp(randomToken()), null)
    t.equal(await store.countStepUp(counter, 0), 0)
    const counts = await Promise.all([1, 2, 3].map(() => store.countStepUp(counter, 1)))
    t.same(counts.sort(), [1, 2, 3])
    t.equal(await store.countStepUp(counter, 0), 3)
  })

  promise(`${name}: a token may be queued to be revoked later`, async t => {
    const { store, pass } = await open(t, minute)
    const id = randomToken()
    await store.queueRevocation(id, 'later', { reason: 'superseded', dueInMs: 1000 })
    t.same(await claimAll(store), [])
    await pass(1050)
    t.match(await claimAll(store), [{ id, token: 'later', reason: 'superseded' }])
  })

  promise(`${name}: a forced refresh is granted once in a while`, async t => {
    const { store } = await open(t, minute)
    const { id } = await create(store)
    const forced = { ...wishOf('first'), forced: true }
    t.match(await store.beginRefresh(id, forced), { state: 'granted' })
    t.equal(await store.saveRefresh(id, 'first', 0, renewal), 'saved')
    t.same(await store.beginRefresh(id, { ...forced, version: 1 }), { state: 'cooldown' })
    t.match(await store.beginRefresh(id, { ...wishOf('first'), version: 1 }), { state: 'granted' }, 'others go on')
  })

  promise(`${name}: a forced refresh that was granted may be asked for again by its holder`, async t => {
    const { store } = await open(t, minute)
    const { id } = await create(store)
    await store.beginRefresh(id, wishOf('first'))
    await store.abandonRefresh(id, 'first', { unsure: true })
    const forced = { ...wishOf('second'), forced: true }
    t.match(await store.beginRefresh(id, forced), { state: 'granted', interrupted: true })
    t.match(await store.beginRefresh(id, forced), { state: 'granted' }, 'after a while for the first to come back')
  })

  promise(`${name}: a refresh that brought no access token leaves the slot as it was`, async t => {
    const { store } = await open(t, minute)
    const { id } = await create(store)
    await store.beginRefresh(id, wishOf('first'))
    t.equal(await store.saveRefresh(id, 'first', 0, { ...renewal, slot: 'other', access: null }), 'saved')
    const next = await store.beginRefresh(id, { ...wishOf('second'), slot: 'other', version: 1 })
    t.match(next, { state: 'granted', refreshToken: 'rt2', stored: { accessToken: null } })
    t.equal(await store.saveRefresh(id, 'second', 1, { ...renewal, access: null }), 'saved')
    t.match((await live(store, id))?.accessToken, { value: 'at' }, 'also where there was a token')
  })

  promise(`${name}: a refresh neither slides the idle deadline nor moves the absolute one`, async t => {
    const { store, pass } = await open(t, { idleTimeout: 3, absoluteTimeout: 4 })
    const { id } = await create(store)
    await pass(1000)
    await store.beginRefresh(id, wishOf('first'))
    await store.renewRefresh(id, 'first')
    await store.saveRefresh(id, 'first', 0, renewal)
    const stored = await live(store, id)
    t.ok(stored && stored.idleExpiresInMs <= 2000 && stored.absoluteExpiresInMs <= 3000)
  })

  promise(`${name}: what a caller does to a record does not reach the store`, async t => {
    const { store } = await open(t, minute)
    const { session } = openSession({ ...identity, claims: { name: 'before' } }, client, 0)
    await store.createSession(session, tokens)
    session.identity.claims.name = 'after'
    const first = await live(store, session.id)
    try {
      if (first?.accessToken) first.accessToken.value = 'changed'
    } catch {
      // A record that cannot be changed will do as well.
    }
    t.match(await live(store, session.id), {
      session: { identity: { claims: { name: 'before' } } },
      accessToken: { value: 'at' },
    })
  })
}

async function create(store: Store): Promise<Session> {
  const session = newSession()
  await store.createSession(session, tokens)
  return session
}

test('memory: what nobody takes is forgotten in time', async t => {
  const { store, pass } = await memory(t, minute)
  const { id, transaction } = newTransaction()
  await store.putTransaction(id, transaction)
  await store.putLogout('id', 'address')
  await pass(601_000)
  t.equal(await store.takeTransaction(id), null)
  t.equal(await store.takeLogout('id'), null)
})

// A replica takes entries of the outbox and is killed before it has revoked them.
test('memory: a claim that nobody settles runs out, and somebody else takes it', async t => {
  const { store, pass } = await memory(t, minute)
  await store.queueRevocation('id', 'token', { reason: 'login_failed' })
  t.equal((await claimAll(store)).length, 1)
  await pass(leaseMs - 1)
  t.same(await claimAll(store), [])
  await pass(1)
  t.match(await claimAll(store), [{ id: 'id', attempts: 2 }])
})

test('redis: every key has a time to live, and all keys of a session share a slot', async t => {
  const { server, store } = await startOwn(t, { idleTimeout: 60, absoluteTimeout: 120 })
  const kept = await create(store)
  const ended = await create(store)
  await store.addToIndexes(kept.id, ['user-a'])
  await store.markIndexEnded('user-a', 'admin')
  await store.spendLogoutToken('id', 1000)
  await store.endSession(ended.id, 'logout')
  const { id, transaction } = newTransaction()
  await store.putTransaction(id, transaction)
  await store.putLogout('id', 'address')
  const keys = await server.keys()
  for (const name of keys) t.ok((await server.client.pttl(name)) > 0, `${name} ends by itself`)
  const kinds = keys.map(name => name.replace(/\{b\d{3}\}/, '{b}').replace(/:[\w-]{43}$/, '')).sort()
  t.same(
    new Set(kinds),
    new Set(
      ['test:{b}:due', 'test:{b}:ended', 'test:{b}:outbox', 'test:{b}:outbox:about', 'test:{b}:outbox:token'].concat([
        'test:{b}:session',
        'test:{user-a}:ended',
        'test:{user-a}:members',
        'test:logout-token:id',
        'test:logout:id',
        'test:transaction',
      ]),
    ),
  )
  const retention = await server.client.pttl(keys.find(name => name.includes(':session:')) ?? '')
  t.ok(retention > 7 * 86_400_000, 'a dead session keeps its refresh token until that is revoked')
})

// Somebody lifts a key's expiry, or Redis is slow to expire: the deadline is held by code all the same.
test('redis: a deadline holds without any key expiring', async t => {
  const { server, store } = await startOwn(t, { idleTimeout: 1, absoluteTimeout: 60 })
  const { id } = await create(store)
  for (const name of await server.keys()) await server.client.persist(name)
  await sleep(1100)
  t.match((await store.getSession(id, use)).found, { state: 'ended', reason: 'idle' })
})

// An attacker who can write to Redis puts his own sealed record under the victim's key, or the other way round.
test('redis: a record that was moved, changed or sealed with a lost key counts as absent', async t => {
  const server = await startRedis()
  const unreadable: string[] = []
  const store = await redisStore(server, minute, [key], id => unreadable.push(id))
  const stranger = await redisStore(server, minute, [randomBytes(32)])
  t.teardown(async () => {
    await Promise.all([store.close(), stranger.close()])
    await server.stop()
  })
  const [a, b] = [await create(store), newSession('bob')]
  await store.createSession(b, tokens)
  const keyOf = async (id: string) => (await server.keys()).find(name => name.endsWith(id)) ?? ''
  const [keyA, keyB] = [await keyOf(a.id), await keyOf(b.id)]
  t.equal(await live(stranger, a.id), null, 'another key ring')
  for (const field of ['session', 'access:login']) {
    const own = (await server.client.hgetBuffer(keyA, field)) ?? Buffer.alloc(0)
    const foreign = (await server.client.hgetBuffer(keyB, field)) ?? Buffer.alloc(0)
    for (const value of [foreign, own.subarray(0, -1), Buffer.of(0)]) {
      await server.client.hset(keyA, field, value)
      t.equal(await live(store, a.id, use), null, `${field} of ${value.length} bytes`)
    }
    await server.client.hset(keyA, field, own)
  }
  t.equal(unreadable.length, 6, 'each is told')
  t.ok(await live(store, a.id), 'restored, it opens again')
})

test('redis: a server that is gone, paused or read-only is no answer, and comes back by itself', async t => {
  const { server, store } = await startOwn(t)
  const { id } = await create(store)
  await server.client.config('SET', 'min-replicas-to-write', '1')
  await t.rejects(store.endSession(id, 'logout'), StoreUnavailable, 'refuses writes')
  await t.resolves(store.ping(), 'is there')
  await t.rejects(store.ping(0), StoreUnavailable, 'and nothing can be swept')
  await server.client.config('SET', 'min-replicas-to-write', '0')
  t.ok(await live(store, id), 'writes again')
  server.pause()
  t.ok(store.sessionAtHand(id, use), 'what it said a moment ago still holds')
  await sleep(confirmedForMs)
  t.equal(store.sessionAtHand(id, use), null)
  await t.rejects(store.getSession(id, use), StoreUnavailable, 'hangs')
  server.resume()
  await server.restart()
  await t.resolves(comesBack(store), 'back after a restart')
})

// A replica that becomes the master may lack the last writes: a session that somebody signed out of would be back, for
// whoever had copied its cookie.
// The token that was saved last did not get to the replica which is the master now; the provider knows only its successor.
test('redis: tokens that were fetched across a failover are the newest, whatever it took back', async t => {
  const { server, store } = await startOwn(t)
  const { id } = await create(store)
  await store.beginRefresh(id, wishOf('first'))
  t.equal(await store.saveRefresh(id, 'first', 0, renewal), 'saved')
  const name = (await server.keys()).find(key => key.endsWith(`:session:${id}`)) ?? ''
  t.match(await store.beginRefresh(id, { ...wishOf('second'), version: 1 }), { state: 'granted', refreshToken: 'rt2' })
  t.equal(await server.client.hset(name, 'version', '0'), 0)
  t.equal(await store.saveRefresh(id, 'second', 1, { ...renewal, refresh: 'rt3' }), 'saved')
  const next = await store.beginRefresh(id, { ...wishOf('third'), version: 2 })
  t.match(next, { state: 'granted', refreshToken: 'rt3' })
})

test('redis: a session that a failover brings back is ended again, by all who heard of its end', async t => {
  const server = await startRedis()
  const stores = [await redisStore(server, minute), await redisStore(server, minute)] as const
  t.teardown(async () => {
    await Promise.all(stores.map(store => store.close()))
    await server.stop()
  })
  const [{ id }, replaced] = [await create(stores[0]), await create(stores[0])]
  const listening = async () => Number((await server.client.pubsub('NUMSUB', 'test:events'))[1]) === 2
  while (!(await listening())) await sleep(10)
  const heard: SessionEvent[] = []
  stores[1].onSessionEvent(event => heard.push(event))
  const names = (await server.keys()).filter(key => key.includes(':session:'))
  const records = await Promise.all(names.map(name => server.client.dumpBuffer(name)))
  await stores[0].endSession(id, 'logout')
  await stores[0].endSession(replaced.id, 'replaced', 60_000)
  t.ok(await eventually(() => heard.length === 2))
  // Whoever ended it is gone, too: the other one only heard of it.
  await stores[0].close()
  for (const [index, name] of names.entries()) await server.client.restore(name, 60_000, records[index] ?? '')
  t.ok(await live(stores[1], id), 'it is back')
  await server.client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  const isGone = async () => (await server.client.exists(...names)) === 0
  for (let tries = 0; tries < 500 && !(await isGone()); tries += 1) await sleep(10)
  t.ok(await isGone(), 'and gone again')
  await comesBack(stores[1])
  const claimed = (await claimAll(stores[1])).map(entry => entry.id)
  t.same(claimed, [refreshTokenId(id, 0)], 'its token is revoked, and that of a replaced session not before its time')
})

// Sessions that end make room: were a full server to refuse that, nothing would ever end that could.
test('redis: where memory is full, sessions go on, end and are revoked, and none is opened', async t => {
  const { server, store } = await startOwn(t)
  const [kept, ended, overdue] = [await create(store), await create(store), newSession()]
  await store.endSession(ended.id, 'logout')
  // In the same bucket as one that was due before it, and was used since.
  overdue.id = `${kept.id.slice(0, 4)}${overdue.id.slice(4)}`
  await store.createSession(overdue, tokens, 1)
  const key = (await server.keys()).find(name => name.endsWith(`session:${kept.id}`)) ?? ''
  await server.client.zadd(key.replace(`session:${kept.id}`, 'due'), 1, kept.id)
  await server.client.config('SET', 'maxmemory', '1')
  await t.rejects(store.createSession(newSession(), tokens), StoreUnavailable)
  await store.touchSessions([{ id: kept.id, ageMs: 0 }])
  t.ok(await live(store, kept.id))
  const { found } = await store.sweep(store.bucketOf(kept.id))
  t.match(found, [{ session: { id: overdue.id } }])
  const claimed = (await claimAll(store)).find(({ id }) => id === refreshTokenId(ended.id, 0))
  t.ok(claimed)
  await store.settleRevocation(claimed?.id ?? '', 0)
  t.equal((await claimAll(store)).length, 1, 'due again')
  t.ok(await store.endSession(kept.id, 'logout'))
  t.equal((await claimAll(store)).length, 1)
})

// A replica, or a master that was replaced and cut off, has not heard of the sessions that were opened since.
test('redis: a server that may not write does not tell of a session that it never was', async t => {
  const { server, store } = await startOwn(t)
  await server.client.replicaof('127.0.0.1', 1)
  await t.rejects(store.getSession(newSession().id, look), StoreUnavailable)
  await server.client.replicaof('NO', 'ONE')
  await comesBack(store)
  await server.client.config('SET', 'min-replicas-to-write', '1')
  await t.rejects(store.getSession(newSession().id, look), StoreUnavailable, 'nor one that lost its replicas')
})

// While a slot moves its keys lie on either of two nodes: half of what a script needs would be out of its reach.
test('cluster: while a slot moves nothing is done by halves, and nothing is said of its sessions', async t => {
  const moving = await startCluster(15_000)
  const prefix = 'moving:'
  const nodes = moving.nodes.map(({ port }) => ({ host: '127.0.0.1', port }))
  const store = await storeAt({ url: new URL('redis://cluster'), cluster: nodes }, prefix, minute)
  t.teardown(async () => {
    await store.close()
    await moving.stop()
  })
  const ids = Array.from({ length: 40 }, () => `AAAA${randomToken().slice(4)}`)
  for (const id of ids) await store.createSession({ ...newSession(), id }, tokens)
  const bucket = store.bucketOf(ids[0] ?? '')
  const [key = ''] = await moving.keys()
  const slot = await moving.slotOf(key)
  const from = await moving.masterOf(key)
  const to = (await moving.masters()).find(node => node !== from) as TestRedis
  await moving.moveSlot(slot, to, async () => {
    const outcomes = await Promise.allSettled([
      ...ids.map(id => store.getSession(id, use)),
      ...ids.slice(0, 5).map(id => store.endSession(id, 'logout')),
      store.sweep(bucket),
      store.claimRevocations(bucket, 10),
      // Asked whether the bucket may be swept.
      store.ping(bucket),
      store.createSession({ ...newSession(), id: `AAAA${randomToken().slice(4)}` }, tokens),
    ])
    for (const outcome of outcomes) {
      t.equal(outcome.status, 'rejected')
      t.ok(outcome.status === 'rejected' && outcome.reason instanceof StoreUnavailable)
    }
  })
  await comesBack(store)
  for (const id of ids) t.ok(await live(store, id, use), 'all are there')
  t.ok(await store.endSession(ids[0] ?? '', 'logout'))
  t.equal((await store.claimRevocations(bucket, 10)).found.length, 1)
})
