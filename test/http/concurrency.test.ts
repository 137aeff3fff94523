import { test } from 'tap'
import { TooManyRequests } from '../../src/core/errors.ts'
import { createConcurrency } from '../../src/http/concurrency.ts'

function refusalOf(act: () => unknown): unknown {
  try {
    return act()
  } catch (error) {
    return error
  }
}

test('so many of one key are let in at a time, and others are not kept out by them', async t => {
  const { enter } = createConcurrency({ most: 2 })
  const leaveFirst = enter('a')
  enter('a')
  t.throws(() => enter('a'), TooManyRequests)
  t.match(
    refusalOf(() => enter('a')),
    { status: 429, retryAfter: 1 },
  )
  t.doesNotThrow(() => enter('b'))
  leaveFirst()
  t.doesNotThrow(() => enter('a'))
  t.throws(() => enter('a'), TooManyRequests, 'full again')
})

test('whoever leaves twice frees one place', async t => {
  const { enter } = createConcurrency({ most: 2 })
  const leave = enter('a')
  enter('a')
  leave()
  leave()
  enter('a')
  t.throws(() => enter('a'), TooManyRequests)
})

test('all places are free again after any order of coming and going', async t => {
  const { enter } = createConcurrency({ most: 100 })
  for (let round = 0; round < 5; round += 1) {
    const leaving = Array.from({ length: 100 }, () => enter('a'))
    t.throws(() => enter('a'), TooManyRequests)
    for (const leave of leaving.sort(() => Math.random() - 0.5)) leave()
  }
})
