// The part of a gateway that ends sessions and revokes their tokens, wired as in src/parts.ts, and nothing else: it
// starts in a third of the time of a whole gateway, for tests that kill hundreds.
import { request } from 'node:http'
import { createSeal } from '../../src/core/seal.ts'
import { createNoteEnded } from '../../src/flows/end-session.ts'
import { createExpiry } from '../../src/flows/expiry.ts'
import { createRevoker } from '../../src/flows/revocation.ts'
import type { Provider, Revocation } from '../../src/oidc/provider.ts'
import { createRedisStore } from '../../src/store/redis.ts'
import { touchIntervalMs } from '../../src/store/store.ts'

const setting = (name: string) => process.env[name] ?? ''
const say = (line: object) => process.stdout.write(`${JSON.stringify(line)}\n`)
const audit = (event: object) => void say({ msg: 'audit', ...event })
const issuer = setting('OIDC_ISSUER')
const lifetimes = {
  idleTimeout: Number(setting('SESSION_IDLE_TIMEOUT')),
  absoluteTimeout: Number(setting('SESSION_ABSOLUTE_TIMEOUT')),
}

/** The real one takes half of the time that it takes to start. */
const provider: Pick<Provider, 'revoke'> = {
  revoke: token =>
    new Promise<Revocation>(resolve => {
      const failed = () => resolve({ outcome: 'failed', retryAfter: undefined })
      const headers = { 'content-type': 'application/x-www-form-urlencoded' }
      const call = request(`${issuer}/token/revocation`, { method: 'POST', headers }, response => {
        response.resume()
        if (response.statusCode === 200) resolve({ outcome: 'revoked' })
        else failed()
      })
      call.on('error', failed)
      call.end(new URLSearchParams({ token }).toString())
    }),
}

const store = createRedisStore({
  address: { url: new URL(setting('REDIS_URL')), ca: undefined },
  seal: createSeal({
    keys: [Buffer.from(setting('SESSION_KEYS'), 'base64')],
    context: JSON.stringify([issuer, setting('OIDC_CLIENT_ID')]),
  }),
  prefix: setting('REDIS_PREFIX'),
  lifetimes,
  onUnreadable: session => say({ msg: 'unreadable', session }),
  elapsed: () => performance.now(),
  onLinkError: () => {},
})
const { random } = Math
const revoker = createRevoker({ store, provider, audit, random })
const noteEnded = createNoteEnded({ store, audit, revokeSoon: id => expiry.soon(id) })
const expiry = createExpiry({
  store,
  noteEnded,
  revoker,
  elapsed: () => performance.now(),
  random,
  settlingMs: 2 * touchIntervalMs(lifetimes),
  idleTimeoutMs: lifetimes.idleTimeout * 1000,
})

for (let up = false; !up; ) {
  up = await store.ping().then(
    () => true,
    () => new Promise<boolean>(resolve => setTimeout(resolve, 5, false)),
  )
}
expiry.start()
say({ msg: 'started' })
// The input ends with the test process, however that ends.
process.stdin.resume().on('end', () => process.exit())
