import tap, { test } from 'tap'
import { eventually } from '../support/eventually.ts'
import { startStage } from '../support/stage.ts'

const trusting = await startStage(tap, { env: { TRUSTED_PROXIES: '127.0.0.0/8, ::1, 10.0.0.0/8' } })
const direct = await startStage(tap, { memory: true })

interface Sessions {
  sessions: { address: string }[]
}

/** The address in the list of sessions after a login whose callback came with this header. */
async function addressAfter(stage: typeof trusting, user: string, forwardedFor: string): Promise<string | undefined> {
  const browser = stage.browser()
  const callback = await stage.pendingCallback(browser, user)
  await stage.open(browser, callback, { 'X-Forwarded-For': forwardedFor })
  return (await browser.api('/bff/sessions')).json<Sessions>().sessions.at(-1)?.address
}

test('a session remembers the client behind trusted proxies, and what it made up is passed over', async t => {
  t.equal(await addressAfter(trusting, 'alice', '198.51.100.1'), '198.51.100.1')
  t.equal(await addressAfter(trusting, 'bob', '6.6.6.6, 198.51.100.1:5678, 10.1.1.1'), '198.51.100.1')
  t.equal(await addressAfter(trusting, 'carol', '[2001:DB8::1]:443'), '2001:db8::1')
  t.equal(await addressAfter(trusting, 'dave', 'unknown'), '127.0.0.1')
})

// Whoever reaches the gateway without a proxy would otherwise write any address into lists, logs and limits.
test('without trust nobody is believed, and the log says so once', async t => {
  t.equal(await addressAfter(direct, 'alice', '198.51.100.1'), '127.0.0.1')
  for (let count = 0; count < 10; count += 1)
    await direct
      .browser()
      .get('/bff/user', { headers: { 'X-Forwarded-For': `1.2.3.${count}`, Forwarded: 'for=1.1.1.1' } })
  const warnings = direct.gateway.log.filter(line => line.includes('TRUSTED_PROXIES'))
  t.equal(warnings.length, 1)
  t.match(JSON.parse(warnings[0] ?? ''), { level: 'warn', peer: '127.0.0.1', variable: 'TRUSTED_PROXIES' })
  const quiet = trusting.gateway.log.filter(line => line.includes('TRUSTED_PROXIES'))
  t.strictSame(quiet, [])
})

test('the access log names the client', async t => {
  const browser = trusting.browser()
  await browser.get('/bff/user?mark', { headers: { 'X-Forwarded-For': '203.0.113.77' } })
  t.ok(await eventually(() => trusting.gateway.log.some(line => line.includes('"address":"203.0.113.77"'))))
})

// A password reset or redirect made of the Host header would lead to the attacker's; here nothing is made of it.
test('a login for another host is refused, and none moves the redirect URI', async t => {
  const hosts = ['evil.test', '', 'localhost.evil.test', 'user@localhost', 'localhost:80:80', 'local host']
  for (const stage of [trusting, direct]) {
    for (const host of hosts) {
      const answer = await stage.browser().get('/bff/login', { headers: [['Host', host]] })
      t.same([answer.status, answer.rawSetCookie, answer.headers.location], [400, [], undefined], host)
      t.equal(answer.headers['cache-control'], 'no-store')
    }
    for (const headers of [
      { Forwarded: 'host=evil.test' },
      { 'X-Original-Host': 'evil.test' },
      { 'X-Forwarded-Port': '99' },
      { Host: '127.0.0.1' },
    ]) {
      const answer = await stage.browser().get('/bff/login', { headers })
      const redirect = new URL(answer.headers.location ?? 'http://none').searchParams.get('redirect_uri')
      t.same([answer.status, redirect], [302, `${stage.gateway.url}/bff/callback`])
    }
  }
  const forwarded = { 'X-Forwarded-Host': 'evil.test' }
  t.equal((await trusting.browser().get('/bff/login', { headers: forwarded })).status, 400)
  const ignored = await direct.browser().get('/bff/login', { headers: forwarded })
  t.notMatch(ignored.headers.location, /evil/)
})

test('a request that came over plain http to an https application gets nothing, and no redirect', async t => {
  const secure = await startStage(t, {
    memory: true,
    env: { PUBLIC_URL: 'https://app.test', TRUSTED_PROXIES: '127.0.0.1' },
  })
  const own = { Host: 'app.test', 'X-Forwarded-Proto': 'http', 'X-CSRF': '1' }
  for (const path of ['/api/items', '/bff/login', '/bff/user']) {
    const answer = await secure.browser().get(`http://localhost:${secure.gateway.port}${path}`, { headers: own })
    t.same([answer.status, answer.rawSetCookie, answer.headers.location], [400, [], undefined], path)
    t.equal(answer.headers['strict-transport-security'], 'max-age=31536000; includeSubDomains')
  }
})
