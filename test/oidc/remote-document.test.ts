import { test } from 'tap'
import { ProviderUnavailable } from '../../src/core/errors.ts'
import { createRemoteDocument } from '../../src/oidc/remote-document.ts'
import { createClock } from '../support/clock.ts'

test('while it waits to try again, a document tells what was wrong the last time', async t => {
  // A readiness probe may be the first to meet a wrong issuer, and it logs nothing.
  const faults: Error[] = [new ProviderUnavailable({ detail: 'the issuer is another' }), new TypeError('bug')]
  const clock = createClock()
  const document = createRemoteDocument<string>({
    load: () => Promise.reject(faults.shift()),
    clock,
    rules: { freshForMs: 1000, usableForMs: 1000, refreshCooldownMs: 1000 },
  })
  const fault = () => document.get().catch((error: unknown) => error)
  t.match(await fault(), { detail: 'the issuer is another' })
  t.match(await fault(), { detail: 'waiting to try again: the issuer is another', retryAfter: 1 })
  clock.advance(60_000)
  t.match(await fault(), { message: 'bug' })
  t.match(await fault(), { detail: /^waiting to try again$/, retryAfter: 1 })
})

// Each caller would hold a lease, a browser or a probe for as long.
test('who has a version that may still be used does not wait for a fetch that hangs', async t => {
  const clock = createClock()
  const answers: ((value: string) => void)[] = []
  const document = createRemoteDocument<string>({
    load: () => new Promise(resolve => answers.push(resolve)),
    clock,
    rules: { freshForMs: 1000, usableForMs: 60_000, refreshCooldownMs: 1000 },
  })
  const first = document.get()
  answers[0]?.('first')
  t.equal(await first, 'first')
  clock.advance(2000)
  const startedAt = performance.now()
  t.same(await Promise.all([document.get(), document.get()]), ['first', 'first'])
  t.ok(performance.now() - startedAt < 5000)
  t.equal(answers.length, 2, 'one fetch for both')
  answers[1]?.('second')
  t.equal(await document.get(), 'second', 'and it is not in vain')
  clock.advance(2000)
  const prompt = document.get()
  answers[2]?.('third')
  t.equal(await prompt, 'third', 'what comes at once is waited for')
})
