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
