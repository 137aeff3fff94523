import { randomBytes } from 'node:crypto'
import { test } from 'tap'
import { createBrowser } from '../support/browser.ts'
import { createClock } from '../support/clock.ts'
import { eventually } from '../support/eventually.ts'
import { startGateway } from '../support/gateway.ts'
import { login } from '../support/login.ts'
import { startProvider } from '../support/provider.ts'
import { startRedis } from '../support/redis.ts'
import { startUpstream } from '../support/upstream.ts'

// A refresh token that cannot be opened is not none: the session must not end for it, and its token not stay valid for ever.
test('a new key that comes to one replica after the other ends no session', async t => {
  const clock = createClock()
  const [provider, redis, upstream] = await Promise.all([
    startProvider({ clock, lifetimes: { accessToken: 60 } }),
    startRedis(),
    startUpstream(),
  ])
  const [present, next] = [randomBytes(32).toString('base64'), randomBytes(32).toString('base64')]
  const start = (SESSION_KEYS: string, env = {}) =>
    startGateway({
      provider,
      clock,
      upstreams: { '/api': upstream.url },
      env: {
        ...env,
        SESSION_KEYS,
        REDIS_URL: redis.url,
        UPSTREAM_B_PATH: '/b',
        UPSTREAM_B_URL: upstream.url,
        UPSTREAM_B_SCOPE: 'api:read',
      },
    })
  const old = await start(present)
  const renewed = await start(`${next},${present}`, { PUBLIC_URL: old.url })
  t.teardown(async () => {
    await renewed.close()
    await Promise.all([provider.close(), redis.stop(), upstream.close()])
  })
  const browser = createBrowser({ origin: old.url })
  await login(browser, old.url, provider)
  const ask = ({ url }: { url: string }, path: string, options = {}) =>
    browser.api(`${url}${path}`, { headers: { Origin: old.url, 'Sec-Fetch-Site': 'same-origin' }, ...options })
  t.equal((await ask(old, '/api/x')).status, 200)
  t.equal((await ask(renewed, '/b/x')).status, 200, 'the refresh token is sealed with the new key')
  clock.advance(70_000)
  t.match((await ask(old, '/api/x')).json(), { status: 503, code: 'store_unavailable' })
  t.match(old.events('record_unreadable'), [{}])
  t.equal((await ask(renewed, '/api/x')).status, 200, 'the session goes on')
  await old.close()
  t.equal((await ask(renewed, '/bff/logout', { method: 'POST' })).status, 200)
  t.ok(await eventually(() => provider.revocations().length > 0), 'and its token is revoked')
  t.same(provider.replays(), [])
})
