import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import tap, { type Test, test } from 'tap'
import { sessionIdOf } from '../../src/core/session.ts'
import type { BrowserResponse } from '../support/browser.ts'
import { launchChromium } from '../support/chromium.ts'
import { eventually } from '../support/eventually.ts'
import { holdTokenResponses, type KnownSession, knownSession, lastIdToken } from '../support/provider-logout.ts'
import { linked, sessionCookie, startStage } from '../support/stage.ts'

const stage = await startStage(tap, { redisDir: tap.testdir() })
const { gateway, provider, redis } = stage
const { issuer } = provider

const enter = (user: string) => knownSession(stage, user)
const isAlive = async ({ browser }: KnownSession) => (await browser.api('/bff/user')).status === 200
/** As the frame in the provider's page asks: from another site, without cookies. */
const ask = (query: string, cookie?: string) =>
  stage.browser().get(`/bff/frontchannel${query}`, {
    headers: { 'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'iframe' },
    cookies: cookie === undefined ? [] : [`${sessionCookie}=${cookie}`],
  })
const queryOf = (...pairs: [string, string][]) => `?${new URLSearchParams(pairs)}`

/** The one answer there is. */
function constant(t: Test, answer: BrowserResponse, name: string): void {
  const { date: _, ...headers } = answer.headers
  t.strictSame([answer.status, answer.text], [200, ''], name)
  t.strictSame(
    headers,
    {
      'cache-control': 'no-store',
      'content-security-policy': `default-src 'none'; frame-ancestors ${issuer}`,
      'cross-origin-resource-policy': 'same-origin',
      'referrer-policy': 'no-referrer',
      'x-content-type-options': 'nosniff',
      'content-type': 'text/html; charset=utf-8',
      'content-length': '0',
      connection: 'close',
    },
    name,
  )
}

test('a front-channel logout ends the session that it names, and its refresh token is revoked', async t => {
  const [session, other] = [await enter('alice'), await enter('alice')]
  constant(t, await ask(queryOf(['iss', issuer], ['sid', session.sid])), 'the answer')
  for (const path of ['/bff/user', '/api/items'])
    t.match((await session.browser.api(path)).json(), { code: 'session_revoked', reason: 'frontchannel_logout' })
  t.notOk((await stage.sessions()).some(key => key.endsWith(sessionIdOf(session.cookie))))
  t.ok(await isAlive(other), 'and no other of the same user')
  const isRevoked = () => provider.revocations().some(({ form }) => form.get('token') === session.refreshToken)
  t.ok(await eventually(isRevoked))
  t.match(gateway.events('provider_logout'), [{ channel: 'front', ended: 1 }])
})

// Anybody can open the address: a guess must end nothing, and the answer must not tell which sessions there are.
test('what does not name a session and its issuer, once each, ends nothing and gets the same answer', async t => {
  const [session, dead] = [await enter('bob'), await enter('carol')]
  const right: [string, string][] = [
    ['iss', issuer],
    ['sid', session.sid],
  ]
  await dead.browser.api('/bff/logout', { method: 'POST' })
  const monitor = await redis.monitor()
  const malformed: Record<string, string> = {
    nothing: '',
    'no sid': queryOf(['iss', issuer]),
    'no iss': queryOf(['sid', session.sid]),
    'an empty iss': queryOf(['sid', session.sid], ['iss', '']),
    'an empty sid': queryOf(['sid', ''], ['iss', issuer]),
    'another issuer': queryOf(['sid', session.sid], ['iss', 'https://evil.test']),
    'the issuer with a slash': queryOf(['sid', session.sid], ['iss', `${issuer}/`]),
    'the issuer in capitals': queryOf(['sid', session.sid], ['iss', issuer.toUpperCase()]),
    'sid twice': queryOf(...right, ['sid', session.sid]),
    'iss twice': queryOf(...right, ['iss', issuer]),
    'another iss first': queryOf(['iss', 'https://evil.test'], ...right),
    'sid as a list': queryOf(['iss', issuer], ['sid[]', session.sid]),
    'names in capitals': queryOf(['ISS', issuer], ['SID', session.sid]),
    'a long sid': queryOf(['iss', issuer], ['sid', 'x'.repeat(513)]),
    'broken encoding': `?iss=${encodeURIComponent(issuer)}&sid=%zz&sid=%00`,
  }
  for (const [name, query] of Object.entries(malformed)) {
    constant(t, await ask(query), name)
    constant(t, await ask(query, session.cookie), `${name}, with the cookie`)
  }
  await redis.client.echo('the end')
  monitor.stop()
  const asked = monitor.commands.filter(words => words.some(word => /\{(sid|user)-/.test(word)))
  t.strictSame(asked, [], 'none of it costs the store a command')
  for (const sid of [
    'unknown',
    dead.sid,
    `${session.sid}x`,
    session.sid.toUpperCase(),
    ` ${session.sid}`,
    '*',
    session.cookie,
  ])
    constant(t, await ask(queryOf(['iss', issuer], ['sid', sid])), `sid ${sid === session.cookie ? 'cookie' : sid}`)
  t.ok(await isAlive(session))
  constant(t, await ask(queryOf(...right, ['extra', '1'], ['extra', '2'])), 'what means nothing is passed over')
  t.notOk(await isAlive(session))
})

// The logout wins over the callback of another tab that is just being redeemed.
test('a front-channel logout that arrives while a login of the same session is in flight wins', async t => {
  const browser = stage.browser()
  const callback = await stage.pendingCallback(browser, 'dave')
  const release = holdTokenResponses(provider)
  const issued = provider.issued.idTokens.size
  const opening = stage.open(browser, callback)
  t.ok(await eventually(() => provider.issued.idTokens.size > issued))
  constant(t, await ask(queryOf(['iss', issuer], ['sid', String(lastIdToken(provider).sid)])), 'the answer')
  release()
  t.equal((await opening).status, 400)
  provider.reset()
  t.equal(browser.jar.get(sessionCookie), undefined)
  t.match(gateway.events('session_ended').at(-1), { reason: 'frontchannel_logout' })
})

test('a front-channel logout without a store gets the same answer, and the session is kept', async t => {
  const session = await enter('erin')
  await redis.down()
  constant(t, await ask(queryOf(['iss', issuer], ['sid', session.sid])), 'the answer')
  t.match(gateway.events('provider_logout_failed').at(-1), { channel: 'front' })
  await redis.restart()
  await linked(gateway)
  t.ok(await isAlive(session))
})

test('in a real browser a frame in the page of the provider signs out, without the cookie, and no other page may show it', async t => {
  const chromium = await launchChromium()
  const page = await chromium.newPage()
  const frame = (src: string) => `<!doctype html><iframe src="${src.replaceAll('&', '&amp;')}"></iframe>`
  let src = ''
  const elsewhere = createServer((_request, response) => {
    response.setHeader('content-type', 'text/html').end(frame(src))
  }).listen(0, '127.0.0.1')
  t.teardown(async () => {
    await chromium.close()
    elsewhere.close()
  })
  const sent: string[] = []
  page.on('request', async request => {
    if (request.url().includes('/frontchannel')) sent.push((await request.allHeaders()).cookie ?? 'none')
  })
  const refused: string[] = []
  page.on('console', message => {
    if (/frame-ancestors/.test(message.text())) refused.push(message.text())
  })
  const signIn = async () => {
    await page.goto(`${gateway.url}/bff/login?returnUrl=/welcome`)
    if (page.url().startsWith(issuer)) {
      await page.fill('input[name=login]', 'frank')
      await page.click('button')
    }
    await page.waitForURL(`${gateway.url}/welcome`)
    const { iss, sid } = lastIdToken(provider)
    src = `${gateway.url}/bff/frontchannel?${new URLSearchParams({ iss: String(iss), sid: String(sid) })}`
  }
  const status = async () => {
    const cookie = (await page.context().cookies()).find(({ name }) => name === sessionCookie)
    const cookies = [`${sessionCookie}=${cookie?.value}`]
    return (await stage.browser().api('/bff/user', { cookies })).status
  }

  await signIn()
  t.equal(await status(), 200)
  provider.respond('logout', { status: 200, headers: { 'content-type': 'text/html' }, body: frame(src) }, { times: 1 })
  await page.goto(`${issuer}/session/end`)
  t.ok(await eventually(() => gateway.events('provider_logout').at(-1)?.channel === 'front' && sent.length === 1))
  t.strictSame([sent, refused], [['none'], []], 'no cookie was sent, and the frame was shown')
  t.equal(await status(), 401)

  src = src.replace(/sid=[^&]*/, 'sid=unknown')
  await page.goto(`http://127.0.0.1:${(elsewhere.address() as AddressInfo).port}/`)
  t.ok(await eventually(() => refused.length > 0), 'the browser does not show the answer on another page')
})
