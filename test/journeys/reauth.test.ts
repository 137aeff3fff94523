import { setTimeout as sleep } from 'node:timers/promises'
import { type Test, test } from 'tap'
import { sessionHandle, sessionIdOf } from '../../src/core/session.ts'
import { createBrowser, createJar, type TestBrowser } from '../support/browser.ts'
import { login } from '../support/login.ts'
import { type Stage, sessionCookie, startStage } from '../support/stage.ts'

const adminToken = 'admin-token-of-the-test'

const setUp = (t: Test, reauth: string | undefined, memory = true) =>
  startStage(t, {
    memory,
    env: {
      ADMIN_TOKEN: adminToken,
      SESSION_IDLE_TIMEOUT: memory ? '600s' : '1s',
      SESSION_ABSOLUTE_TIMEOUT: memory ? '1000s' : '60s',
      ...(reauth !== undefined && { SESSION_REAUTH: reauth }),
    },
  })

async function enter({ browser, gateway, provider }: Stage): Promise<TestBrowser> {
  // The provider's own cookies go by the machine's clock.
  const own = browser(createJar())
  await login(own, gateway.url, provider)
  if (own.jar.get(sessionCookie) === undefined) throw new Error('no login')
  return own
}

/** What the next login of this browser asks the provider for. */
async function promptOf(browser: TestBrowser, query = ''): Promise<string | null> {
  const page = await browser.navigate(`/bff/login${query}`, { stopBefore: () => true })
  return new URL(page.headers.location ?? '').searchParams.get('prompt')
}

const end = (stage: Stage, browser: TestBrowser) =>
  createBrowser().post(`${stage.gateway.internalUrl}/admin/revoke`, {
    headers: { authorization: `Bearer ${adminToken}` },
    body: { session: sessionHandle(sessionIdOf(browser.jar.get(sessionCookie) ?? '')) },
  })

// The idle timeout is for the computer that was left alone. The provider's own session outlives it, and would let in
// whoever sits down there next, without a question.
test('after an expiry the provider is asked to ask, and only then', async t => {
  for (const reauth of ['select_account', 'login']) {
    const stage = await setUp(t, reauth)
    t.test(reauth, async t => {
      const { clock } = stage
      t.equal(await promptOf(stage.browser()), null, 'a first login')
      const live = await enter(stage)
      t.equal(await promptOf(live), null, 'a live session')
      const ended = await enter(stage)
      await end(stage, ended)
      t.equal(await promptOf(ended), null, 'a session that an administrator ended')
      const out = await enter(stage)
      await out.api('/bff/logout', { method: 'POST' })
      t.equal(await promptOf(out), null, 'a session that its user ended')

      const idle = await enter(stage)
      clock.advance(601_000)
      t.equal(await promptOf(idle), reauth, 'idle')
      t.equal(await promptOf(idle), reauth, 'and again, if that login was left')
      t.equal(await promptOf(idle, '?prompt=none'), 'none', 'unless the request brings its own')
      t.equal(await promptOf(idle, '?prompt=consent'), 'consent')

      const busy = await enter(stage)
      for (let minutes = 0; minutes < 10; minutes += 5) {
        clock.advance(300_000)
        t.equal((await busy.api('/bff/user')).status, 200)
      }
      clock.advance(401_000)
      t.match((await busy.api('/bff/user')).json(), { reason: 'absolute' })
      t.equal(await promptOf(busy), reauth, 'absolute')
    })
  }
})

test('login means that the form is shown to somebody whom the provider still knows', async t => {
  const stage = await setUp(t, 'login')
  t.test('and a session is open when it is filled in', async t => {
    const browser = await enter(stage)
    stage.clock.advance(601_000)
    const form = await browser.navigate('/bff/login')
    t.ok(form.url.startsWith(stage.provider.issuer), 'no way past the provider')
    t.notOk((await browser.api('/bff/user')).status === 200)
    await login(browser, stage.gateway.url, stage.provider)
    t.equal((await browser.api('/bff/user')).status, 200)
    t.equal(await promptOf(browser), null, 'and all is as before')
  })
})

test('without the setting whoever is known there is let in without a question', async t => {
  for (const reauth of [undefined, 'sso']) {
    const stage = await setUp(t, reauth)
    t.test(String(reauth), async t => {
      const browser = await enter(stage)
      stage.clock.advance(601_000)
      t.equal(await promptOf(browser), null)
      await browser.navigate('/bff/login')
      t.equal((await browser.api('/bff/user')).status, 200)
    })
  }
})

test('with Redis the end is remembered as well, and without it no login is let through unasked', async t => {
  const stage = await setUp(t, 'login', false)
  t.test('a session that nobody asked for since', async t => {
    const browser = await enter(stage)
    await sleep(1100)
    t.equal(await promptOf(browser), 'login')
    await stage.redis.down()
    const page = await browser.navigate('/bff/login', { stopBefore: () => true })
    t.equal(page.status, 503)
    t.equal(page.headers.location, undefined)
    await stage.redis.restart()
  })
})
