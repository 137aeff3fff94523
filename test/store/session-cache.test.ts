import { test } from 'tap'
import { openSession, type StoredSession } from '../../src/core/session.ts'
import { confirmedForMs, createSessionCache } from '../../src/store/session-cache.ts'

const identity = {
  issuer: 'https://idp',
  subject: 'alice',
  providerSessionId: undefined,
  claims: { name: 'Alice', nested: { roles: ['a'] } },
  nonce: 'nonce',
  authTime: undefined,
}
const tokenOf = (value: string) => ({ value, expiresAt: 2, refreshAt: 1, scope: undefined })
const opened = (version = 0, change: Partial<StoredSession> = {}): StoredSession => ({
  session: openSession(identity, { userAgent: 'test', address: '192.0.2.1' }, 0).session,
  accessToken: tokenOf('at'),
  version,
  idleExpiresInMs: 60_000,
  absoluteExpiresInMs: 600_000,
  ...change,
})
const use = { slot: 'a', active: true }
const look = { slot: 'a', active: false }

function create() {
  let now = 1000
  const cache = createSessionCache({ elapsed: () => now, idleTimeoutMs: 60_000, touchIntervalMs: 5000 })
  const keep = (id: string, slot: string | undefined, stored: StoredSession, askedAt: number) =>
    cache.keep(id, slot, stored, { askedAt, sessionBytes: JSON.stringify(stored).length, tokenBytes: 0 })
  return {
    cache,
    keep,
    pass(ms: number) {
      now += ms
    },
    now: () => now,
  }
}

test('a session is served until its time since the question is over, and its deadlines come nearer meanwhile', async t => {
  const { cache, keep, pass, now } = create()
  t.equal(cache.fresh('id', use), null)
  const askedAt = now()
  // The answer took its time: that counts.
  pass(400)
  keep('id', 'a', opened(), askedAt)
  t.match(cache.fresh('id', use), {
    accessToken: { value: 'at' },
    idleExpiresInMs: 59_600,
    absoluteExpiresInMs: 599_600,
  })
  pass(confirmedForMs - 401)
  t.ok(cache.fresh('id', use))
  pass(1)
  t.equal(cache.fresh('id', use), null)
  t.equal(cache.versionOf('id', 'a'), 0, 'what it was is still known')
})

test('a confirmation renews what is here, of the same version alone', async t => {
  const { cache, keep, pass, now } = create()
  keep('id', 'a', opened(), now())
  pass(2000)
  const word = { idleExpiresInMs: 30_000, absoluteExpiresInMs: 40_000, askedAt: now() }
  t.equal(cache.confirm('id', 'a', { ...word, version: 1 }), null)
  t.equal(cache.confirm('id', 'b', { ...word, version: 0 }), null, 'nor for a slot that was never read')
  t.equal(cache.confirm('other', 'a', { ...word, version: 0 }), null)
  t.match(cache.confirm('id', 'a', { ...word, version: 0 }), { accessToken: { value: 'at' }, idleExpiresInMs: 30_000 })
  t.match(cache.fresh('id', look), { idleExpiresInMs: 30_000, absoluteExpiresInMs: 40_000 })
})

test('each slot has its own token, and a new version takes all of them away', async t => {
  const { cache, keep, now } = create()
  keep('id', 'a', opened(), now())
  t.equal(cache.fresh('id', { ...use, slot: 'b' }), null)
  t.equal(cache.versionOf('id', 'b'), null)
  keep('id', 'b', opened(0, { accessToken: null }), now())
  t.match(cache.fresh('id', use), { accessToken: { value: 'at' } })
  t.equal(cache.fresh('id', { ...use, slot: 'b' })?.accessToken, null, 'also that there is none yet')
  t.equal(cache.fresh('id', { active: false })?.accessToken, null, 'none for whoever asks for none')
  keep('id', 'b', opened(1, { accessToken: tokenOf('bt') }), now())
  t.equal(cache.fresh('id', use), null)
  t.match(cache.fresh('id', { ...use, slot: 'b' }), { version: 1, accessToken: { value: 'bt' } })
})

// A request served and not written would be followed by a deadline that lay before it.
test('a use that is due to be written, and a deadline that has passed, are the store’s affair', async t => {
  const { cache, keep, pass, now } = create()
  keep('id', 'a', opened(0, { idleExpiresInMs: 55_001 }), now())
  t.ok(cache.fresh('id', use))
  pass(1)
  t.equal(cache.fresh('id', use), null, 'the last one was written 5 s ago')
  t.ok(cache.fresh('id', look), 'looking writes nothing')
  keep('id', 'a', opened(0, { idleExpiresInMs: 100, absoluteExpiresInMs: 100 }), now())
  t.ok(cache.fresh('id', use), 'a deadline that moves no further')
  pass(100)
  t.equal(cache.fresh('id', use), null)
  t.equal(cache.fresh('id', look), null)
})

test('what has happened is asked for', async t => {
  const { cache, keep, now } = create()
  keep('id', 'a', opened(), now())
  cache.forget('id')
  cache.forget('unknown')
  t.equal(cache.fresh('id', use), null)
  t.equal(cache.versionOf('id', 'a'), null)
})

// The answer says "live", the word that came before it says "ended": kept, it would be served for as long as it holds.
test('an answer that word has overtaken is not kept', async t => {
  const { cache, keep, pass, now } = create()
  const askedAt = now()
  pass(1)
  cache.forget('id')
  pass(1)
  keep('id', 'a', opened(), askedAt)
  t.equal(cache.versionOf('id', 'a'), null)
  pass(1)
  keep('id', 'a', opened(), now())
  t.ok(cache.fresh('id', use), 'what was asked after it is')
  pass(confirmedForMs)
  cache.forget('other')
  keep('id', 'a', opened(3), now() - confirmedForMs)
  t.equal(cache.versionOf('id', 'a'), 0, 'nor is one that took so long that word of it is forgotten')
})

test('nobody changes what others are given', async t => {
  const { cache, keep, now } = create()
  keep('id', 'a', opened(), now())
  const found = cache.fresh('id', use)
  t.throws(() => Object.assign(found?.session.identity.claims ?? {}, { name: 'Mallory' }), TypeError)
  t.throws(() => Object.assign(found?.accessToken ?? {}, { value: 'stolen' }), TypeError)
})

test('the memory that it takes is bounded, in sessions and in size, and the longest unconfirmed go first', async t => {
  const { cache, keep, now } = create()
  const { session } = opened()
  for (let index = 0; index < 20_100; index += 1) keep(`id-${index}`, 'a', { ...opened(), session }, now())
  t.equal(cache.versionOf('id-0', 'a'), null)
  t.equal(cache.versionOf('id-99', 'a'), null)
  t.equal(cache.versionOf('id-1100', 'a'), 0, 'and not many more than have to')
  const large = opened(0, { accessToken: tokenOf('x'.repeat(1_000_000)) })
  for (let index = 0; index < 40; index += 1) keep(`large-${index}`, 'a', { ...large }, now())
  t.equal(cache.versionOf('id-20099', 'a'), null)
  t.equal(cache.versionOf('large-0', 'a'), null)
  t.equal(cache.versionOf('large-39', 'a'), 0)
})
