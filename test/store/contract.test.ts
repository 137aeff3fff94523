import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Test, test } from 'tap'
import { StoreUnavailable } from '../../src/core/errors.ts'
import { hash, randomToken } from '../../src/core/random.ts'
import { createSeal } from '../../src/core/seal.ts'
import { openSession } from '../../src/core/session.ts'
import { openTransaction } from '../../src/core/transaction.ts'
import { createMemoryStore } from '../../src/store/memory.ts'
import { createRedisStore } from '../../src/store/redis.ts'
import { createRedisClient } from '../../src/store/redis-client.ts'
import type { Lifetimes, Store } from '../../src/store/store.ts'
import { createClock } from '../support/clock.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'

/** What a store under test offers beside itself. */
interface Subject {
  store: Store
  /** Lets time pass, in milliseconds: by a manual clock where the store goes by ours, for real where it goes by its own. */
  pass(ms: number): Promise<void>
}

const key = randomBytes(32)
const identity = { issuer: 'https://idp', subject: 'alice', providerSessionId: undefined, claims: { name: 'Ünï' } }
const tokens = { accessToken: 'at', accessTokenExpiresAt: 1, refreshToken: 'rt', scope: undefined }

async function memory(_t: Test, lifetimes: Lifetimes): Promise<Subject> {
  const clock = createClock()
  return { store: createMemoryStore({ clock, lifetimes }), pass: async ms => clock.advance(ms) }
}

async function redisStore(redis: TestRedis, lifetimes: Lifetimes, keys = [key], onUnreadable = (_id: string) => {}) {
  const client = createRedisClient({ url: new URL(redis.url), ca: undefined })
  client.on('error', () => {})
  await new Promise<void>(resolve => client.once('ready', () => resolve()))
  const seal = createSeal({ keys, context: 'contract' })
  return createRedisStore({ client, seal, prefix: 'test:', lifetimes, onUnreadable })
}

async function redis(t: Test, lifetimes: Lifetimes): Promise<Subject> {
  const server = await startRedis()
  const store = await redisStore(server, lifetimes)
  t.teardown(async () => {
    await store.close()
    await server.stop()
  })
  return { store, pass: ms => sleep(ms) }
}

for (const [name, open] of Object.entries({ memory, redis })) {
  test(`${name}: a transaction is taken once, by one of many`, async t => {
    const { store } = await open(t, { idleTimeout: 60, absoluteTimeout: 60 })
    const { id, transaction } = openTransaction({ returnUrl: '/x', silent: false, previousSessionId: null }, Date.now())
    await store.putTransaction(id, transaction)
    const taken = await Promise.all(Array.from({ length: 50 }, () => store.takeTransaction(id)))
    t.same(
      taken.filter(result => result !== null),
      [transaction],
    )
    t.equal(await store.takeTransaction(randomToken()), null, 'what never was is not found')
  })

  test(`${name}: a logout address is taken once`, async t => {
    const { store } = await open(t, { idleTimeout: 60, absoluteTimeout: 60 })
    await store.putLogout('id', 'https://idp/end?x=1')
    t.equal(await store.takeLogout('id'), 'https://idp/end?x=1')
    t.equal(await store.takeLogout('id'), null)
  })

  test(`${name}: a session comes back as it was put, with the time it has left`, async t => {
    const { store } = await open(t, { idleTimeout: 60, absoluteTimeout: 100 })
    const { session } = openSession(identity, 5)
    await store.createSession(session, tokens)
    const stored = await store.getSession(session.id, { slide: false })
    t.same(stored?.session, JSON.parse(JSON.stringify(session)))
    t.match(stored?.tokens, { accessToken: 'at', accessTokenExpiresAt: 1, refreshToken: 'rt' })
    t.ok(stored && stored.idleExpiresInMs > 59_000 && stored.idleExpiresInMs <= 60_000, 'idle')
    t.ok(stored && stored.absoluteExpiresInMs > 99_000 && stored.absoluteExpiresInMs <= 100_000, 'absolute')
    t.equal(await store.getSession(hash('other'), { slide: true }), null, 'an unknown id is absent')
  })

  test(`${name}: activity moves the idle deadline, mere looking does not`, async t => {
    const { store, pass } = await open(t, { idleTimeout: 1, absoluteTimeout: 60 })
    const { session } = openSession(identity, 0)
    await store.createSession(session, tokens)
    await pass(600)
    const looked = await store.getSession(session.id, { slide: false })
    t.ok(looked && looked.idleExpiresInMs <= 400, 'looking')
    const used = await store.getSession(session.id, { slide: true })
    t.ok(used && used.idleExpiresInMs > 900, 'activity')
    await pass(600)
    const alive = await store.getSession(session.id, { slide: false })
    t.ok(alive && alive.idleExpiresInMs > 0, 'alive past the first deadline')
  })

  test(`${name}: no activity revives a session that is past its deadline`, async t => {
    const { store, pass } = await open(t, { idleTimeout: 1, absoluteTimeout: 60 })
    const { session } = openSession(identity, 0)
    await store.createSession(session, tokens)
    await pass(1100)
    const late = await store.getSession(session.id, { slide: true })
    t.ok(late && late.idleExpiresInMs <= 0, 'it is still there, and over')
  })

  test(`${name}: no activity moves the absolute deadline`, async t => {
    const { store, pass } = await open(t, { idleTimeout: 1, absoluteTimeout: 1 })
    const { session } = openSession(identity, 0)
    await store.createSession(session, tokens)
    await pass(700)
    const used = await store.getSession(session.id, { slide: true })
    t.ok(used && used.absoluteExpiresInMs <= 300 && used.idleExpiresInMs <= used.absoluteExpiresInMs)
  })

  test(`${name}: a session is taken by one of many, and is then gone`, async t => {
    const { store } = await open(t, { idleTimeout: 60, absoluteTimeout: 60 })
    const { session } = openSession(identity, 0)
    await store.createSession(session, tokens)
    const taken = await Promise.all(Array.from({ length: 50 }, () => store.takeSession(session.id)))
    t.equal(taken.filter(result => result !== null).length, 1)
    t.equal(await store.getSession(session.id, { slide: true }), null)
  })

  test(`${name}: what a caller does to a record does not reach the store`, async t => {
    const { store } = await open(t, { idleTimeout: 60, absoluteTimeout: 60 })
    const { session } = openSession({ ...identity, claims: { name: 'before' } }, 0)
    await store.createSession(session, tokens)
    session.identity.claims.name = 'after'
    const first = await store.getSession(session.id, { slide: false })
    if (first) first.tokens.accessToken = 'changed'
    const second = await store.getSession(session.id, { slide: false })
    t.match(second, { session: { identity: { claims: { name: 'before' } } }, tokens: { accessToken: 'at' } })
  })
}

test('memory: what nobody takes is forgotten in time', async t => {
  const { store, pass } = await memory(t, { idleTimeout: 60, absoluteTimeout: 60 })
  const { id, transaction } = openTransaction({ returnUrl: '/', silent: false, previousSessionId: null }, Date.now())
  await store.putTransaction(id, transaction)
  await store.putLogout('id', 'address')
  await pass(601_000)
  t.equal(await store.takeTransaction(id), null)
  t.equal(await store.takeLogout('id'), null)
})

test('redis: every key has a time to live, and all keys of a session share a slot', async t => {
  const server = await startRedis()
  const store = await redisStore(server, { idleTimeout: 60, absoluteTimeout: 120 })
  t.teardown(async () => {
    await store.close()
    await server.stop()
  })
  for (let count = 0; count < 20; count += 1) await store.createSession(openSession(identity, 0).session, tokens)
  const { id, transaction } = openTransaction({ returnUrl: '/', silent: false, previousSessionId: null }, Date.now())
  await store.putTransaction(id, transaction)
  await store.putLogout('id', 'address')
  const keys = await server.keys()
  t.equal(keys.length, 22)
  for (const name of keys) {
    t.ok((await server.client.pttl(name)) > 0, `${name} ends by itself`)
    if (name.includes(':session:')) t.match(name, /^test:\{b\d{3}\}:session:[\w-]{43}$/)
  }
  const retention = await server.client.pttl(keys.find(name => name.includes(':session:')) ?? '')
  t.ok(retention > 7 * 86_400_000, 'a dead session keeps its refresh token until that is revoked')
})

// An attacker who can write to Redis puts his own sealed record under the victim's key, or the other way round.
test('redis: a record that was moved, changed or sealed with a lost key counts as absent', async t => {
  const server = await startRedis()
  const unreadable: string[] = []
  const lifetimes = { idleTimeout: 60, absoluteTimeout: 60 }
  const store = await redisStore(server, lifetimes, [key], id => unreadable.push(id))
  const stranger = await redisStore(server, lifetimes, [randomBytes(32)])
  t.teardown(async () => {
    await Promise.all([store.close(), stranger.close()])
    await server.stop()
  })
  const [a, b] = [openSession(identity, 0).session, openSession({ ...identity, subject: 'bob' }, 0).session]
  await store.createSession(a, tokens)
  await store.createSession(b, tokens)
  const keyOf = async (id: string) => (await server.keys()).find(name => name.endsWith(id)) ?? ''
  const [keyA, keyB] = [await keyOf(a.id), await keyOf(b.id)]
  t.equal(await stranger.getSession(a.id, { slide: true }), null, 'another key ring')
  for (const field of ['session', 'tokens']) {
    const own = (await server.client.hgetBuffer(keyA, field)) ?? Buffer.alloc(0)
    const foreign = (await server.client.hgetBuffer(keyB, field)) ?? Buffer.alloc(0)
    for (const value of [foreign, own.subarray(0, -1), Buffer.alloc(0)]) {
      await server.client.hset(keyA, field, value)
      t.equal(await store.getSession(a.id, { slide: true }), null, `${field} of ${value.length} bytes`)
    }
    await server.client.hset(keyA, field, own)
  }
  t.equal(unreadable.length, 6, 'each is told')
  t.ok(await store.getSession(a.id, { slide: true }), 'restored, it opens again')
})

test('redis: a server that is gone, paused or read-only is no answer, and comes back by itself', async t => {
  const server = await startRedis()
  const store = await redisStore(server, { idleTimeout: 60, absoluteTimeout: 60 })
  t.teardown(async () => {
    await store.close()
    await server.stop()
  })
  const { session } = openSession(identity, 0)
  await store.createSession(session, tokens)
  const fails = (name: string) => t.rejects(store.getSession(session.id, { slide: true }), StoreUnavailable, name)

  await server.client.config('SET', 'min-replicas-to-write', '1')
  await fails('refuses writes')
  await server.client.config('SET', 'min-replicas-to-write', '0')
  t.ok(await store.getSession(session.id, { slide: true }), 'writes again')

  server.pause()
  await fails('hangs')
  server.resume()
  await server.restart()
  await t.resolves(
    (async () => {
      for (let tries = 0; tries < 50; tries += 1) {
        if (
          await store.ping().then(
            () => true,
            () => false,
          )
        )
          return
        await sleep(100)
      }
      throw new Error('the store did not come back')
    })(),
    'back after a restart',
  )
})
