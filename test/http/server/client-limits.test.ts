import { test } from 'tap'
import { clientLimitsFor } from '../../../src/http/server/client-limits.ts'

test('a request may take a minute, and the time that the largest body takes on a bad line', async t => {
  t.match(clientLimitsFor(0), { headersMs: 20_000, requestMs: 60_000, unreadMs: 60_000, checkMs: 5_000 })
  t.equal(clientLimitsFor(10 * 1024 ** 2).requestMs, 60_000 + 160_000)
  t.equal(clientLimitsFor(1).requestMs, 61_000)
  t.ok(Number.isSafeInteger(clientLimitsFor(2 ** 50).requestMs))
})
