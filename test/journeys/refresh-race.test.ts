import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import { startRace } from '../support/race.ts'

/** Of an access token: long enough for a burst to be over before the token is, on a busy machine too. */
const lifetimeMs = 12_000

// Many requests find the token over at the same moment, on several replicas. Two that present the same refresh token are
// thief and victim to the provider: it revokes the family, and the user is logged out.
test('ten thousand requests on three replicas refresh once for each of fifty expiries', async t => {
  const { provider, seen, enter, ask, refreshes, events } = await startRace(t, 3, {
    lifetimes: { accessToken: lifetimeMs / 1000 },
  })
  const [users, rounds, burst] = [10, 5, 200]
  // On a slow machine bursts wait for one another: none takes so long that its new token is due before it is over.
  let last: Promise<unknown> = Promise.resolve()
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const done = last.then(work)
    last = done.catch(() => {})
    return done
  }
  const run = async (user: number) => {
    await sleep(user * (lifetimeMs / users))
    const cookie = await enter(`user-${user}`)
    for (let round = 0; round < rounds; round += 1) {
      await sleep(lifetimeMs)
      const path = `/${user}/${round}`
      const answers = await inTurn(() =>
        Promise.all(Array.from({ length: burst }, (_, index) => ask(index % 3, cookie, path))),
      )
      const refused = answers.filter(({ status }) => status !== 200)
      if (refused.length > 0)
        t.fail(`${path}: ${refused.length} were refused, the first with ${JSON.stringify(refused[0])}`)
    }
  }
  await Promise.all(Array.from({ length: users }, (_, user) => run(user)))
  t.equal(seen.length, users * rounds * burst)
  t.equal(refreshes().length, users * rounds, 'one token call for each expiry')
  t.equal(events('tokens_refreshed').length, users * rounds)
  t.same(provider.replays(), [], 'no refresh token was presented twice')
  t.ok(refreshes().every(({ answered }) => answered === 200))
  const owners = new Map(seen.map(({ url, token }) => [token, url]))
  t.equal(owners.size, users * rounds, 'each burst went with one token, which no other one had')
  t.ok(seen.every(({ url, token }) => owners.get(token) === url))
})
