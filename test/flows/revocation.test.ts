import { test } from 'tap'
import { StoreUnavailable } from '../../src/core/errors.ts'
import type { AuditEvent } from '../../src/core/events.ts'
import { createRevoker, createRevokeToken } from '../../src/flows/revocation.ts'
import type { Revocation } from '../../src/oidc/provider.ts'
import { createMemoryStore } from '../../src/store/memory.ts'
import { leaseMs } from '../../src/store/store.ts'
import { createClock } from '../support/clock.ts'

const failed = (retryAfter?: number): Revocation => ({ outcome: 'failed', retryAfter })

function setUp(answer: (token: string) => Revocation | Promise<Revocation>) {
  const clock = createClock()
  const store = createMemoryStore({ clock, lifetimes: { idleTimeout: 60, absoluteTimeout: 600 } })
  const calls: { token: string; at: number }[] = []
  const events: AuditEvent[] = []
  const startedAt = clock.now()
  const provider = {
    async revoke(token: string) {
      calls.push({ token, at: clock.now() - startedAt })
      return answer(token)
    },
  }
  const audit = (event: AuditEvent) => void events.push(event)
  const revoker = createRevoker({ store, provider, audit, random: () => 1 })
  /** Does what is due now, and tells when to come again. */
  const round = async () => {
    const { found, nextInMs } = await store.claimRevocations(0, revoker.free())
    for (const entry of found) revoker.take(entry)
    await revoker.idle()
    return { found, nextInMs: (await store.claimRevocations(0, 0)).nextInMs ?? nextInMs }
  }
  const outcomes = () => events.map(event => (event.event === 'revocation' ? event.outcome : event.event))
  return { clock, store, provider, audit, calls, events, revoker, round, outcomes }
}

test('a token that the provider takes is revoked once and forgotten', async t => {
  const { store, calls, events, round } = setUp(() => ({ outcome: 'revoked' }))
  await store.queueRevocation('id', 'token', { reason: 'login_failed' })
  await round()
  t.same(await round(), { found: [], nextInMs: null })
  t.same(calls, [{ token: 'token', at: 0 }])
  t.match(events, [{ event: 'revocation', outcome: 'revoked', attempts: 1, reason: 'login_failed' }])
  t.notMatch(JSON.stringify(events), /"id"|"token"/, 'the record names the session by handle')
})

test('a provider that cannot revoke is told so once, and not asked again', async t => {
  const { clock, store, calls, outcomes, round } = setUp(() => ({ outcome: 'not_supported' }))
  await store.queueRevocation('id', 'token', { reason: 'login_failed' })
  await round()
  clock.advance(86_400_000)
  await round()
  t.same([calls.length, outcomes()], [1, ['not_supported']])
})

test('tries are spaced by a backoff that doubles up to five minutes', async t => {
  const { clock, store, calls, outcomes, round } = setUp(() => failed())
  await store.queueRevocation('id', 'token', { reason: 'login_failed' })
  for (let tries = 0; tries < 12; tries += 1) clock.advance((await round()).nextInMs ?? 0)
  const waits = calls.slice(1).map(({ at }, index) => (at - (calls[index]?.at ?? 0)) / 1000)
  t.same(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300])
  t.same(outcomes(), ['pending'], 'said once, not with every try')
})

test('jitter at most halves a wait', async t => {
  const { clock, store, provider, audit } = setUp(() => failed())
  const revoker = createRevoker({ store, provider, audit, random: () => 0 })
  await store.queueRevocation('id', 'token', { reason: 'login_failed' })
  for (const entry of (await store.claimRevocations(0, 1)).found) revoker.take(entry)
  await revoker.idle()
  t.equal((await store.claimRevocations(0, 1)).nextInMs, 500)
  clock.advance(500)
  t.equal((await store.claimRevocations(0, 1)).found.length, 1)
})

test('a provider that names a time is left alone until then', async t => {
  const { clock, store, calls, round } = setUp(() => failed(120))
  await store.queueRevocation('id', 'token', { reason: 'login_failed' })
  t.equal((await round()).nextInMs, 120_000)
  clock.advance(119_999)
  await round()
  t.equal(calls.length, 1)
  clock.advance(1)
  await round()
  t.equal(calls.length, 2)
})

// A provider that was switched off for good must not be called until the end of days, nor may anybody believe that the
// tokens were revoked.
test('a token that could not be revoked for a day is given up, with a record that says so', async t => {
  const { clock, store, calls, outcomes, round } = setUp(() => failed())
  await store.queueRevocation('id', 'token', { reason: 'login_failed' })
  let last = 0
  for (let tries = 0; tries < 1000; tries += 1) {
    const { nextInMs } = await round()
    if (nextInMs === null) break
    last = nextInMs
    clock.advance(nextInMs)
  }
  t.same(outcomes(), ['pending', 'gave_up'])
  const hours = (calls.at(-1)?.at ?? 0) / 3_600_000
  t.ok(hours >= 24 && hours < 24.1, `the last try came after ${hours} hours`)
  t.ok(calls.length < 310, `${calls.length} tries in a day`)
  t.ok(last <= 300_000)
})

test('a late success is recorded as one, whatever was said before', async t => {
  let up = false
  const { clock, store, outcomes, round } = setUp(() => (up ? { outcome: 'revoked' } : failed()))
  await store.queueRevocation('id', 'token', { reason: 'login_failed' })
  for (let tries = 0; tries < 20; tries += 1) clock.advance((await round()).nextInMs ?? 0)
  up = true
  await round()
  t.same(outcomes(), ['pending', 'revoked'])
})

// A new key comes to one replica after the other.
test('what one replica cannot open is left to others for a day', async t => {
  const { calls, provider, audit, outcomes } = setUp(() => ({ outcome: 'revoked' }))
  const settled: (number | null)[] = []
  const revoker = createRevoker({
    store: { settleRevocation: async (_id, retryInMs) => void settled.push(retryInMs) },
    provider,
    audit,
    random: () => 1,
  })
  revoker.take({ id: 'id', token: null, reason: 'idle', attempts: 1, queuedForMs: 5 })
  await revoker.idle()
  t.same([calls.length, outcomes(), settled], [0, ['pending'], [1000]])
  revoker.take({ id: 'id', token: null, reason: 'idle', attempts: 300, queuedForMs: 86_400_000 })
  await revoker.idle()
  t.same([calls.length, outcomes(), settled], [0, ['pending', 'gave_up'], [1000, null]])
})

// The provider has revoked, and Redis dies before that can be written down.
test('what could not be settled is tried again when its claim is over', async t => {
  const { clock, store, calls, provider, audit } = setUp(() => ({ outcome: 'revoked' }))
  const broken = {
    settleRevocation: async () => {
      throw new StoreUnavailable()
    },
  }
  await store.queueRevocation('id', 'token', { reason: 'login_failed' })
  const unlucky = createRevoker({ store: broken, provider, audit, random: () => 1 })
  for (const entry of (await store.claimRevocations(0, 9)).found) unlucky.take(entry)
  await t.resolves(unlucky.idle())
  clock.advance(leaseMs)
  const heir = createRevoker({ store, provider, audit, random: () => 1 })
  for (const entry of (await store.claimRevocations(0, 9)).found) heir.take(entry)
  await heir.idle()
  t.same(
    calls.map(call => call.token),
    ['token', 'token'],
  )
  t.equal((await store.claimRevocations(0, 9)).nextInMs, null)
})

test('one process calls the provider for sixteen tokens at a time', async t => {
  let release = () => {}
  const held = new Promise<void>(resolve => {
    release = resolve
  })
  const { store, revoker, calls } = setUp(async () => {
    await held
    return { outcome: 'revoked' }
  })
  for (let count = 0; count < 20; count += 1)
    await store.queueRevocation(`id-${count}`, `token-${count}`, { reason: 'login_failed' })
  t.equal(revoker.free(), 16)
  for (const entry of (await store.claimRevocations(0, revoker.free())).found) revoker.take(entry)
  t.equal(revoker.free(), 0)
  t.equal(calls.length, 16)
  release()
  await revoker.idle()
  t.equal(revoker.free(), 16)
})

test('a token of no session is queued, and the outbox visited at once', async t => {
  const { store, provider, audit, calls } = setUp(() => ({ outcome: 'revoked' }))
  const visited: string[] = []
  createRevokeToken({ store, provider, audit, revokeSoon: id => void visited.push(id) })('token', 'login_failed')
  await new Promise(setImmediate)
  const { found } = await store.claimRevocations(0, 9)
  t.match(found, [{ id: visited[0], token: 'token', reason: 'login_failed' }])
  t.equal(calls.length, 0)
})

// A login fails because Redis is away: its tokens are valid, and nothing can remember to revoke them.
test('a token that cannot be queued is revoked on the spot, and it is said what came of it', async t => {
  for (const [answer, outcome] of [
    [{ outcome: 'revoked' }, 'revoked'],
    [{ outcome: 'not_supported' }, 'not_supported'],
    [failed(), 'pending'],
  ] as const) {
    const { provider, audit, calls, events } = setUp(() => answer)
    const store = {
      queueRevocation: async () => {
        throw new StoreUnavailable()
      },
    }
    createRevokeToken({ store, provider, audit, revokeSoon: () => t.fail('nothing is queued') })(
      'token',
      'login_failed',
    )
    await new Promise(setImmediate)
    t.equal(calls.length, 1)
    t.match(events, [{ event: 'revocation', reason: 'login_failed', outcome }])
  }
})

// A session that goes on may hang on the same grant.
test('a token that has to wait is not revoked sooner for want of a queue', async t => {
  const { provider, audit, calls, events } = setUp(() => ({ outcome: 'revoked' }))
  const tries: number[] = []
  const store = {
    async queueRevocation(_id: string, _token: string, { dueInMs = 0 }: { dueInMs?: number }) {
      tries.push(dueInMs)
      if (tries.length === 1) throw new StoreUnavailable()
    },
  }
  const queued = new Promise<string>(revokeSoon =>
    createRevokeToken({ store, provider, audit, revokeSoon })('token', 'login_failed', 60_000),
  )
  const alive = setInterval(() => {}, 100)
  await queued
  clearInterval(alive)
  t.same(tries, [60_000, 59_000], 'it waits from the beginning')
  t.equal(calls.length, 0)
  t.match(events, [{ outcome: 'pending' }])
})

test('a token for which nobody is there yet is not forgotten: it is queued as soon as that can be done', async t => {
  const { provider, audit, events } = setUp(() => failed())
  let tries = 0
  const store = {
    async queueRevocation() {
      tries += 1
      if (tries === 1) throw new StoreUnavailable()
    },
  }
  const queued = new Promise<string>(revokeSoon =>
    createRevokeToken({ store, provider, audit, revokeSoon })('token', 'login_failed'),
  )
  // The wait in between does not keep a process alive, so something else has to.
  const alive = setInterval(() => {}, 100)
  t.ok(await queued)
  clearInterval(alive)
  t.equal(tries, 2)
  t.match(events, [{ outcome: 'pending' }])
})
