// Keycloak knows all sessions of one login there by one grant: to revoke the refresh token of any of them ends the others
// at their next refresh. A session that goes on must not be ended by what becomes of another one.
import { setTimeout as sleep } from 'node:timers/promises'
import { type Test, test } from 'tap'
import { eventually } from '../support/eventually.ts'
import { sessionCookie, startStage } from '../support/stage.ts'

const deadGrant = { status: 400, body: { error: 'invalid_grant', error_description: 'Session not active' } }

/** A stage whose provider refuses all refreshes once it has revoked anything. */
async function startShared(t: Test, env: Record<string, string> = {}) {
  const stage = await startStage(t, {
    env: { OIDC_PROVIDER: 'keycloak', ...env },
    provider: { refreshTokens: 'always', lifetimes: { accessToken: 60 } },
  })
  const { provider } = stage
  provider.respond('revocation', () => {
    provider.respond('token', deadGrant, { matches: ({ form }) => form.get('grant_type') === 'refresh_token' })
    return 'pass'
  })
  return stage
}

for (const fault of ['provider', 'Redis'] as const) {
  test(`a login that fails over a fault of ${fault} takes no session along`, async t => {
    const { provider, clock, redis, loggedIn, pendingCallback, open } = await startShared(t, {
      OIDC_USERINFO: 'always',
    })
    const browser = await loggedIn('alice')
    const before = browser.jar.get(sessionCookie)
    const callback = await pendingCallback(browser, 'alice')
    if (fault === 'provider') provider.respond('userinfo', { status: 503 }, { times: 1 })
    else {
      const hang = () => {
        redis.pause()
        setTimeout(() => redis.resume(), 3000)
        return 'pass' as const
      }
      provider.respond('userinfo', hang, { times: 1, when: 'after' })
    }
    t.equal((await open(browser, callback)).status, 503)
    t.equal(browser.jar.get(sessionCookie), before, 'the session goes on')
    const waits = async () => {
      const outboxes = (await redis.keys()).filter(key => key.endsWith(':outbox'))
      const sizes = await Promise.all(outboxes.map(key => redis.client.zcard(key)))
      return sizes.some(size => size > 0)
    }
    t.ok(await eventually(waits), 'the token that was obtained is revoked later')
    clock.advance(70_000)
    t.ok(await eventually(async () => (await browser.api('/api/x')).status === 200))
    t.same(provider.revocations(), [])
  })
}

test('a login that fails where there was no session is revoked at once', async t => {
  const { provider, browser: newBrowser, pendingCallback, open } = await startShared(t, { OIDC_USERINFO: 'always' })
  const browser = newBrowser()
  const callback = await pendingCallback(browser, 'dora')
  provider.respond('userinfo', { status: 503 }, { times: 1 })
  t.equal((await open(browser, callback)).status, 503)
  t.ok(await eventually(() => provider.revocations().length === 1))
})

test('a refresh that comes back after its session was replaced takes none along', async t => {
  const { provider, clock, loggedIn, pendingCallback, open } = await startShared(t)
  const browser = await loggedIn('alice')
  const old = `${sessionCookie}=${browser.jar.get(sessionCookie)}`
  const callback = await pendingCallback(browser, 'alice')
  clock.advance(56_000)
  let answer = () => {}
  const answered = new Promise<'pass'>(resolve => {
    answer = () => resolve('pass')
  })
  provider.respond('token', () => answered, {
    times: 1,
    when: 'after',
    matches: ({ form }) => form.get('grant_type') === 'refresh_token',
  })
  const asked = browser.api('/api/x', { cookies: [old] })
  t.ok(await eventually(() => provider.tokenCalls('refresh_token').length === 1))
  t.equal((await open(browser, callback)).status, 303)
  answer()
  await asked
  await sleep(1500)
  clock.advance(70_000)
  t.equal((await browser.api('/api/x')).status, 200)
  t.same(provider.revocations(), [])
})

// A link on another site leads to the login, and the Strict cookie does not come along; or the browser has lost it.
test('a session that the browser has lost is replaced by the next one, and its end takes none along', async t => {
  const { provider, clock, gateway, loggedIn } = await startShared(t, { SESSION_IDLE_TIMEOUT: '4s' })
  const browser = await loggedIn('bob')
  const old = browser.jar.get(sessionCookie)
  clock.advance(100)
  await browser.navigate(`${gateway.url}/bff/login`, { from: 'https://portal.example' })
  t.not(browser.jar.get(sessionCookie), old)
  t.match(gateway.events('session_ended'), [{ reason: 'replaced' }])
  for (let seconds = 0; seconds < 6; seconds += 1) {
    await sleep(1000)
    t.equal((await browser.api('/api/x')).status, 200)
  }
  clock.advance(70_000)
  t.equal((await browser.api('/api/x')).status, 200)
  t.same(provider.revocations(), [])
})

test('logins side by side leave each other alone', async t => {
  const { clock, gateway, loggedIn, pendingCallback, open } = await startShared(t)
  const browser = await loggedIn('carol')
  clock.advance(1000)
  const callbacks = [await pendingCallback(browser, 'carol'), await pendingCallback(browser, 'carol')]
  const cookies: string[] = []
  for (const callback of callbacks) {
    clock.advance(1000)
    t.equal((await open(browser, callback)).status, 303)
    cookies.push(`${sessionCookie}=${browser.jar.get(sessionCookie)}`)
  }
  t.match(gateway.events('session_ended'), [{ reason: 'replaced' }], 'the one of before has ended')
  for (const cookie of cookies) t.equal((await browser.api('/api/x', { cookies: [cookie] })).status, 200)
})
