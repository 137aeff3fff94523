import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import { sessionHandle, sessionIdOf } from '../../src/core/session.ts'
import { refreshLeaseMs } from '../../src/store/store.ts'
import { eventually } from '../support/eventually.ts'
import { startRace } from '../support/race.ts'
import { createRandom } from '../support/random.ts'

// Replicas die in the middle of a refresh, and the provider is slow: whatever the provider did for a dead one is lost.
test('no session is lost but those whose new token died with its holder', async t => {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31))
  const random = createRandom(seed).next
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
  // What a replica has said is still on its way for a moment.
  await eventually(() => events('rotation_lost').length === lost.size)
  const handles = [...lost.keys()].map(cookie => sessionHandle(sessionIdOf(cookie)))
  t.same(new Set(events('rotation_lost').map(({ session }) => session)), new Set(handles), `each is told ${told}`)
  t.same(events('refresh_token_reuse_suspected'), [], `and nobody is suspected ${told}`)
})
