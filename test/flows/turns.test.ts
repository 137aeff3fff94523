import { test } from 'tap'
import { createTurns } from '../../src/flows/turns.ts'

test('no more than so many run at a time, in the order in which they came, whatever becomes of them', async t => {
  const turns = createTurns(3)
  const order: number[] = []
  let [running, most] = [0, 0]
  const call = (index: number) =>
    turns(async () => {
      order.push(index)
      running += 1
      most = Math.max(most, running)
      await new Promise(resolve => setTimeout(resolve, index % 4))
      running -= 1
      if (index % 2 === 0) throw new Error('fails')
      return index
    })
  const results = await Promise.allSettled(Array.from({ length: 20 }, (_, index) => call(index)))
  t.equal(most, 3)
  t.same(
    order,
    results.map((_, index) => index),
  )
  t.equal(results.filter(({ status }) => status === 'rejected').length, 10)
  t.equal(await call(1), 1, 'and places are free again')
})
