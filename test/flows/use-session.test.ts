import { test } from 'tap'
import { StoreUnavailable } from '../../src/core/errors.ts'
import { openSession, type StoredSession } from '../../src/core/session.ts'
import type { NoteEnded } from '../../src/flows/end-session.ts'
import { createSessionUse } from '../../src/flows/use-session.ts'
import { createMemoryStore } from '../../src/store/memory.ts'
import type { EndedSession, SessionStore } from '../../src/store/store.ts'
import { createClock } from '../support/clock.ts'
import { identity, tokensWith } from '../support/samples.ts'

/** A store whose calls are counted, and fail while it is down; two replicas may share it. */
async function setUp(lifetimes = { idleTimeout: 100, absoluteTimeout: 100_000 }) {
  const clock = createClock()
  const memory = createMemoryStore({ clock, lifetimes })
  const calls = { touchSessions: 0, reads: 0 }
  const state: { down: boolean; atHand: StoredSession | null } = { down: false, atHand: null }
  const guarded =
    <A extends unknown[], R>(call: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      if (state.down) throw new StoreUnavailable()
      return call(...args)
    }
  const store: Pick<SessionStore, 'sessionAtHand' | 'getSession' | 'touchSessions'> = {
    sessionAtHand: () => state.atHand,
    getSession: guarded((id, touch) => {
      calls.reads += 1
      return memory.getSession(id, touch)
    }),
    touchSessions: guarded(activities => {
      calls.touchSessions += 1
      return memory.touchSessions(activities)
    }),
  }
  const ended: EndedSession[] = []
  const noteEnded: NoteEnded = session => void ended.push(session)
  const replica = () => createSessionUse({ store, noteEnded, elapsed: clock.now, lifetimes })
  const { session } = openSession(identity, { userAgent: '', address: '' }, clock.now())
  await memory.createSession(session, tokensWith('rt'))
  const leftMs = async () => {
    const { found } = await memory.getSession(session.id, { active: false, pendingAgeMs: null })
    return found?.state === 'live' ? found.stored.idleExpiresInMs : null
  }
  return { clock, memory, replica, state, calls, ended, id: session.id, leftMs }
}

const active = { active: true }

test('activity is written at once when the last writing is a while ago, and otherwise with the next flush', async t => {
  const { clock, replica, calls, id, leftMs } = await setUp()
  const use = replica()
  clock.advance(5000)
  await use.use(id, active)
  t.equal(await leftMs(), 100_000, 'the interval is over: written with the read')
  clock.advance(3000)
  await use.use(id, active)
  t.equal(await leftMs(), 97_000, 'within the interval: remembered')
  clock.advance(1000)
  await use.flush()
  t.equal(await leftMs(), 99_000, 'told with its age')
  await use.flush()
  t.equal(calls.touchSessions, 1, 'there is nothing to tell a second time')
})

test('a use of what is at hand asks nothing, is not lost, and makes way for a read when it is late', async t => {
  const { clock, replica, state, calls, id, leftMs } = await setUp()
  const use = replica()
  t.equal(use.atHand(id, active), null)
  const found = await use.use(id, { active: false })
  state.atHand = found?.state === 'live' ? found.stored : null
  clock.advance(3000)
  t.equal(use.atHand(id, active), state.atHand)
  clock.advance(1000)
  t.equal(use.atHand(id, { active: false }), state.atHand)
  await use.flush()
  t.equal(await leftMs(), 99_000, 'the first was the last activity')
  t.ok(use.atHand(id, active))
  clock.advance(5000)
  t.equal(use.atHand(id, active), null, 'a deadline may hang on what is not yet told')
  t.equal(calls.reads, 1)
  await use.use(id, active)
  t.equal(await leftMs(), 100_000)
})

// The click that got a 503 was one all the same, and its user clicks again at once.
test('activity while the store was away is told before anything is asked of it', async t => {
  const { clock, replica, state, id, leftMs } = await setUp()
  const use = replica()
  clock.advance(99_000)
  state.down = true
  await t.rejects(use.use(id, active), StoreUnavailable)
  state.down = false
  clock.advance(2000)
  t.equal(use.atHand(id, { active: false }), null)
  t.match(await use.use(id, { active: false }), { state: 'live' })
  t.equal(await leftMs(), 98_000, 'from the click on')
})

test('a busy session costs a write or two an interval, however many requests it has', async t => {
  const { clock, replica, calls, id, leftMs } = await setUp()
  const use = replica()
  let [writes, left] = [0, await leftMs()]
  for (let request = 0; request < 1000; request += 1) {
    clock.advance(50)
    await use.use(id, active)
    if (request % 100 === 99) await use.flush()
    const now = await leftMs()
    if (now !== Number(left) - 50) writes += 1
    left = now
  }
  t.equal(calls.reads, 1000)
  t.ok(writes >= 10 && writes <= 20, `the deadline was written ${writes} times in 50 s`)
})

test('a look between an activity and its flush does not lose the activity', async t => {
  const { clock, replica, id, leftMs } = await setUp()
  const use = replica()
  clock.advance(3000)
  await use.use(id, active)
  clock.advance(500)
  await use.use(id, { active: false })
  await use.flush()
  t.equal(await leftMs(), 99_500)
})

test('looking is not activity, whatever comes of it', async t => {
  const { clock, replica, calls, id, leftMs } = await setUp()
  const use = replica()
  for (let look = 0; look < 10; look += 1) {
    clock.advance(9000)
    await use.use(id, { active: false })
  }
  await use.flush()
  t.equal(await leftMs(), 10_000)
  t.equal(calls.touchSessions, 0)
})

test('what a flush could not write is kept, and told later with its true age', async t => {
  const { clock, replica, state, id, leftMs } = await setUp()
  const use = replica()
  clock.advance(1000)
  await use.use(id, active)
  state.down = true
  for (let second = 0; second < 30; second += 1) {
    clock.advance(1000)
    await use.flush()
  }
  state.down = false
  await use.flush()
  t.equal(await leftMs(), 70_000)
})

test('a flush that fails does not put an older activity in the place of a newer one', async t => {
  const { clock, replica, state, id, leftMs } = await setUp()
  const use = replica()
  clock.advance(1000)
  await use.use(id, active)
  clock.advance(1000)
  state.down = true
  const flushing = use.flush()
  state.down = false
  await use.use(id, active)
  await flushing
  clock.advance(500)
  await use.flush()
  t.equal(await leftMs(), 99_500)
})

// Redis is away just when the old deadline passes; the session was used a moment before, on this replica.
test('activity from before an outage counts although the written deadline passed during it', async t => {
  const { clock, replica, state, id, leftMs, ended } = await setUp()
  const [near, far] = [replica(), replica()]
  clock.advance(4000)
  await near.use(id, active)
  state.down = true
  clock.advance(97_000)
  await near.flush()
  state.down = false
  await near.flush()
  t.equal(await leftMs(), 3000, 'the deadline counts from the activity')
  t.equal((await far.use(id, active))?.state, 'live')
  t.same(ended, [])
})

// The user comes back in time, and is answered 503 since Redis is away: to say afterwards that nobody was there would be
// to log out a user for a fault of Redis.
test('a user who was there during an outage is not logged out after it', async t => {
  const { clock, replica, state, id, leftMs, ended } = await setUp()
  const use = replica()
  clock.advance(99_000)
  state.down = true
  await t.rejects(use.use(id, active), StoreUnavailable)
  clock.advance(20_000)
  state.down = false
  await use.flush()
  t.equal(await leftMs(), 80_000)
  t.equal((await use.use(id, active))?.state, 'live')
  t.same(ended, [])
})

test('a user who goes on trying through an outage longer than the idle timeout is still there after it', async t => {
  const { clock, replica, state, id, ended } = await setUp()
  const use = replica()
  clock.advance(4000)
  await use.use(id, active)
  state.down = true
  for (let second = 0; second < 300; second += 10) {
    clock.advance(10_000)
    await t.rejects(use.use(id, active), StoreUnavailable)
    await use.flush()
  }
  state.down = false
  t.equal((await use.use(id, active))?.state, 'live', 'read before any flush')
  await use.flush()
  t.same(ended, [])
})

test('what comes during an outage after the deadline revives nothing', async t => {
  const { clock, replica, state, id, ended } = await setUp()
  const use = replica()
  state.down = true
  await t.rejects(use.use(id, { active: false }), StoreUnavailable)
  clock.advance(101_000)
  await t.rejects(use.use(id, active), StoreUnavailable)
  state.down = false
  await use.flush()
  t.match(await use.use(id, active), { state: 'ended', reason: 'idle' })
  t.match(ended, [{ session: { id }, reason: 'idle' }])
})

// During an outage anybody may send made-up cookies, and nobody can say that they are: they must not pile up.
test('cookies that name nothing are forgotten when the store is back', async t => {
  const { replica, state, calls } = await setUp()
  const use = replica()
  state.down = true
  for (let made = 0; made < 1000; made += 1) await t.rejects(use.use(`made-up-${made}`, active), StoreUnavailable)
  state.down = false
  await use.flush()
  t.ok(calls.touchSessions <= 1)
  await use.flush()
  t.ok(calls.touchSessions <= 1, 'nothing is left to tell')
})

test('a session that ends is told once, by whoever found it', async t => {
  const { clock, replica, ended, id } = await setUp()
  const [one, other] = [replica(), replica()]
  clock.advance(100_000)
  const found = await Promise.all([one.use(id, active), other.use(id, active), one.use(id, active)])
  t.same(
    found.map(lookup => lookup?.state),
    ['ended', 'ended', 'ended'],
  )
  t.equal(ended.length, 1)
})
