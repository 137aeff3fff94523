import { test } from 'tap'
import { ProviderUnavailable } from '../../src/core/errors.ts'
import { createBreaker } from '../../src/flows/breaker.ts'
import { createClock } from '../support/clock.ts'

function setUp() {
  const clock = createClock(0)
  const breaker = createBreaker({ elapsed: clock.now, random: () => 1 })
  let calls = 0
  const fails = (error: Error = new ProviderUnavailable()) =>
    breaker.run(async () => {
      calls += 1
      throw error
    })
  const works = () =>
    breaker.run(async () => {
      calls += 1
      return 'done'
    })
  return { clock, fails, works, calls: () => calls }
}

/** The seconds to wait that a refused call tells. */
async function waitOf(call: Promise<unknown>): Promise<number | undefined> {
  const error = await call.catch((reason: unknown) => reason)
  return error instanceof ProviderUnavailable ? error.retryAfter : undefined
}

test('a few failures in a row are let through, then calls are refused without being made', async t => {
  const { fails, works, calls } = setUp()
  for (let count = 0; count < 5; count += 1) await t.rejects(fails(), ProviderUnavailable)
  t.equal(await waitOf(works()), 1)
  t.equal(calls(), 5)
})

test('after a while single calls probe, and a success closes it', async t => {
  const { clock, fails, works, calls } = setUp()
  for (let count = 0; count < 5; count += 1) await t.rejects(fails())
  clock.advance(1000)
  await t.rejects(fails())
  t.equal(await waitOf(works()), 2, 'a failed probe doubles the wait')
  clock.advance(2000)
  const both = await Promise.allSettled([works(), works()])
  t.same(both.map(result => result.status).sort(), ['fulfilled', 'rejected'], 'one probe at a time')
  t.equal(await works(), 'done')
  t.equal(calls(), 8)
})

test('the wait has a bound', async t => {
  const { clock, fails, works } = setUp()
  for (let count = 0; count < 40; count += 1) {
    await t.rejects(fails())
    clock.advance(30_000)
  }
  t.equal(await works(), 'done')
})

test('what the provider asks for with Retry-After is kept to from the first failure on', async t => {
  const { clock, fails, works, calls } = setUp()
  await t.rejects(fails(new ProviderUnavailable({ retryAfter: 7 })))
  clock.advance(6000)
  t.equal(await waitOf(works()), 1)
  clock.advance(1000)
  t.equal(await works(), 'done')
  t.equal(calls(), 2)
})

// One user's token is answered in a way that makes no sense: everybody else is well, and must not notice.
test('what may be the fault of one request alone neither opens the breaker nor closes it', async t => {
  const { clock, fails, works, calls } = setUp()
  const isolated = () => fails(new ProviderUnavailable({ isolated: true }))
  for (let count = 0; count < 20; count += 1) await t.rejects(isolated(), ProviderUnavailable)
  t.equal(await works(), 'done')
  for (let count = 0; count < 4; count += 1) await t.rejects(fails())
  await t.rejects(isolated())
  await t.rejects(fails())
  t.equal(await waitOf(works()), 1, 'four failures and a fifth')
  clock.advance(1000)
  await t.rejects(isolated())
  t.equal(await works(), 'done', 'the next one may probe at once')
  t.equal(calls(), 29)
})

// Calls that began before the outage come back in the middle of a probe.
test('an old call that comes back lets no second probe in', async t => {
  const clock = createClock(0)
  const breaker = createBreaker({ elapsed: clock.now, random: () => 1 })
  const old = gate()
  const early = breaker.run(() => old.opened).catch(() => {})
  for (let count = 0; count < 5; count += 1)
    await t.rejects(breaker.run(async () => Promise.reject(new ProviderUnavailable())))
  clock.advance(1000)
  const probe = gate()
  const probing = breaker.run(() => probe.opened)
  old.fail()
  await early
  clock.advance(60_000)
  t.equal(await waitOf(breaker.run(async () => 'second')), 1)
  probe.open()
  await probing
  t.equal(await breaker.run(async () => 'third'), 'third')
})

/** A promise that is settled from outside. */
function gate() {
  let [open, fail] = [() => {}, () => {}]
  const opened = new Promise<void>((resolve, reject) => {
    open = resolve
    fail = () => reject(new ProviderUnavailable())
  })
  return { opened, open: () => open(), fail: () => fail() }
}

test('a definite answer, even a refusal, is no failure of the provider', async t => {
  const { fails, works } = setUp()
  for (let count = 0; count < 20; count += 1) await t.rejects(fails(new TypeError('ours')), TypeError)
  t.equal(await works(), 'done')
})
