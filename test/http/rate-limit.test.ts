import { test } from 'tap'
import { TooManyRequests } from '../../src/core/errors.ts'
import { createCount, createRateLimit } from '../../src/http/rate-limit.ts'

test('a client is stopped after so many points, for as long as they count, and nobody else is', async t => {
  const exceeded: string[] = []
  const limit = createRateLimit({
    count: createCount({ points: 3, seconds: 1 }),
    onExceeded: address => void exceeded.push(address),
  })
  for (let count = 0; count < 3; count += 1) await t.resolves(limit.use('a'))
  await t.rejects(limit.use('a'), { code: 'too_many_requests', status: 429, retryAfter: 1 })
  await t.rejects(limit.use('a'), TooManyRequests)
  await t.resolves(limit.use('b'))
  t.strictSame(exceeded, ['a', 'a'])
  await new Promise(resolve => setTimeout(resolve, 1050))
  await t.resolves(limit.use('a'))
})
