import { type Test, test } from 'tap'
import type { BrowserResponse, TestBrowser } from '../support/browser.ts'
import { launchChromium } from '../support/chromium.ts'
import { startEntra } from '../support/entra.ts'
import { formOf } from '../support/page-form.ts'
import {
  bindingPrefix,
  hopOf,
  login,
  type Stage,
  sessionCookie,
  startStage,
  startStageAround,
} from '../support/stage.ts'

const env = { OIDC_RESPONSE_MODE: 'form_post' }

/** Logs in at the provider and stops at the page that would post the answer: where to, and what. */
async function pendingForm(
  stage: Stage,
  browser: TestBrowser,
  params = '',
): Promise<{ action: string; fields: URLSearchParams }> {
  stage.provider.autoLogin = 'alice'
  const page = await browser.navigate(`${stage.gateway.url}/bff/login?returnUrl=/welcome${params}`)
  stage.provider.autoLogin = undefined
  const form = formOf(page.text)
  if (form?.action !== `${stage.gateway.url}/bff/callback`) throw new Error(`no form: ${page.status} ${page.text}`)
  return form
}

/** Posts an answer as the provider's page does. */
const post = (stage: Stage, browser: TestBrowser, body: URLSearchParams, headers: Record<string, string> = {}) =>
  browser.navigate('/bff/callback', {
    method: 'POST',
    body,
    from: stage.provider.issuer,
    stopBefore: () => true,
    headers,
  })

/** Nothing was opened, redeemed or told. */
function isRefused(t: Test, answer: BrowserResponse, status = 400): void {
  t.equal(answer.status, status)
  t.match(answer.headers['content-type'], 'text/html')
  t.equal(answer.headers.location, undefined)
  t.notOk(answer.rawSetCookie.some(line => line.startsWith(`${sessionCookie}=`)))
}

test('a login that is answered by a form', async t => {
  const stage = await startStage(t, { env })
  const { gateway, provider } = stage

  t.test('opens a session, and nothing of it is ever in an address', async t => {
    const browser = stage.browser()
    const end = await login(browser, gateway.url, provider, { user: 'alice', returnUrl: '/welcome' })
    t.equal(new URL(end.url).pathname, '/welcome')
    t.equal((await browser.api('/api/items')).status, 200)
    t.notMatch(end.chain.map(({ url }) => url).join(' '), /code=/)
    t.notOk(
      browser.jar.list().some(({ name }) => name.startsWith(bindingPrefix)),
      'the cookie of the login is gone',
    )
  })

  t.test('is bound by a cookie that comes along with a form of another site', async t => {
    const browser = stage.browser()
    const started = await browser.navigate('/bff/login', { stopBefore: () => true })
    const [line = ''] = started.rawSetCookie
    t.match(line, /^__Host-coatcheck-login-[\w-]{12}=[\w-]{43}; Max-Age=600; Path=\/; HttpOnly; Secure; SameSite=None$/)
    t.match(new URL(started.headers.location ?? '').searchParams.get('response_mode'), 'form_post')
    const form = await pendingForm(stage, browser)
    const answer = await post(stage, browser, form.fields)
    t.equal(answer.status, 303)
    const cleared = answer.rawSetCookie.find(each => each.startsWith(bindingPrefix))
    t.match(cleared, /=; .*Path=\/; .*HttpOnly; Secure; SameSite=None/)
    t.match(
      answer.rawSetCookie.find(each => each.startsWith(`${sessionCookie}=`)),
      /SameSite=Strict/,
    )
  })

  t.test('that was silent and refused goes back where it came from', async t => {
    const browser = stage.browser()
    const page = await browser.navigate('/bff/login?prompt=none&returnUrl=/quiet')
    const form = formOf(page.text)
    t.match(form?.fields.get('error'), 'login_required')
    const answer = await post(stage, browser, form?.fields ?? new URLSearchParams())
    t.match([answer.status, answer.headers.location], [303, '/quiet'])
  })

  // Login CSRF: a page of the attacker posts the attacker's own answer from the victim's browser (RFC 9700 §4.7).
  t.test('opens nothing in another browser, whatever cookie that holds', async t => {
    const attacker = stage.browser()
    const form = await pendingForm(stage, attacker)
    const victim = await stage.loggedIn('victim')
    const calls = provider.tokenCalls().length
    isRefused(t, await post(stage, victim, form.fields))
    const name = attacker.jar.list().find(each => each.name.startsWith(bindingPrefix))?.name ?? ''
    for (const value of ['A'.repeat(43), '', 'x']) {
      victim.jar.set(name, value)
      isRefused(t, await post(stage, victim, form.fields))
    }
    t.equal(provider.tokenCalls().length, calls, 'no code was redeemed')
    t.equal((await victim.api('/bff/user')).status, 200, 'and the session is as it was')
    t.equal((await post(stage, attacker, form.fields)).status, 303, 'nothing was spent')
  })

  // The same answer again: a second click, or a form kept from before (RFC 6749 §4.1.2).
  t.test('is answered once', async t => {
    const browser = stage.browser()
    const { fields } = await pendingForm(stage, browser)
    const thief = stage.browser(browser.jar.clone())
    t.equal((await post(stage, browser, fields)).status, 303)
    isRefused(t, await post(stage, browser, fields))
    isRefused(t, await post(stage, thief, fields))
    t.equal((await browser.api('/bff/user')).status, 200)
  })

  // Two parsers on the way read different values, or a mixed-up provider answers (RFC 6749 §3.1, RFC 9207 §2.4).
  t.test('with a missing, empty, repeated or foreign parameter opens nothing', async t => {
    const changes: Record<string, (fields: URLSearchParams) => void> = {
      'without a state': fields => fields.delete('state'),
      'with an empty state': fields => fields.set('state', ''),
      'with the state twice': fields => fields.append('state', fields.get('state') ?? ''),
      'with another state': fields => fields.append('state', 'B'.repeat(43)),
      'with the code twice': fields => fields.append('code', fields.get('code') ?? ''),
      'with two codes': fields => fields.append('code', 'b'),
      'without a code': fields => fields.delete('code'),
      'with an empty code': fields => fields.set('code', ''),
      'with an array of codes': fields => {
        fields.set('code[]', fields.get('code') ?? '')
        fields.delete('code')
      },
      'without the issuer that was promised': fields => fields.delete('iss'),
      'with another issuer': fields => fields.set('iss', 'https://login.evil.test'),
      'with a slash more': fields => fields.set('iss', `${provider.issuer}/`),
      'with the issuer twice': fields => fields.append('iss', provider.issuer),
      'with an unknown parameter twice': fields => {
        fields.append('x', '1')
        fields.append('x', '2')
      },
    }
    const browser = stage.browser()
    for (const [name, change] of Object.entries(changes)) {
      const { fields } = await pendingForm(stage, browser)
      const calls = provider.tokenCalls().length
      change(fields)
      const answer = await post(stage, browser, fields)
      isRefused(t, answer)
      t.match(hopOf(answer), /^\/bff\/login\/failed\?reason=\w+&reference=[\w-]+$/, name)
      t.equal(provider.tokenCalls().length, calls, name)
    }
    const { fields } = await pendingForm(stage, browser)
    const query = `?${new URLSearchParams({ ...Object.fromEntries(fields), code: 'x' })}`
    const mixed = await browser.request(`/bff/callback${query}`, { method: 'POST', body: new URLSearchParams() })
    t.equal(mixed.status, 400, 'what stands in the address is no answer')
  })

  t.test('comes as a form, and as a small one', async t => {
    const browser = stage.browser()
    const { fields } = await pendingForm(stage, browser)
    const text = fields.toString()
    const bodies: [status: number, body: string, type: string | undefined][] = [
      [415, JSON.stringify(Object.fromEntries(fields)), 'application/json'],
      [415, text, 'text/plain'],
      [415, text, 'multipart/form-data; boundary=x'],
      [415, text, 'application/x-www-form-urlencodedx'],
      [413, `${text}&x=${'a'.repeat(64 * 1024)}`, 'application/x-www-form-urlencoded'],
      [400, '', 'application/x-www-form-urlencoded'],
      [400, '%%%&&&===', 'application/x-www-form-urlencoded'],
      [400, '__proto__=x&constructor=y', 'application/x-www-form-urlencoded'],
    ]
    for (const [status, body, type] of bodies) {
      const headers = { Accept: 'text/html', ...(type && { 'Content-Type': type }) }
      isRefused(t, await browser.request('/bff/callback', { method: 'POST', body, headers }), status)
    }
    t.equal((await post(stage, browser, fields)).status, 303, 'nothing was spent')
  })

  // A frame or a script of another site posts the form, so that nobody sees it.
  t.test('comes by a navigation of the whole window', async t => {
    const browser = stage.browser()
    const { fields } = await pendingForm(stage, browser)
    const hidden: Record<string, string>[] = [
      { 'Sec-Fetch-Dest': 'iframe' },
      { 'Sec-Fetch-Mode': 'no-cors', 'Sec-Fetch-Dest': 'empty' },
      { 'Sec-Fetch-Mode': 'cors' },
      { 'Sec-Purpose': 'prefetch' },
    ]
    for (const headers of hidden) isRefused(t, await post(stage, browser, fields, headers), 403)
    t.equal((await post(stage, browser, fields)).status, 303)
  })

  // The answer is put into an address after all, where it can be read later (RFC 9700 §4.2.4, §4.3.1).
  t.test('is not taken out of an address', async t => {
    const browser = stage.browser()
    const { fields } = await pendingForm(stage, browser)
    const calls = provider.tokenCalls().length
    const answer = await stage.open(browser, `${gateway.url}/bff/callback?${fields}`)
    isRefused(t, answer)
    t.equal(provider.tokenCalls().length, calls)
    const unknown = await stage.open(browser, `${gateway.url}/bff/callback?error=unsupported_response_mode&state=x`)
    isRefused(t, unknown)
    t.match(unknown.text, /reported an error/)
    t.match(gateway.events('login_rejected').at(-1)?.detail, /by GET.*unsupported_response_mode/)
    const methods = await browser.request('/bff/callback', { method: 'PUT' })
    t.match([methods.status, methods.headers.allow], [405, 'GET, POST'])
    t.equal((await post(stage, browser, fields)).status, 303, 'nothing was spent')
  })
})

test('without it no form is taken', async t => {
  const stage = await startStage(t, { memory: true })
  const answer = await stage.browser().post('/bff/callback', { body: new URLSearchParams({ code: 'x', state: 'y' }) })
  t.match([answer.status, answer.headers.allow, answer.json()], [405, 'GET', { code: 'method_not_allowed' }])
})

test('with pushed requests the answer comes by a form as well', async t => {
  const stage = await startStage(t, { env, provider: { requirePar: true } })
  const alice = await stage.loggedIn('alice')
  t.equal((await alice.api('/api/items')).status, 200)
  t.equal(stage.provider.of('par')[0]?.form.get('response_mode'), 'form_post')
})

/** The cookie rules of a real browser: a Lax cookie stays away from a form of another site, also a young one. */
async function signIn(t: Test, gatewayUrl: string, user: string): Promise<void> {
  const chromium = await launchChromium()
  t.teardown(() => chromium.close())
  const context = await chromium.newContext()
  const page = await context.newPage()
  const posts: string[] = []
  page.on('request', request => {
    if (request.method() === 'POST') posts.push(request.url())
  })
  await page.goto(`${gatewayUrl}/bff/login?returnUrl=/welcome`)
  await page.fill('input[name=login]', user)
  await page.click('button')
  await page.waitForURL(`${gatewayUrl}/welcome`)
  t.ok(posts.includes(`${gatewayUrl}/bff/callback`))
  const [session, ...more] = await context.cookies(gatewayUrl)
  t.match(session, { name: sessionCookie, sameSite: 'Strict', httpOnly: true, secure: true })
  t.same(more, [], 'the cookie of the login is gone')
  const answer = await context.request.get(`${gatewayUrl}/bff/user`, { headers: { 'X-CSRF': '1' } })
  t.equal(answer.status(), 200)
}

test('a real browser brings the form and the cookie along, from oidc-provider', async t => {
  const stage = await startStage(t, { env })
  await signIn(t, stage.gateway.url, 'alice')
})

test('a real browser brings the form and the cookie along, from Entra ID', async t => {
  const own = { OIDC_SCOPE: 'openid profile offline_access api://a/x', OIDC_USERINFO: 'never' }
  const stage = await startStageAround(t, clock => startEntra({ clock, env: own }), { env })
  await signIn(t, stage.gateway.url, 'alice')
  t.equal(stage.provider.tokenCalls('authorization_code').length, 1)
})
