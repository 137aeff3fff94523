import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'tap'
import type { SessionEvent } from '../../src/core/events.ts'
import type { EndReason, StoredSession } from '../../src/core/session.ts'
import { createSessionWatch } from '../../src/http/session-watch.ts'
import type { Lookup } from '../../src/store/store.ts'
import { eventually } from '../support/eventually.ts'

const live: Lookup = { state: 'live', stored: {} as StoredSession }
const ended = (sessionId: string, reason: EndReason): SessionEvent => ({ type: 'ended', sessionId, reason })

/** A watch whose looks find what the test says, and what its watchers were told. */
function setUp(
  found: () => Promise<Lookup | null> = async () => live,
  missingAmong: (ids: readonly string[]) => Promise<readonly string[]>[] = () => [],
) {
  let looks = 0
  const told: (EndReason | null)[] = []
  const watch = createSessionWatch({
    look: () => {
      looks += 1
      return found()
    },
    missingAmong,
  })
  const watcher = { ended: (reason: EndReason | null) => void told.push(reason) }
  return { watch, watcher, told, looks: () => looks }
}

test('all that is open for a session is told of its end, once, and nothing of another', t => {
  const { watch, watcher, told } = setUp()
  const other: unknown[] = []
  watch.watch('a', watcher)
  watch.watch('a', { ended: reason => void told.push(reason) })
  watch.watch('b', { ended: reason => void other.push(reason) })
  watch.dispatch(ended('a', 'logout'))
  watch.dispatch(ended('a', 'idle'))
  t.same([told, other], [['logout', 'logout'], []])
  t.end()
})

test('who has stopped is told nothing, and stopping twice is harmless', t => {
  const { watch, watcher, told } = setUp()
  const first = watch.watch('a', watcher)
  first.stop()
  first.stop()
  watch.watch('a', { ended: () => void told.push('idle') })
  first.stop()
  watch.dispatch(ended('a', 'logout'))
  t.same(told, ['idle'])
  t.end()
})

test('a watcher that stops, or begins to watch, while it is told disturbs no other', t => {
  const { watch, told, watcher } = setUp()
  const first = watch.watch('a', {
    ended: () => {
      first.stop()
      second.stop()
      watch.watch('a', watcher)
    },
  })
  const second = watch.watch('a', { ended: () => void told.push('idle') })
  watch.dispatch(ended('a', 'logout'))
  watch.dispatch(ended('a', 'admin'))
  t.ok(told.length <= 2)
  t.equal(told.at(-1), 'admin', 'the late one hears of the next word')
  t.end()
})

test('a look that finds the session gone ends what is open, one without an answer does not', async t => {
  const answers: (() => Promise<Lookup | null>)[] = [
    async () => live,
    () => Promise.reject(new Error('the store is away')),
    async () => ({ state: 'ended', reason: 'absolute', justEnded: null }),
  ]
  let at = 0
  const { watch, watcher, told } = setUp(() => answers[at]?.() ?? Promise.resolve(live))
  const watched = watch.watch('a', watcher)
  for (at = 0; at < 2; at += 1) await watched.look()
  t.same(told, [])
  await watched.look()
  t.same(told, ['absolute'])
  await watched.look()
  t.equal(told.length, 1)
  const unknown = setUp(async () => null)
  await unknown.watch.watch('a', unknown.watcher).look()
  t.same(unknown.told, [null])
})

test('nothing is asked for a session for which nothing is open', async t => {
  const { watch, watcher, looks } = setUp()
  const changed = { type: 'extended', sessionId: 'a' } as const
  watch.dispatch(changed)
  watch.watch('a', watcher).stop()
  watch.dispatch(changed)
  t.equal(looks(), 0)
  watch.watch('a', watcher)
  watch.dispatch(changed)
  t.equal(looks(), 1)
})

// The word of an end is lost on the way, while nothing looks broken: whoever copied the cookie would go on listening.
test('what is open is ended without word of it, within a second of the store missing its session', async t => {
  const gone = new Set<string>()
  const asked: (readonly string[])[] = []
  let away = false
  const { watch, watcher, told, looks } = setUp(
    async () => ({ state: 'ended', reason: 'logout', justEnded: null }),
    ids => {
      asked.push(ids)
      // One part of the store hangs, and one is away.
      const others = [new Promise<never>(() => {}), Promise.reject(new Error('the store is away'))]
      return [
        ...others,
        away ? Promise.reject(new Error('the store is away')) : Promise.resolve(ids.filter(id => gone.has(id))),
      ]
    },
  )
  const other = watch.watch('b', { ended: () => t.fail('it lives') })
  watch.watch('a', watcher)
  away = true
  t.ok(await eventually(() => asked.length >= 2), 'without an answer it is asked again')
  t.equal(looks(), 0)
  away = false
  gone.add('a')
  await sleep(1000)
  t.same(told, ['logout'])
  t.ok(await eventually(() => asked.at(-1)?.join() === 'b'), 'of many sessions at once, and none that is over')
  other.stop()
  await sleep(500)
  const before = asked.length
  await sleep(1000)
  t.equal(asked.length, before, 'nothing is asked while nothing is open')
})
