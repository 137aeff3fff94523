import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import type { EndReason } from '../../../src/core/session.ts'
import { createEnds } from '../../../src/store/redis/ends.ts'
import { eventually } from '../../support/eventually.ts'

/** Ends that are said to a server which may not answer. */
function setUp() {
  const state = { now: 0, away: false, calls: 0 }
  const said: [string, EndReason][] = []
  const ends = createEnds({
    async end(id, reason) {
      state.calls += 1
      if (state.away) throw new Error('no answer')
      said.push([id, reason])
    },
    elapsed: () => state.now,
  })
  return { ends, state, said }
}

// The new master never heard of the logout: whoever has copied the cookie would be let in again.
test('the ends of the last minute are said again, each with its reason, and none before that', async t => {
  const { ends, state, said } = setUp()
  ends.note('early', 'logout')
  state.now = 1000
  ends.note('late', 'admin')
  t.same(said, [], 'nothing is said without need')
  state.now = 60_500
  ends.sayAgain()
  t.ok(await eventually(() => said.length === 1))
  t.same(said, [['late', 'admin']])
  ends.sayAgain()
  t.ok(await eventually(() => said.length === 2), 'and to the next master once more')
})

test('what cannot be said is said when the server answers, however long ago it was by then', async t => {
  const { ends, state, said } = setUp()
  ends.note('a', 'logout')
  state.away = true
  ends.sayAgain()
  t.ok(await eventually(() => state.calls === 1))
  state.now = 120_000
  ends.note('b', 'admin')
  state.away = false
  t.ok(await eventually(() => said.length === 1))
  t.same(said, [['a', 'logout']])
})

// Shards fail over one by one: the logouts of one are not to wait for the master of another.
test('what cannot be said yet holds up no other', async t => {
  const said: string[] = []
  const away = { b: true }
  const ends = createEnds({
    async end(id) {
      if (id === 'b' && away.b) throw new Error('no answer')
      said.push(id)
    },
    elapsed: () => 0,
  })
  for (const id of ['a', 'b', 'c']) ends.note(id, 'logout')
  ends.sayAgain()
  t.ok(await eventually(() => said.length === 2))
  away.b = false
  t.ok(await eventually(() => said.length === 3))
  t.same(said, ['a', 'c', 'b'])
})

test('a session that ends twice is remembered once, with the last reason, and no more than ten thousand are', async t => {
  const { ends, said } = setUp()
  for (let count = 0; count < 10_100; count += 1) ends.note(`id-${count}`, 'logout')
  ends.note('id-10099', 'backchannel_logout')
  ends.sayAgain()
  t.ok(await eventually(() => said.length >= 10_000))
  await sleep(50)
  t.equal(said.length, 10_000)
  t.same(said[0], ['id-100', 'logout'], 'the oldest are forgotten')
  t.same(said.at(-1), ['id-10099', 'backchannel_logout'])
})

test('nothing is said after the stop', async t => {
  const { ends, state, said } = setUp()
  ends.note('a', 'logout')
  state.away = true
  ends.sayAgain()
  t.ok(await eventually(() => state.calls === 1))
  ends.stop()
  state.away = false
  await sleep(700)
  t.same(said, [])
})
