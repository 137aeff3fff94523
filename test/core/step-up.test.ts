import { test } from 'tap'
import { challengeOf, type Demand } from '../../src/core/challenge.ts'
import { openSession } from '../../src/core/session.ts'
import { authenticatedAnew, lineageOf, shortcomingOf, stepUpFor } from '../../src/core/step-up.ts'

const identity = {
  issuer: 'https://idp.test',
  subject: 'alice',
  providerSessionId: undefined,
  claims: {},
  nonce: 'n',
  authTime: 1000,
}
const { session } = openSession(identity, { userAgent: '', address: '' }, 0)
const asked = (what: Partial<Demand>) =>
  stepUpFor(session, challengeOf({ upstream: 'a', slot: 'a', scope: undefined }, what))

// What a provider was asked for and did not do (OpenID Connect Core §3.1.2.1 lets it) is no stronger login.
test('a login that is not what was asked for falls short', async t => {
  const now = 2_000_000
  const at = (authTime: number | undefined, acr?: string) => ({ identity: { ...identity, authTime }, acr })
  t.equal(shortcomingOf(asked({}), at(undefined), now), null, 'nothing that could be verified was asked for')
  t.equal(shortcomingOf(asked({}), { identity: { ...identity, subject: 'bob' }, acr: undefined }, now), 'another_user')
  const elsewhere = { identity: { ...identity, issuer: 'https://other.test' }, acr: undefined }
  t.equal(shortcomingOf(asked({}), elsewhere, now), 'another_user')

  const gold = asked({ acrValues: 'gold silver' })
  for (const acr of ['gold', 'silver']) t.equal(shortcomingOf(gold, at(1, acr), now), null, acr)
  for (const acr of ['bronze', '', 'gold silver', undefined])
    t.equal(shortcomingOf(gold, at(1, acr), now), 'too_weak', String(acr))

  const fresh = asked({ maxAge: 60 })
  t.equal(shortcomingOf(fresh, at(2000 - 90), now), null, 'within 30 seconds of leeway')
  t.equal(shortcomingOf(fresh, at(2000 - 91), now), 'too_weak')
  t.equal(shortcomingOf(fresh, at(undefined), now), 'too_weak', 'not to say when is not enough')
  t.equal(shortcomingOf(asked({ maxAge: 0 }), at(2000), now), null)
  t.equal(shortcomingOf(asked({ acrValues: 'gold', maxAge: 60 }), at(2000, 'silver'), now), 'too_weak')
})

test('a user counts as authenticated anew only if that is known', async t => {
  const now = (authTime: number | undefined) => ({ ...identity, authTime })
  t.equal(authenticatedAnew(asked({}), now(1001)), true)
  for (const authTime of [1000, 999, undefined]) t.equal(authenticatedAnew(asked({}), now(authTime)), false)
  const unknown = { ...asked({}), identity: now(undefined) }
  t.equal(authenticatedAnew(unknown, now(1001)), false)
})

test('a chain of step-ups is known by the session that began it', async t => {
  t.equal(lineageOf(session), session.id)
  t.equal(lineageOf({ ...session, lineage: 'first' }), 'first')
})
