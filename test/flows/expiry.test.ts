import { setTimeout as sleep } from 'node:timers/promises'
import { type Test, test } from 'tap'
import { StoreUnavailable } from '../../src/core/errors.ts'
import { openSession } from '../../src/core/session.ts'
import { createExpiry, type ExpiryDeps } from '../../src/flows/expiry.ts'
import { createRevoker } from '../../src/flows/revocation.ts'
import type { Revocation } from '../../src/oidc/provider.ts'
import { createMemoryStore } from '../../src/store/memory.ts'
import { type EndedSession, leaseMs, type Store } from '../../src/store/store.ts'
import { createClock } from '../support/clock.ts'
import { eventually } from '../support/eventually.ts'
import { identity, tokensWith } from '../support/samples.ts'

const lifetimes = { idleTimeout: 100, absoluteTimeout: 1000 }

/** A memory store that several sweepers share, and that can be taken away from them. */
function setUp(t: Test, revoke: (token: string) => Promise<Revocation> = async () => ({ outcome: 'revoked' })) {
  const clock = createClock()
  const memory = createMemoryStore({ clock, lifetimes })
  const state = { down: false, sweeps: 0, claims: 0 }
  const guarded =
    <A extends unknown[], R>(call: (...args: A) => Promise<R>, count = () => {}) =>
    async (...args: A): Promise<R> => {
      count()
      if (state.down) throw new StoreUnavailable()
      return call(...args)
    }
  const store = {
    ...memory,
    ping: guarded(memory.ping),
    sweep: guarded(memory.sweep, () => {
      state.sweeps += 1
    }),
    claimRevocations: guarded(memory.claimRevocations, () => {
      state.claims += 1
    }),
    settleRevocation: guarded(memory.settleRevocation),
  }
  const ended: EndedSession[] = []
  const revoked: string[] = []
  const provider = {
    revoke: async (token: string) => {
      const result = await revoke(token)
      if (result.outcome === 'revoked') revoked.push(token)
      return result
    },
  }
  const sweeper = (changes: Partial<ExpiryDeps> = {}) => {
    const expiry = createExpiry({
      store,
      noteEnded: session => {
        ended.push(session)
        expiry.soon(session.session.id)
      },
      revoker: createRevoker({ store, provider, audit: () => {}, random: () => 1 }),
      elapsed: clock.now,
      random: () => 1,
      settlingMs: 20_000,
      idleTimeoutMs: lifetimes.idleTimeout * 1000,
      ...changes,
    })
    t.teardown(() => expiry.stop())
    expiry.start()
    return expiry
  }
  const open = async (refresh = 'rt') => {
    const { session } = openSession(identity, { userAgent: '', address: '' }, clock.now())
    await memory.createSession(session, tokensWith(refresh))
    return session.id
  }
  /** Lets the sweeper's own timer come round a few times. */
  const ticks = () => sleep(170)
  return { clock, memory, store, state, sweeper, open, ended, revoked, ticks }
}

test('a session nobody asks for ends within a second of its deadline, not before it, and its token is revoked', async t => {
  const { clock, sweeper, open, ended, revoked, ticks } = setUp(t)
  sweeper()
  clock.advance(1000)
  await ticks()
  const id = await open()
  clock.advance(99_999)
  await ticks()
  t.same(ended, [], 'a millisecond before')
  clock.advance(1000)
  t.ok(await eventually(() => revoked.length === 1))
  t.match(ended, [{ session: { id }, reason: 'idle' }])
})

// A session that goes on from another has less time left than its idle timeout, and nobody looks for it so soon.
test('a session that began with little time left ends in time when the sweeper is told', async t => {
  const { clock, memory, sweeper, ended, ticks } = setUp(t)
  const expiry = sweeper()
  clock.advance(1000)
  await ticks()
  const { session } = openSession(identity, { userAgent: '', address: '' }, clock.now())
  await memory.createSession(session, tokensWith('rt'), 5000)
  expiry.within(session.id, 5000)
  clock.advance(4999)
  await ticks()
  t.same(ended, [])
  clock.advance(1000)
  t.ok(await eventually(() => ended.length === 1))
  t.match(ended, [{ session: { id: session.id }, reason: 'absolute' }])
})

test('of several sweepers one ends a session and one revokes its token', async t => {
  const { clock, sweeper, open, ended, revoked, ticks } = setUp(t)
  for (let count = 0; count < 5; count += 1) sweeper()
  for (let count = 0; count < 20; count += 1) await open(`rt-${count}`)
  clock.advance(101_000)
  t.ok(await eventually(() => revoked.length >= 20))
  await ticks()
  t.same([ended.length, revoked.length, new Set(revoked).size], [20, 20, 20])
})

test('a sweeper that is started after the deadline ends what is due at once', async t => {
  const { clock, sweeper, open, revoked } = setUp(t)
  await open()
  clock.advance(10 * 86_400_000)
  sweeper({ random: () => 0 })
  t.ok(await eventually(() => revoked.length === 1))
})

// Redis comes back after the deadline of a session that was in use on another replica, which has not yet said so.
test('after an outage nothing is swept until the others had time to write what they remember', async t => {
  const { clock, memory, state, sweeper, open, ended, ticks } = setUp(t)
  const expiry = sweeper()
  const [used, idle] = [await open('used'), await open('idle')]
  clock.advance(95_000)
  await ticks()
  state.down = true
  // A visit that fails is how an outage is noticed.
  clock.advance(4000)
  expiry.soon(used)
  await ticks()
  clock.advance(6000)
  state.down = false
  await ticks()
  t.same(ended, [], 'both are overdue as far as the store knows')
  await memory.touchSessions([{ id: used, ageMs: 9000 }])
  clock.advance(19_000)
  await ticks()
  t.same(ended, [])
  clock.advance(2000)
  t.ok(await eventually(() => ended.length === 1))
  t.match(ended, [{ session: { id: idle } }])
})

test('the time to write starts anew with each outage', async t => {
  const { clock, state, sweeper, open, ended, ticks } = setUp(t)
  const expiry = sweeper()
  const id = await open()
  await ticks()
  for (let outage = 0; outage < 3; outage += 1) {
    state.down = true
    expiry.soon(id)
    await ticks()
    clock.advance(101_000)
    state.down = false
    await ticks()
    clock.advance(15_000)
    await ticks()
    t.same(ended, [], `after outage ${outage}`)
  }
  clock.advance(6000)
  t.ok(await eventually(() => ended.length === 1))
})

test('while the store is away it is asked once at a time, not by every part', async t => {
  const { clock, state, sweeper, open, ticks } = setUp(t)
  const expiry = sweeper()
  expiry.soon(await open())
  await ticks()
  state.down = true
  clock.advance(101_000)
  await ticks()
  const { sweeps, claims } = state
  await ticks()
  await ticks()
  t.same([state.sweeps, state.claims], [sweeps, claims], 'only a ping')
})

// A server that hangs gives no answer for two seconds: the bucket of a session that is in use may be back before that.
test('nothing is swept before it is known which parts of the store were away', async t => {
  const { clock, store, state, sweeper, open, ended, ticks } = setUp(t)
  let answer = () => {}
  const ping = () =>
    new Promise<void>(resolve => {
      answer = resolve
    })
  const expiry = sweeper({ store: { ...store, ping } })
  const id = await open()
  state.down = true
  expiry.soon(id)
  await ticks()
  state.down = false
  clock.advance(101_000)
  await ticks()
  t.same(ended, [], 'nor while that is being asked')
  answer()
  await ticks()
  clock.advance(19_000)
  await ticks()
  t.same(ended, [])
  clock.advance(2000)
  t.ok(await eventually(() => ended.length === 1))
})

// In a cluster a shard may be gone for an hour: the sessions of the others are not to live on for that hour.
test('while a part of the store is away the sessions of the others end, and its own once it is back', async t => {
  const { clock, memory, store, sweeper, open, ended, revoked, ticks } = setUp(t)
  const away = { down: true, sweeps: 0 }
  const second = createMemoryStore({ clock, lifetimes })
  const partOf = (bucket: number) => {
    if (bucket === 1 && away.down) throw new StoreUnavailable()
    return bucket === 1 ? second : memory
  }
  const parts = {
    ...store,
    buckets: 2,
    ping: async (bucket: number) => partOf(bucket).ping(),
    sweep: async (bucket: number) => {
      if (bucket === 1) away.sweeps += 1
      return partOf(bucket).sweep(0)
    },
    claimRevocations: async (bucket: number, limit: number) => partOf(bucket).claimRevocations(0, limit),
  }
  sweeper({ store: parts })
  const { session } = openSession(identity, { userAgent: '', address: '' }, clock.now())
  await second.createSession(session, tokensWith('away'))
  const id = await open('here')
  clock.advance(1000)
  await ticks()
  clock.advance(100_000)
  t.ok(await eventually(() => ended.length === 1))
  t.match(ended, [{ session: { id } }])
  clock.advance(1000)
  t.ok(await eventually(() => revoked.includes('here')))
  const { sweeps } = away
  clock.advance(60_000)
  await ticks()
  t.equal(away.sweeps, sweeps, 'it is only asked whether it is back')
  away.down = false
  clock.advance(21_000)
  await ticks()
  clock.advance(19_000)
  await ticks()
  t.equal(ended.length, 1, 'others are given the time to write there, too')
  clock.advance(2000)
  t.ok(await eventually(() => ended.length === 2))
})

// A record that no script can read, say: it must not keep all sessions everywhere from ending.
test('a part of the store that answers and yet cannot be visited holds up no other', async t => {
  const { clock, memory, store, sweeper, open, ended, ticks } = setUp(t)
  const parts = {
    ...store,
    buckets: 2,
    ping: async () => {},
    sweep: async (bucket: number) => {
      if (bucket === 1) throw new StoreUnavailable()
      return memory.sweep(0)
    },
    claimRevocations: async (bucket: number, limit: number) =>
      bucket === 1 ? { found: [], nextInMs: null } : memory.claimRevocations(0, limit),
  }
  sweeper({ store: parts, settlingMs: 5000 })
  for (let opened = 0; opened < 7; opened += 1) {
    await open()
    clock.advance(1000)
  }
  clock.advance(73_000)
  const late: number[] = []
  for (let second = 80; second < 108; second += 1) {
    await ticks()
    // The first is due after 100 seconds, and one in each second after that.
    if (ended.length < Math.min(7, second - 100)) late.push(second)
    clock.advance(1000)
  }
  t.same(late, [], 'it holds them up a time or two, and is let be then')
  t.equal(ended.length, 7)
})

test('revocations do not wait for the settling after an outage', async t => {
  const { clock, memory, state, sweeper, open, revoked, ticks } = setUp(t)
  const expiry = sweeper()
  const id = await open()
  state.down = true
  expiry.soon(id)
  await ticks()
  state.down = false
  await ticks()
  await memory.endSession(id, 'logout')
  expiry.soon(id)
  clock.advance(300)
  t.ok(await eventually(() => revoked.length === 1))
})

test('what is put into the outbox while it is being visited is not left for the next round', async t => {
  const { memory, store, sweeper, open, revoked, ticks } = setUp(t)
  const ids = [await open('first'), await open('second')] as const
  let late = false
  const expiry = sweeper({
    store: {
      ...store,
      async claimRevocations(bucket: number, limit: number) {
        const visit = await store.claimRevocations(bucket, limit)
        if (!late && visit.found.length > 0) {
          late = true
          await memory.endSession(ids[1], 'logout')
          expiry.soon(ids[1])
        }
        return visit
      },
    },
  })
  await ticks()
  await memory.endSession(ids[0], 'logout')
  expiry.soon(ids[0])
  t.ok(await eventually(() => revoked.length === 2, 10_000), 'with the clock standing still')
})

// Many buckets are visited in one go when a site's sessions end together; the provider must not feel that.
test('a burst of ends in all parts of the store does not call the provider more often than is allowed', async t => {
  const { clock, memory, sweeper } = setUp(t)
  const revoked: string[] = []
  let [underWay, most] = [0, 0]
  const provider = {
    async revoke(token: string): Promise<Revocation> {
      underWay += 1
      most = Math.max(most, underWay)
      await sleep(5)
      underWay -= 1
      revoked.push(token)
      return { outcome: 'revoked' }
    },
  }
  const parts = Array.from({ length: 256 }, () => createMemoryStore({ clock, lifetimes }))
  const part = (bucket: number) => parts[bucket] ?? memory
  const bucketOf = (id: string) => Number(id.split('-')[0])
  for (const bucket of parts.keys())
    for (const name of ['a', 'b'])
      await part(bucket).queueRevocation(`${bucket}-${name}`, `token-${bucket}-${name}`, { reason: 'login_failed' })
  const store: ExpiryDeps['store'] & Pick<Store, 'settleRevocation'> = {
    ...memory,
    buckets: 256,
    bucketOf,
    async sweep(bucket) {
      await sleep(1)
      return part(bucket).sweep(0)
    },
    async claimRevocations(bucket, limit) {
      await sleep(1)
      return part(bucket).claimRevocations(0, limit)
    },
    settleRevocation: (id, retryInMs) => part(bucketOf(id)).settleRevocation(id, retryInMs),
  }
  const revoker = createRevoker({ store, provider, audit: () => {}, random: () => 1 })
  sweeper({ store, revoker, random: () => 0 })
  const moving = setInterval(() => clock.advance(50), 10)
  t.teardown(() => clearInterval(moving))
  t.ok(await eventually(() => revoked.length >= 512, 20_000), `${revoked.length} of 512 revoked`)
  t.equal(new Set(revoked).size, 512)
  t.ok(most <= 16, `${most} calls at a time`)
})

// A provider that hangs must neither stop sessions from ending nor be paid for in endless visits.
test('sessions end on time while all calls to the provider hang', async t => {
  const { clock, memory, sweeper, open, ended } = setUp(t)
  sweeper({ revoker: hanging() })
  for (let count = 0; count < 20; count += 1)
    await memory.queueRevocation(`old-${count}`, 'old', { reason: 'login_failed' })
  clock.advance(500)
  await sleep(100)
  await open()
  clock.advance(101_000)
  t.ok(await eventually(() => ended.length === 1))
})

function hanging() {
  let taken = 0
  return {
    free: () => 16 - taken,
    take: () => {
      taken += 1
      return new Promise<never>(() => {})
    },
    idle: async () => {},
  }
}

// A hundred thousand people go home at the same time: their tokens must not stay valid for as long as a queue takes its time.
test('a long queue is worked off without pauses, some entries at a time', async t => {
  let [underWay, most] = [0, 0]
  const { clock, memory, sweeper, revoked, state } = setUp(t, async () => {
    underWay += 1
    most = Math.max(most, underWay)
    await sleep(1)
    underWay -= 1
    return { outcome: 'revoked' }
  })
  for (let count = 0; count < 1000; count += 1)
    await memory.queueRevocation(`id-${count}`, `token-${count}`, { reason: 'idle' })
  sweeper()
  clock.advance(500)
  t.ok(await eventually(() => revoked.length === 1000), 'though no time passes in which a visit would be due')
  t.equal(new Set(revoked).size, 1000, 'each once')
  t.ok(most <= 16, `${most} at a time`)
  t.ok(state.claims <= 200, `the store was asked ${state.claims} times`)
})

test('a retry comes when it is due, not when the claim before it would have run out', async t => {
  let up = false
  const { clock, memory, sweeper, revoked, ticks } = setUp(t, async () => ({
    outcome: up ? 'revoked' : 'failed',
    retryAfter: undefined,
  }))
  const expiry = sweeper()
  await memory.queueRevocation('id', 'token', { reason: 'login_failed' })
  expiry.soon('id')
  await ticks()
  up = true
  clock.advance(900)
  await ticks()
  t.same(revoked, [], 'a second has not passed')
  clock.advance(600)
  t.ok(await eventually(() => revoked.length === 1))
})

// A replica is killed after it has taken an entry and before it has revoked it.
test('what a dead replica had claimed is revoked by another when the claim is over', async t => {
  const { clock, memory, sweeper, revoked, ticks } = setUp(t)
  await memory.queueRevocation('id', 'token', { reason: 'login_failed' })
  await memory.claimRevocations(0, 16)
  sweeper()
  clock.advance(leaseMs - 1000)
  await ticks()
  t.same(revoked, [])
  clock.advance(1500)
  t.ok(await eventually(() => revoked.length === 1))
})

test('stopping waits for what is under way, and starts nothing more', async t => {
  let release = () => {}
  const held = new Promise<void>(resolve => {
    release = resolve
  })
  const { clock, sweeper, open, revoked, state, ticks } = setUp(t, async () => {
    await held
    return { outcome: 'revoked' }
  })
  const expiry = sweeper({ random: () => 0 })
  await open()
  clock.advance(101_000)
  t.ok(await eventually(() => state.claims > 0))
  await ticks()
  let stopped = false
  const stopping = expiry.stop().then(() => {
    stopped = true
  })
  await ticks()
  t.equal(stopped, false, 'a call to the provider is under way')
  release()
  await stopping
  t.equal(revoked.length, 1)
  const { sweeps } = state
  clock.advance(101_000)
  await ticks()
  t.equal(state.sweeps, sweeps)
})
