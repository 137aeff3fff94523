import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import { NotAuthenticated, ProviderUnavailable, StoreUnavailable, TokenRefused } from '../../src/core/errors.ts'
import type { AuditEvent } from '../../src/core/events.ts'
import { type Identity, openSession, type StoredSession } from '../../src/core/session.ts'
import { createAccessTokens } from '../../src/flows/access-token.ts'
import { createBreaker } from '../../src/flows/breaker.ts'
import { createRefreshing } from '../../src/flows/refresh.ts'
import { createRenew } from '../../src/flows/renew.ts'
import type { Audience, Refresh } from '../../src/oidc/refresh.ts'
import { createMemoryStore } from '../../src/store/memory.ts'
import { loginSlot, refreshLeaseMs, type Store } from '../../src/store/store.ts'
import { createClock } from '../support/clock.ts'
import { eventually } from '../support/eventually.ts'
import { identity } from '../support/samples.ts'

const audience = { slot: loginSlot, upstream: 'api', scope: undefined, resource: undefined }
const lifetimes = { idleTimeout: 1000, absoluteTimeout: 2000 }

/** What the provider says to a refresh token; a text is the new one. */
type Answers = (token: string, call: number, audience: Audience) => Promise<string | Refresh>

/** Replicas that share a store, and a provider that answers each refresh token as told. */
async function setUp(answer: Answers, refresh: string | undefined = 'rt0') {
  const clock = createClock()
  const memory = createMemoryStore({ clock, lifetimes })
  const open = async (subject: string, lifetimeMs = 0) => {
    const { session } = openSession({ ...identity, subject }, { userAgent: '', address: '' }, clock.now())
    const [refreshAt, expiresAt] = [clock.now(), clock.now() + lifetimeMs]
    await memory.createSession(session, { access: { value: 'at0', expiresAt, refreshAt, scope: undefined }, refresh })
    return session.id
  }
  const id = await open('alice')
  const presented: string[] = []
  const revoked: unknown[] = []
  const events: AuditEvent[] = []
  const provider = {
    async refresh(token: string, _: Identity, asked: Audience): Promise<Refresh> {
      presented.push(token)
      const answered = await answer(token, presented.length, asked)
      if (typeof answered !== 'string') return answered
      const refreshToken = answered
      const tokens = { accessToken: `at of ${refreshToken}`, expiresIn: 300, refreshToken, scope: undefined }
      return { outcome: 'refreshed', tokens, claims: null }
    },
    renewedClaims: () => ({}),
  }
  const replica = (store: Store = memory) => {
    const renew = createRenew({
      reusable: false,
      store,
      provider,
      breaker: createBreaker({ elapsed: clock.now, random: () => 0 }),
      endSession: store.endSession,
      revokeToken: (token, reason) => void revoked.push([token, reason]),
      revokeSoon: () => {},
      audit: event => void events.push(event),
      clock,
      random: () => 0,
    })
    // Only the store's time is turned on: nobody has waited for long.
    return createRefreshing({ store, renew, clock, elapsed: () => performance.now() })
  }
  const read = async (slot = loginSlot, of = id): Promise<StoredSession> => {
    const { found } = await memory.getSession(of, { slot, active: false, pendingAgeMs: null })
    if (found?.state !== 'live') throw new Error('the session is gone')
    return found.stored
  }
  return { clock, memory, replica, read, open, presented, revoked, events }
}

const unforced = { forced: false }
const lost = () => new ProviderUnavailable({ ambiguous: true })
const unusable: Refresh = { outcome: 'unusable', refreshToken: 'rt1', detail: undefined, advice: {} }
const orders = { slot: 'orders', upstream: 'orders', scope: 'orders', resource: undefined }
/** So long may it take a replica to find the store again after an outage. */
const reconnectMs = 2200

// The holder's process stood still for longer than its lease, and a second one has stored a newer token meanwhile. What
// the first one brings may be alive at the provider: forgotten, it would stay so for weeks; revoked at once, it may take
// the session's own token with it.
test('a refresh token that comes too late is revoked when the session is over, and not before', async t => {
  let release = () => {}
  const held = new Promise<void>(resolve => {
    release = resolve
  })
  const { clock, memory, replica, read, events } = await setUp(async (token, call) => {
    if (call === 1) await held
    return `${token}-${call}`
  })
  const stored = await read()
  const late = replica({ ...memory, renewRefresh: async () => {} }).refreshTokens(stored, audience, { forced: false })
  await sleep(5)
  clock.advance(refreshLeaseMs + 1)
  const second = await replica().refreshTokens(stored, audience, { forced: false })
  t.equal(second?.value, 'at of rt0-2')
  release()
  t.equal((await late)?.value, 'at of rt0-2', 'the late one goes on with what the other has stored')
  t.equal(events.filter(({ event }) => event === 'tokens_refreshed').length, 1)
  t.same((await memory.claimRevocations(0, 10)).found, [])
  clock.advance(lifetimes.absoluteTimeout * 1000)
  await memory.sweep(0)
  const queued = (await memory.claimRevocations(0, 10)).found.map(({ token, reason }) => [reason, token]).sort()
  t.same(queued, [
    ['absolute', 'rt0-2'],
    ['superseded', 'rt0-1'],
  ])
})

// The store gives the lease, and the word of it is lost: to everybody else the session is being refreshed.
test('a lease of which the store could not tell is given back', async t => {
  const { memory, replica, read, presented } = await setUp(async () => 'rt1')
  const stored = await read()
  let lost = 0
  const deaf: Store = {
    ...memory,
    async beginRefresh(...wish) {
      lost += 1
      await memory.beginRefresh(...wish)
      throw new StoreUnavailable()
    },
    async abandonRefresh(...args) {
      lost += 1
      if (lost < 4) throw new StoreUnavailable()
      return memory.abandonRefresh(...args)
    },
  }
  await t.rejects(replica(deaf).refreshTokens(stored, audience, { forced: false }), StoreUnavailable)
  t.match(
    await memory.beginRefresh(stored.session.id, { slot: loginSlot, owner: 'x', version: 0, forced: false }),
    { state: 'held' },
    'at first it stands in the way',
  )
  t.ok(await eventually(() => lost === 4))
  t.equal((await replica().refreshTokens(stored, audience, { forced: false }))?.value, 'at of rt1')
  t.same(presented, ['rt0'])
})

// An outage of the store outlasts a lease. A replica that finds the store again earlier takes over from one that still
// holds the answer to the old token: were that presented again now, the provider would think of a thief.
test('whoever takes over waits until the earlier holder has found the store again, and leaves no lease behind', async t => {
  const { clock, memory, replica, read, presented, events } = await setUp(async (_, call) => `rt${call}`)
  const stored = await read()
  let back = false
  let tried = 0
  const away: Store = {
    ...memory,
    renewRefresh: async () => {},
    async saveRefresh(...args) {
      tried += 1
      if (!back) throw new StoreUnavailable()
      return memory.saveRefresh(...args)
    },
  }
  const first = replica(away).refreshTokens(stored, audience, unforced)
  t.ok(await eventually(() => tried > 0))
  clock.advance(refreshLeaseMs)
  setTimeout(() => {
    back = true
  }, reconnectMs)
  const second = await replica().refreshTokens(stored, audience, unforced)
  t.same([second?.value, (await first)?.value], ['at of rt1', 'at of rt1'])
  t.same(presented, ['rt0'])
  const other = { slot: orders.slot, owner: 'another', version: 1, forced: false }
  t.match(await memory.beginRefresh(stored.session.id, other), { state: 'granted', interrupted: false })
  t.equal(events.length, 1)
})

// The provider hangs for as long as a lease lasts, and this replica could not renew it: another one has refreshed.
test('a token is presented a second time only while the lease is ours', async t => {
  const { clock, memory, replica, read, presented } = await setUp(async (token, call) => {
    if (call > 1) return `${token}-${call}`
    clock.advance(refreshLeaseMs)
    const wish = { slot: loginSlot, owner: 'another', version: 0, forced: false }
    t.match(await memory.beginRefresh((await read()).session.id, wish), { state: 'granted' })
    const access = {
      value: 'theirs',
      expiresAt: clock.now() + 60_000,
      refreshAt: clock.now() + 30_000,
      scope: undefined,
    }
    const renewal = { slot: loginSlot, access, refresh: 'rt9', session: undefined }
    t.equal(await memory.saveRefresh((await read()).session.id, 'another', 0, renewal), 'saved')
    throw lost()
  })
  const renewed = await replica().refreshTokens(await read(), audience, unforced)
  t.equal(renewed?.value, 'theirs')
  t.same(presented, ['rt0'])
})

// The store came back after the new token's end. Whoever waited for it would send an upstream what is over.
test('a token that is over when it is stored at last is used by nobody', async t => {
  const { clock, memory, replica, read, presented } = await setUp(async (_, call) => `rt${call}`)
  let failures = 2
  const away: Store = {
    ...memory,
    async saveRefresh(...args) {
      failures -= 1
      if (failures === 0) clock.advance(300_000)
      if (failures >= 0) throw new StoreUnavailable()
      return memory.saveRefresh(...args)
    },
  }
  t.equal((await replica(away).refreshTokens(await read(), audience, unforced))?.value, 'at of rt2')
  t.same(presented, ['rt0', 'rt1'])
})

// The provider takes 8 seconds to answer, and its token lives from the first of them.
test('a token is as old as the question for it', async t => {
  const { clock, replica, read } = await setUp(async () => {
    clock.advance(8000)
    return 'rt1'
  })
  const askedAt = clock.now()
  const renewed = await replica().refreshTokens(await read(), audience, unforced)
  t.equal(renewed?.expiresAt, askedAt + 295_000)
})

// One upstream's token must not become another's, whatever the provider says to the confirmation with the login's own.
test('a confirmation that brings nothing of use leaves the other tokens where they are', async t => {
  const { clock, memory, replica, read } = await setUp(async (_, call, { scope }) => {
    if (scope === undefined) return unusable
    return call === 1 ? 'rt1' : { outcome: 'dead', detail: undefined, advice: {} }
  })
  await replica().refreshTokens(await read(orders.slot), orders, unforced)
  clock.advance(270_000)
  await t.rejects(replica().refreshTokens(await read(orders.slot), orders, unforced), TokenRefused)
  t.equal((await read()).accessToken?.value, 'at0', "the login's own")
  t.equal((await read(orders.slot)).accessToken?.value, 'at of rt1')
  const { session, version } = await read()
  const wish = { slot: loginSlot, owner: 'next', version, forced: false }
  t.match(await memory.beginRefresh(session.id, wish), { state: 'granted', refreshToken: 'rt1' }, 'the new one is kept')
})

test('a refresh token out of an answer of no use is not lost either when it comes too late', async t => {
  const { clock, memory, replica, read } = await setUp(async (_, call) => {
    if (call > 1) return 'rt7'
    const { session } = await read()
    const renewal = { slot: loginSlot, access: null, refresh: 'rt5', session: undefined }
    t.equal(await memory.saveRefresh(session.id, 'another', 0, renewal), 'saved')
    return unusable
  })
  t.equal((await replica().refreshTokens(await read(), audience, unforced))?.value, 'at of rt7')
  clock.advance(lifetimes.absoluteTimeout * 1000)
  t.match(await memory.claimRevocations(0, 10), { found: [{ token: 'rt1', reason: 'superseded' }] })
})

// Somebody else's identity came with a new refresh token, and the store is away: the old one is replaced all the same.
test('a session that must end ends as soon as the store takes it, and its token is not presented meanwhile', async t => {
  const { memory, replica, read, presented, revoked } = await setUp(async () => {
    const tokens = { accessToken: 'theirs', expiresIn: 300, refreshToken: 'rt1', scope: undefined }
    return { outcome: 'impostor', tokens, detail: undefined, advice: {} }
  })
  let failures = 3
  const away: Store = {
    ...memory,
    async endSession(...args) {
      failures -= 1
      if (failures >= 0) throw new StoreUnavailable()
      return memory.endSession(...args)
    },
  }
  await t.rejects(
    replica(away).refreshTokens(await read(), audience, unforced),
    new NotAuthenticated('identity_changed'),
  )
  t.same(presented, ['rt0'])
  t.same(revoked, [['rt1', 'identity_changed']])
})

// Without a refresh token there is nobody to ask. A refusal that is remembered from before the end of the access token
// would be told for a minute in the place of the login that helps.
test('without a refresh token a session ends with its access token, whatever was tried before', async t => {
  const { clock, memory, replica, open, read } = await setUp(async () => 'none', '')
  const id = await open('bob', 30_000)
  const { refreshTokens } = replica({
    ...memory,
    beginRefresh: async (...args) => ({ ...(await memory.beginRefresh(...args)), refreshToken: null }) as never,
  })
  const early = await read(loginSlot, id)
  for (const forced of [false, true]) await t.rejects(refreshTokens(early, audience, { forced }), TokenRefused)
  clock.advance(30_000)
  await t.rejects(refreshTokens(early, audience, unforced), new NotAuthenticated('tokens_expired'))
})

// Ten thousand users come back after the weekend, each with an access token that is over, and the provider is down.
test('a provider that is down is asked now and then, not by every session', async t => {
  const users = 10_000
  let [running, most] = [0, 0]
  const { clock, replica, read, open, presented } = await setUp(async () => {
    running += 1
    most = Math.max(most, running)
    await sleep(20)
    running -= 1
    throw new ProviderUnavailable()
  })
  const sessions: StoredSession[] = []
  for (let user = 0; user < users; user += 1) sessions.push(await read(loginSlot, await open(`user-${user}`)))
  const { refreshTokens } = replica()
  const tokens = createAccessTokens({ refreshTokens, clock, elapsed: clock.now })
  const everybody = async () => {
    const before = presented.length
    const results = await Promise.allSettled(sessions.map(stored => tokens.get(stored, audience)))
    const reasons = new Set(results.map(result => result.status === 'rejected' && result.reason.code))
    t.same(reasons, new Set(['provider_unavailable']))
    return presented.length - before
  }
  t.ok((await everybody()) <= 110, `${presented.length} calls in the first moment`)
  t.ok(most <= 100, `${most} at a time`)
  const first = presented.length
  for (let second = 0; second < 3; second += 1) {
    clock.advance(1000)
    await everybody()
  }
  t.ok(presented.length - first <= 3, `${presented.length - first} in the seconds after it`)
})

// A refresh token that is over, and a provider that answers so that nobody can tell: that user's page tries and tries.
test('an answer that may concern one session alone keeps that one waiting, and nobody else', async t => {
  const { clock, replica, read, open, presented } = await setUp(async () => {
    if (presented.length > 20) return 'rt1'
    throw new ProviderUnavailable({ isolated: true })
  })
  const tokens = createAccessTokens({ ...replica(), clock, elapsed: clock.now })
  const sick: StoredSession[] = []
  for (let user = 0; user < 20; user += 1) sick.push(await read(loginSlot, await open(`user-${user}`)))
  const well = await read()
  for (let round = 0; round < 5; round += 1)
    for (const stored of sick)
      t.match(await tokens.get(stored, audience).catch(error => error), { code: 'provider_unavailable', retryAfter: 5 })
  t.equal(presented.length, 20, 'each is asked for once')
  t.equal(await tokens.get(well, audience), 'at of rt1')
  clock.advance(5000)
  for (const stored of sick) t.equal(await tokens.get(stored, audience), 'at of rt1', 'and later again')
})
