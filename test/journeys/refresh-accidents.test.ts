import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import { refreshLeaseMs } from '../../src/store/store.ts'
import { eventually } from '../support/eventually.ts'
import { startRace } from '../support/race.ts'
import type { Replica } from '../support/replicas.ts'

// A rollout ends a replica while the provider works for it: what comes back is the only refresh token there is.
test('a replica that is told to stop saves what the provider still owes it, and ends in time', async t => {
  const { provider, enter, ask, refreshes, replicas, seen } = await startRace(t, 2, { lifetimes: { accessToken: 10 } })
  const cookies = await Promise.all(Array.from({ length: 6 }, (_, user) => enter(`user-${user}`)))
  // What comes now is not due again before the test is over.
  provider.lifetimes.accessToken = 60
  provider.respond(
    'token',
    async () => {
      await sleep(3000)
      return 'pass' as const
    },
    { times: cookies.length },
  )
  const [, leaving] = replicas.all as [Replica, Replica]
  // In the background for the first half, and for the others while a request waits.
  await sleep(8100)
  for (const cookie of cookies.slice(0, 3)) t.equal((await ask(1, cookie)).status, 200)
  await sleep(1000)
  const waiting = cookies.slice(3).map(cookie => ask(1, cookie))
  t.ok(await eventually(() => refreshes().length === cookies.length))
  const startedAt = performance.now()
  leaving.process.kill('SIGTERM')
  const [code] = (await once(leaving.process, 'exit')) as [number | null]
  t.equal(code, 0)
  t.ok(performance.now() - startedAt < 10_000, 'in time')
  t.same(
    (await Promise.all(waiting)).map(({ status }) => status),
    [200, 200, 200],
    'those who waited are served',
  )
  for (const cookie of cookies) t.equal((await ask(0, cookie)).status, 200)
  t.equal(refreshes().length, cookies.length, 'the other replica found everything saved')
  t.equal(new Set(seen.slice(-cookies.length).map(({ token }) => token)).size, cookies.length)
  t.same(provider.replays(), [])
})

// Redis stops answering at the worst moment: the provider has replaced the token, and only this process has the new one.
test('when Redis hangs between the answer and the save, the holder saves later and nobody presents the old token', async t => {
  const { provider, redis, enter, ask, refreshes } = await startRace(t, 3, { lifetimes: { accessToken: 10 } })
  const cookie = await enter('alice')
  await sleep(9100)
  provider.respond(
    'token',
    () => {
      redis.pause()
      return 'pass'
    },
    { times: 1, when: 'after' },
  )
  const first = ask(0, cookie)
  t.ok(await eventually(() => refreshes()[0]?.answered === 200))
  await sleep(200)
  const meanwhile = await Promise.all([ask(1, cookie), ask(2, cookie)])
  for (const answer of meanwhile) t.match(answer, { status: 503, code: 'store_unavailable' })
  redis.resume()
  t.match([200, 503].includes((await first).status), true)
  for (const index of [0, 1, 2])
    t.ok(await eventually(async () => (await ask(index, cookie)).status === 200), `replica ${index} goes on`)
  t.equal(refreshes().length, 1, 'with what the first one was given')
  t.same(provider.replays(), [])
})

// A replica takes the lease and dies before the provider has seen anything: its session must not hang on it for long.
test('the lease of a replica that was killed is over in time, and the session goes on', async t => {
  const { provider, enter, ask, refreshes, replicas } = await startRace(t, 2, { lifetimes: { accessToken: 2 } })
  const cookie = await enter('alice')
  await sleep(2000)
  provider.respond('token', 'hang', { times: 1 })
  const orphan = ask(1, cookie).catch(() => null)
  t.ok(await eventually(() => refreshes().length === 1))
  await replicas.all[1]?.stop('SIGKILL')
  const killedAt = performance.now()
  t.equal(await orphan, null)
  const statuses = new Set<number>()
  const served = await eventually(async () => {
    const { status } = await ask(0, cookie)
    statuses.add(status)
    return status === 200
  }, refreshLeaseMs + 9000)
  const tookMs = performance.now() - killedAt
  t.ok(served)
  t.ok(tookMs < refreshLeaseMs + 3000 + 6000, `after ${Math.round(tookMs)} ms`)
  t.same([...statuses].sort(), [200, 503], 'until then it is 503 and never 401')
  t.same(provider.replays(), [])
})
