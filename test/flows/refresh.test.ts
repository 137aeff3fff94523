import { setTimeout as sleep } from 'node:timers/promises'
import { type Test, test } from 'tap'
import { StoreUnavailable } from '../../src/core/errors.ts'
import type { AuditEvent } from '../../src/core/events.ts'
import { openSession, type StoredSession } from '../../src/core/session.ts'
import { createBreaker } from '../../src/flows/breaker.ts'
import { createRefreshing } from '../../src/flows/refresh.ts'
import { createRenew } from '../../src/flows/renew.ts'
import type { Refresh } from '../../src/oidc/refresh.ts'
import { createMemoryStore } from '../../src/store/memory.ts'
import { loginSlot, refreshLeaseMs, type Store } from '../../src/store/store.ts'
import { createClock } from '../support/clock.ts'
import { eventually } from '../support/stage.ts'

const identity = {
  issuer: 'https://idp',
  subject: 'alice',
  providerSessionId: undefined,
  claims: {},
  nonce: 'nonce',
  authTime: undefined,
}
const audience = { slot: loginSlot, upstream: 'api', scope: undefined, resource: undefined }
const lifetimes = { idleTimeout: 1000, absoluteTimeout: 2000 }

/** Replicas that share a store, and a provider that answers each refresh token as told. */
async function setUp(t: Test, answer: (token: string, call: number) => Promise<string>) {
  const clock = createClock()
  const memory = createMemoryStore({ clock, lifetimes })
  const { session } = openSession(identity, { userAgent: '', address: '' }, clock.now())
  const access = { value: 'at0', expiresAt: clock.now(), refreshAt: clock.now(), scope: undefined }
  await memory.createSession(session, { access, refresh: 'rt0' })
  const presented: string[] = []
  const events: AuditEvent[] = []
  const provider = {
    async refresh(token: string): Promise<Refresh> {
      presented.push(token)
      const refreshToken = await answer(token, presented.length)
      const tokens = { accessToken: `at of ${refreshToken}`, expiresIn: 300, refreshToken, scope: undefined }
      return { outcome: 'refreshed', tokens, claims: null }
    },
    renewedClaims: () => ({}),
  }
  const replica = (store: Store = memory) => {
    const renew = createRenew({
      store,
      provider,
      breaker: createBreaker({ elapsed: clock.now, random: () => 0 }),
      endSession: store.endSession,
      revokeToken: () => t.fail('nothing is revoked'),
      revokeSoon: () => {},
      audit: event => void events.push(event),
      clock,
      random: () => 0,
    })
    // Only the store's time is turned on: nobody has waited for long.
    return createRefreshing({ store, renew, clock, elapsed: () => performance.now() })
  }
  const read = async (): Promise<StoredSession> => {
    const { found } = await memory.getSession(session.id, { slot: loginSlot, active: false, pendingAgeMs: null })
    if (found?.state !== 'live') throw new Error('the session is gone')
    return found.stored
  }
  return { clock, memory, replica, read, presented, events }
}

// The holder's process stood still for longer than its lease, and a second one has stored a newer token meanwhile. What
// the first one brings may be alive at the provider: forgotten, it would stay so for weeks; revoked at once, it may take
// the session's own token with it.
test('a refresh token that comes too late is revoked when the session is over, and not before', async t => {
  let release = () => {}
  const held = new Promise<void>(resolve => {
    release = resolve
  })
  const { clock, memory, replica, read, events } = await setUp(t, async (token, call) => {
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
  const { memory, replica, read, presented } = await setUp(t, async () => 'rt1')
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
