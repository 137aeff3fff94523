import { randomBytes } from 'node:crypto'
import tap, { test } from 'tap'
import { createBrowser } from '../support/browser.ts'
import { createClock } from '../support/clock.ts'
import { eventually } from '../support/eventually.ts'
import { startGateway } from '../support/gateway.ts'
import { login } from '../support/login.ts'
import { startProvider } from '../support/provider.ts'
import { startRedis } from '../support/redis.ts'
import { startUpstream } from '../support/upstream.ts'

const clock = createClock()
const lifetime = 300
const [provider, redis, upstream] = await Promise.all([
  startProvider({ clock, claims: ['clearance', 'cost'], idTokenClaims: 'full', lifetimes: { accessToken: lifetime } }),
  startRedis(),
  startUpstream(),
])
const shared = { REDIS_URL: redis.url, SESSION_KEYS: randomBytes(32).toString('base64') }
const policies = { UPSTREAM_U0_REQUIRE: 'clearance.level=high', UPSTREAM_U0_CLAIMS_HEADERS: 'X-Cost=cost' }
const start = (env: Record<string, string>) =>
  startGateway({ provider, clock, upstreams: { '/api': upstream.url }, env: { ...shared, ...env } })
const gateway = await start({ ...policies, USER_CLAIMS: 'sub,roles' })
/** Another window on the same sessions. */
const revealing = await start({ USER_CLAIMS: 'sub,roles,clearance,cost,email' })

tap.teardown(async () => {
  await Promise.all([gateway.close(), revealing.close()])
  await Promise.all([provider.close(), upstream.close(), redis.stop()])
})

// What an API is told of a user (a grade, a cost centre, a note on the account) is often not for the user's eyes.
test('a session keeps the claims that policies ask for, and the browser is not shown them', async t => {
  provider.users.set('alice', { clearance: { level: 'high' }, cost: 'R7', roles: ['editor'] })
  const browser = createBrowser({ origin: gateway.url })
  await login(browser, gateway.url, provider)
  const cookies = () => [`__Host-coatcheck=${browser.jar.get('__Host-coatcheck')}`]
  const shownBy = async ({ url }: { url: string }) => {
    const answer = await createBrowser({ origin: url }).api('/bff/user', { cookies: cookies() })
    return answer.json<{ user: object }>().user
  }
  t.same(await shownBy(gateway), { sub: 'alice', roles: ['editor'] })
  const kept = { sub: 'alice', roles: ['editor'], clearance: { level: 'high' }, cost: 'R7' }
  t.same(await shownBy(revealing), kept, 'and nothing that nobody asked for')

  provider.users.set('alice', { clearance: { level: 'low' } })
  clock.advance(lifetime * 1000)
  await browser.api('/api/items')
  t.equal(provider.tokenCalls('refresh_token').length, 1)
  t.same(await shownBy(gateway), { sub: 'alice', roles: ['editor'] }, 'after a refresh')
  // The other gateway may have them at hand for up to a second.
  const isNew = async () => JSON.stringify(await shownBy(revealing)).includes('"low"')
  t.ok(await eventually(isNew))
  t.same(await shownBy(revealing), { ...kept, clearance: { level: 'low' } }, 'and they are as new as the rest')
})
