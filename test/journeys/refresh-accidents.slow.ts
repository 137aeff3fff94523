import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import { sessionHandle, sessionIdOf } from '../../src/core/session.ts'
import { refreshLeaseMs } from '../../src/store/store.ts'
import { startRace } from '../support/race.ts'
import type { Replica } from '../support/replicas.ts'
import { eventually } from '../support/stage.ts'

/** A random generator that can be told to do the same again. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

// Replicas die in the middle of a refresh, and the provider is slow: whatever the provider did for a dead one is lost.
test('no session is lost but those whose new token died with its holder', async t => {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31))
  const random = seeded(seed)
  const { provider, enter, ask, refreshes, restart, replicas, events } = await startRace(t, 3, {
    lifetimes: { accessToken: 12 },
  })
  const told = `(SEED=${seed})`
  const cookies = await Promise.all(Array.from({ length: 12 }, (_, user) => enter(`user-${user}`)))
  provider.respond('token', async () => {
    await sleep(2000 + random() * 4000)
    return 'pass' as const
  })
  const kills: number[] = []
  const lost = new Map<string, string | undefined>()
  const oddities: string[] = []
  const stopAt = Date.now() + 20_000
  const killing = async () => {
    while (Date.now() < stopAt) {
      await sleep(3000 + random() * 3000)
      const victim = Math.floor(random() * 3)
      kills.push(Date.now())
      await replicas.all[victim]?.stop('SIGKILL')
      await restart(victim)
    }
  }
  /** One answer; null from a replica that is not there. */
  const look = async (cookie: string) => {
    const answer = await ask(Math.floor(random() * 3), cookie).catch(() => null)
    if (answer?.status === 401) lost.set(cookie, answer.reason)
    if (answer !== null && ![200, 401, 503].includes(answer.status)) oddities.push(JSON.stringify(answer))
    return answer
  }
  const using = async (cookie: string) => {
    while (Date.now() < stopAt && !lost.has(cookie)) {
      await look(cookie)
      await sleep(50 + random() * 200)
    }
  }
  await Promise.all([killing(), ...cookies.map(using)])
  const settled = await Promise.all(
    cookies.map(cookie =>
      eventually(async () => lost.has(cookie) || (await look(cookie))?.status === 200, 2 * refreshLeaseMs + 10_000),
    ),
  )
  t.ok(settled.every(Boolean), `each session comes back or is known to be lost ${told}`)
  t.same(oddities, [], told)
  const replays = provider.replays()
  t.comment(`${refreshes().length} refreshes, ${kills.length} kills, ${lost.size} of ${cookies.length} sessions lost`)
  t.ok(
    [...lost.values()].every(reason => reason === 'rotation_lost'),
    `${[...lost.values()]} ${told}`,
  )
  t.equal(replays.length, lost.size, `one presented twice for each that is lost ${told}`)
  for (const replay of replays) {
    const token = replay.form.get('refresh_token')
    const [first, ...others] = refreshes().filter(call => call.form.get('refresh_token') === token)
    t.same(others, [replay], `twice and no more ${told}`)
    const died = kills.some(at => at >= (first?.at ?? 0) && at <= replay.at)
    t.ok(died, `a replica was killed after the provider had been asked ${told}`)
  }
  const handles = [...lost.keys()].map(cookie => sessionHandle(sessionIdOf(cookie)))
  t.same(new Set(events('rotation_lost').map(({ session }) => session)), new Set(handles), `each is told ${told}`)
  t.same(events('refresh_token_reuse_suspected'), [], `and nobody is suspected ${told}`)
})

// A rollout ends a replica while the provider works for it: what comes back is the only refresh token there is.
test('a replica that is told to stop saves what the provider still owes it, and ends in time', async t => {
  const { provider, enter, ask, refreshes, replicas, seen } = await startRace(t, 2, { lifetimes: { accessToken: 10 } })
  const cookies = await Promise.all(Array.from({ length: 6 }, (_, user) => enter(`user-${user}`)))
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
  }, refreshLeaseMs + 5000)
  const tookMs = performance.now() - killedAt
  t.ok(served)
  t.ok(tookMs < refreshLeaseMs + 3000, `after ${Math.round(tookMs)} ms`)
  t.same([...statuses].sort(), [200, 503], 'until then it is 503 and never 401')
  t.same(provider.replays(), [])
})
