import { createHash } from 'node:crypto'
import { Agent, request } from 'node:http'
import { test } from 'tap'
import { parseSetCookie, type TestBrowser } from '../support/browser.ts'
import { launchChromium } from '../support/chromium.ts'
import { eventually } from '../support/eventually.ts'
import { startGateway } from '../support/gateway.ts'
import {
  bindingPrefix,
  login,
  type Stage,
  sessionCookie,
  sessionCookiesSet,
  startStage,
  throughProvider,
} from '../support/stage.ts'

interface User {
  user: { sub: string; name?: string; email?: string; roles?: string[] }
  session: { idleExpiresIn: number; absoluteExpiresIn: number; logoutUrl: string }
}

const whoAmI = async (browser: TestBrowser) => {
  const answer = await browser.api('/bff/user')
  return answer.status === 200 ? answer.json<User>().user.sub : answer.status
}

const s256 = (text: string) => createHash('sha256').update(text).digest('base64url')

/** A page that tells what its first fetch was answered. */
const spa = {
  'index.html': '<!doctype html><title>SPA</title><link rel="icon" href="data:,"><script src="/app.js"></script><body>',
  'app.js': `addEventListener('DOMContentLoaded', async () => {
    const answer = await fetch('/bff/user', { headers: { 'X-CSRF': '1' } })
    document.body.textContent = answer.status + ' ' + (await answer.json()).user?.sub
  })`,
}

test('a user', async t => {
  const stage = await startStage(t, { env: { SPA_DIR: t.testdir(spa) } })
  const { gateway, provider, upstream, redis } = stage

  t.test('logs in, calls an API through the gateway and logs out', async t => {
    const browser = stage.browser()
    const end = await login(browser, gateway.url, provider, { user: 'alice', returnUrl: '/welcome?tab=1#top' })
    t.equal(end.status, 200)
    t.equal(end.url, `${gateway.url}/welcome?tab=1#top`, 'the login ends where it was to end, fragment and all')
    t.equal(provider.tokenCalls('authorization_code').length, 1)
    t.equal((await stage.sessions()).length, 1)

    const { user, session } = (await browser.api('/bff/user')).json<User>()
    t.match(user, { sub: 'alice', name: 'alice', email: 'alice@example.test', roles: ['user'] })
    t.ok(session.idleExpiresIn > 1700 && session.idleExpiresIn <= 1800)
    t.ok(session.absoluteExpiresIn > 43_100 && session.absoluteExpiresIn <= 43_200)

    const call = await browser.api('/api/items?x=1', { method: 'POST', body: { coat: 'blue' } })
    t.equal(call.status, 200)
    const [seen] = upstream.requests
    t.equal(seen?.url, '/items?x=1')
    t.equal(seen?.body.toString(), '{"coat":"blue"}')
    t.equal(seen?.headers.authorization, `Bearer ${[...provider.issued.accessTokens][0]}`)

    const cookie = browser.jar.get(sessionCookie)
    const left = await browser.navigate(session.logoutUrl, { from: gateway.url })
    const goodbye = await throughProvider(browser, left, provider)
    t.equal(goodbye.url, `${gateway.url}/`, 'the provider sends the browser back')
    t.strictSame(await stage.sessions(), [])
    t.equal(browser.jar.get(sessionCookie), undefined)
    t.equal(
      (await browser.get('/api/items', { cookies: [`${sessionCookie}=${cookie}`], headers: { 'X-CSRF': '1' } })).status,
      401,
    )
    t.ok(await eventually(() => provider.revocations().length === 1))
    t.equal(provider.revocations()[0]?.form.get('token'), [...provider.issued.refreshTokens][0])
    const again = await browser.navigate('/bff/login')
    t.match(again.text, /login-form/, "the provider's own session is over too")
  })

  t.test('has several logins under way in one browser, and each leads to its own page', async t => {
    const browser = stage.browser()
    const callbacks = []
    for (const returnUrl of ['/one', '/two', '/three'])
      callbacks.unshift(await stage.pendingCallback(browser, 'tabs', { returnUrl }))
    const answers = []
    for (const callback of callbacks) answers.push(await stage.open(browser, callback))
    t.strictSame(
      answers.map(({ status, headers }) => [status, headers.location]),
      [
        [303, '/three'],
        [303, '/two'],
        [303, '/one'],
      ],
    )
    t.equal(new Set(sessionCookiesSet(...answers)).size, 3)
    t.equal(await whoAmI(browser), 'tabs')
  })

  // Logins are begun in a loop, until the Cookie header is too long for any server and nobody gets in any more.
  t.test('who begins forty logins keeps the newest eight, and they work', async t => {
    const browser = stage.browser()
    const callbacks = []
    for (let round = 0; round < 40; round += 1) callbacks.push(await stage.pendingCallback(browser, 'eager'))
    const bindings = browser.jar.list().filter(({ name }) => name.startsWith(bindingPrefix))
    t.equal(bindings.length, 8)
    const cookies = browser.jar.header(new URL(gateway.url), { method: 'GET', crossSite: false, topLevel: true }) ?? ''
    t.ok(cookies.length < 4096, `the Cookie header has ${cookies.length} bytes`)
    t.equal((await stage.open(browser, callbacks.at(-1) ?? '')).status, 303)
    t.equal((await stage.open(browser, callbacks.at(-8) ?? '')).status, 303)
    t.equal((await stage.open(browser, callbacks.at(-9) ?? '')).status, 400)
  })

  t.test('is never mixed up with the 39 others who log in at the same time', async t => {
    const names = Array.from({ length: 40 }, (_, index) => `user${index}`)
    const browsers = await Promise.all(names.map(name => stage.loggedIn(name)))
    t.strictSame(await Promise.all(browsers.map(whoAmI)), names)
    t.equal(new Set(browsers.map(({ jar }) => jar.get(sessionCookie))).size, names.length)
  })

  t.test('whom the provider still knows is logged in silently, without a form', async t => {
    const browser = await stage.loggedIn('quiet')
    const first = browser.jar.get(sessionCookie)
    const params = { prompt: 'none' }
    const end = await browser.navigate(`/bff/login?${new URLSearchParams({ ...params, returnUrl: '/welcome' })}`)
    t.equal(end.url, `${gateway.url}/welcome`)
    t.not(browser.jar.get(sessionCookie), first)
    t.equal(await whoAmI(browser), 'quiet')
    t.equal(provider.of('authorization').at(-1)?.query.get('prompt'), 'none')
  })

  // Session fixation: a cookie that the attacker knows waits in the victim's browser (OWASP ASVS 7.2.4).
  t.test('gets a new session at each login, never the one whose cookie was planted', async t => {
    const attacker = await stage.loggedIn('mallory')
    const known = attacker.jar.get(sessionCookie) ?? ''
    for (const planted of ['A'.repeat(43), known]) {
      const victim = stage.browser()
      victim.jar.set(sessionCookie, planted, { secure: true })
      const before = await stage.sessions()
      t.equal((await victim.api('/bff/user')).status, planted === known ? 200 : 401)
      t.strictSame(await stage.sessions(), before, 'an id that was not issued is not adopted')
      await login(victim, gateway.url, provider, { user: 'victim' })
      const fresh = victim.jar.get(sessionCookie)
      t.not(fresh, planted)
      t.equal(await whoAmI(victim), 'victim')
      const header = { cookies: [`${sessionCookie}=${planted}`] }
      t.equal((await stage.browser().api('/bff/user', header)).status, 401, 'the planted cookie is worth nothing')
    }
  })

  // A shared computer: what the first user left behind must not serve, or survive, the second one.
  t.test("ends the session of the browser's previous user, and has its refresh token revoked", async t => {
    const browser = await stage.loggedIn('first')
    const old = browser.jar.get(sessionCookie)
    const refreshToken = [...provider.issued.refreshTokens].at(-1)
    const oldToken = (await browser.api('/bff/user')).json<User>().session.logoutUrl
    const isRevoked = () => provider.revocations().some(({ form }) => form.get('token') === refreshToken)
    for (const { name, host } of browser.jar.list()) if (host === '127.0.0.1') browser.jar.delete(name, host)
    const sessions = (await stage.sessions()).length
    await login(browser, gateway.url, provider, { user: 'second' })

    t.equal((await stage.sessions()).length, sessions, 'one opened, one ended')
    t.equal((await stage.browser().api('/bff/user', { cookies: [`${sessionCookie}=${old}`] })).status, 401)
    t.ok(refreshToken && (await eventually(isRevoked)), 'its refresh token is revoked')
    const { user, session } = (await browser.api('/bff/user')).json<User>()
    t.equal(user.sub, 'second')
    t.equal(user.email, 'second@example.test', 'no claim is carried over')
    t.not(session.logoutUrl, oldToken)
    upstream.requests.length = 0
    await browser.api('/api/items')
    t.equal(upstream.requests[0]?.headers.authorization, `Bearer ${[...provider.issued.accessTokens].at(-1)}`)
    t.match(gateway.events('session_ended').at(-1), { reason: 'replaced' })
  })

  t.test('logs in again when the session before has long ended', async t => {
    const browser = await stage.loggedIn('returning')
    await redis.client.del(...(await stage.sessions()))
    t.equal(await whoAmI(browser), 401)
    await login(browser, gateway.url, provider, { user: 'returning' })
    t.equal(await whoAmI(browser), 'returning')
  })

  // A Strict cookie is not sent with the page that the provider's site leads to; a gateway that then starts over, loops.
  t.test(
    'in a real browser comes back from another site after one round trip, and the first fetch is hers',
    async t => {
      provider.clear()
      const chromium = await launchChromium()
      t.teardown(() => chromium.close())
      const page = await chromium.newPage()
      await page.goto(`${gateway.url}/bff/login?returnUrl=/welcome`)
      t.ok(page.url().startsWith(provider.issuer), 'the provider is at 127.0.0.1, another site than localhost')
      await page.fill('input[name=login]', 'carol')
      await page.click('button')
      await page.waitForURL(`${gateway.url}/welcome`)
      await page.waitForFunction('document.body.textContent !== ""')
      t.equal(await page.textContent('body'), '200 carol', "the SPA's first fetch is authenticated")
      t.equal(provider.of('authorization').filter(({ path }) => path === '/auth').length, 1)
      t.equal(provider.tokenCalls().length, 1)
      t.match(
        (await page.context().cookies()).filter(({ name }) => name.startsWith('__Host-')),
        [{ name: sessionCookie, domain: 'localhost', path: '/', httpOnly: true, secure: true, sameSite: 'Strict' }],
        'one cookie is left, as it should be',
      )
      t.equal(await page.evaluate('document.cookie'), '', 'no script sees it')

      await page.goto(`${gateway.url}/bff/login?returnUrl=/again`)
      await page.waitForURL(`${gateway.url}/again`)
      await page.waitForFunction('document.body.textContent !== ""')
      t.equal(await page.textContent('body'), '200 carol', 'nor does a login without a form go round twice')
      t.equal(provider.tokenCalls().length, 2)
    },
  )
})

test('an authorization request', async t => {
  const stage = await startStage(t)
  const { gateway, provider } = stage
  const own = [
    'client_id',
    'code_challenge',
    'code_challenge_method',
    'nonce',
    'redirect_uri',
    'response_type',
    'scope',
    'state',
  ]
  const requestOf = (location = '') => new URL(location).searchParams
  const begin = async (query = '', headers: Record<string, string> = {}) => {
    const answer = await stage.browser().get(`/bff/login${query}`, { headers })
    t.equal(answer.status, 302, answer.text)
    return requestOf(answer.headers.location)
  }

  t.test('asks for a code, with a challenge whose verifier only the token endpoint gets to see', async t => {
    const browser = stage.browser()
    await login(browser, gateway.url, provider, { user: 'alice' })
    const [authorization] = provider.of('authorization')
    const [exchange] = provider.tokenCalls()
    const query = authorization?.query ?? new URLSearchParams()
    t.strictSame([...query.keys()].sort(), own, 'these parameters and no other')
    t.match(Object.fromEntries(query), {
      response_type: 'code',
      client_id: provider.clientId,
      redirect_uri: `${gateway.url}/bff/callback`,
      scope: 'openid profile email offline_access',
      code_challenge_method: 'S256',
    })
    const verifier = exchange?.form.get('code_verifier') ?? ''
    t.match(verifier, /^[\w-]{43,128}$/)
    t.equal(s256(verifier), query.get('code_challenge'))
    t.equal(exchange?.form.get('redirect_uri'), query.get('redirect_uri'))
    t.equal(exchange?.form.get('client_secret'), provider.clientSecret, 'the client authenticates')

    await browser.navigate((await browser.api('/bff/user')).json<User>().session.logoutUrl)
    t.ok(await eventually(() => provider.revocations().length === 1))
    t.equal(provider.revocations()[0]?.form.get('client_secret'), provider.clientSecret, 'also when it revokes')
    for (const { path, query } of provider.requests)
      t.notOk([...query.values()].includes(provider.clientSecret), `no secret in the address of ${path}`)
  })

  // A verifier, state or nonce that can be guessed, or that carries data, is no protection (RFC 9700 §2.1.1, RFC 7636 §4.1).
  t.test('has a state, a nonce and a challenge of its own, random and without a meaning', async t => {
    const count = 2000
    const answers = await locations(stage, '/bff/login?returnUrl=/welcome&login_hint=alice', count)
    const requests = answers.map(requestOf)
    const values = ['state', 'nonce', 'code_challenge'].map(name => requests.map(query => query.get(name) ?? ''))
    t.equal(new Set(values.flat()).size, 3 * count, 'no value occurs twice, under whatever name')
    t.ok(
      values.flat().every(value => /^[\w-]{43}$/.test(value)),
      'all are 256 bits long',
    )
    t.ok(requests.every(query => query.get('code_challenge_method') === 'S256'))

    const all = new Set(values.flat())
    const related = values.flat().filter(value => all.has(s256(value)) || all.has(value.split('').reverse().join('')))
    t.strictSame(related, [], 'none follows from another')
    const bytes = values.slice(0, 2).map(list => Buffer.concat(list.map(value => Buffer.from(value, 'base64url'))))
    for (const text of bytes) {
      t.notMatch(text.toString('latin1'), /welcome|alice|localhost|returnUrl/)
      const ones = text.reduce((sum, byte) => sum + byte.toString(2).replaceAll('0', '').length, 0)
      t.ok(Math.abs(ones / (text.length * 8) - 0.5) < 0.005, 'as many ones as zeros')
    }
    await stage.redis.client.flushdb()
  })

  // A man in the middle strips PKCE from the metadata: a gateway that believes it goes without (RFC 9700 §2.1.1).
  t.test('has a challenge even if the provider does not say that it knows what it is', async t => {
    provider.tamper.discovery = ({ code_challenge_methods_supported: _, ...metadata }) => metadata
    const other = await startGateway({ provider, env: { OIDC_AUTHORIZE_PARAMS: 'prompt=consent, audience=api' } })
    t.teardown(async () => {
      provider.reset()
      await other.close()
    })
    const answer = await stage.browser().get(`${other.url}/bff/login?prompt=login`)
    const query = requestOf(answer.headers.location)
    t.match(query.get('code_challenge'), /^[\w-]{43}$/)
    t.equal(query.get('code_challenge_method'), 'S256')
    t.strictSame([...query.keys()].sort(), ['audience', ...own, 'prompt'].sort(), 'nothing is sent twice')
    t.equal(query.get('prompt'), 'login', 'what the browser asks for goes before what is configured')
  })

  // The Host header decides where the code is sent: with the attacker's, to the attacker (RFC 9700 §2.1).
  t.test('names the configured redirect URI, whatever the headers say of the host', async t => {
    const spoofs: Record<string, string>[] = [
      { Host: 'evil.test' },
      { 'X-Forwarded-Host': 'evil.test' },
      { 'X-Forwarded-Host': 'evil.test', 'X-Forwarded-Proto': 'https', 'X-Forwarded-Port': '444' },
      { Forwarded: 'host=evil.test;proto=https' },
      { 'X-Original-Host': 'evil.test', 'X-Host': 'evil.test', 'X-Original-URL': '/evil', 'X-Rewrite-URL': '/evil' },
      { Origin: 'http://evil.test', Referer: 'http://evil.test/' },
    ]
    for (const headers of spoofs) {
      const answer = await stage.browser().get('/bff/login', { headers })
      t.ok([302, 400, 421].includes(answer.status), `${JSON.stringify(headers)}: ${answer.status}`)
      t.notMatch(answer.rawHeaders.join('\n'), /evil/)
      if (answer.status === 302)
        t.equal(requestOf(answer.headers.location).get('redirect_uri'), `${gateway.url}/bff/callback`)
    }
  })

  // A link to the login endpoint widens the scope, changes the client or moves the code elsewhere (OWASP ASVS 10.2.3).
  t.test('takes nothing from the browser but return URL, prompt and login hint', async t => {
    const hostile = new URLSearchParams({
      returnUrl: '/welcome',
      scope: 'openid admin',
      client_id: 'other',
      client_secret: 'x',
      redirect_uri: 'http://evil.test/',
      response_type: 'token',
      response_mode: 'fragment',
      resource: 'https://evil.test',
      audience: 'evil',
      request: 'e30.e30.',
      request_uri: 'urn:evil',
      acr_values: '0',
      max_age: '0',
      claims: '{}',
      state: 'fixed',
      nonce: 'fixed',
      code_challenge: 'fixed',
      code_challenge_method: 'plain',
      id_token_hint: 'x',
      ui_locales: 'xx',
      display: 'popup',
      domain_hint: 'evil.test',
      iss: 'http://evil.test',
      target_link_uri: 'http://evil.test',
    })
    const query = await begin(`?${hostile}`)
    t.strictSame([...query.keys()].sort(), own)
    t.equal(query.get('client_id'), provider.clientId)
    t.equal(query.get('scope'), 'openid profile email offline_access')
    t.notMatch(query.toString(), /evil|fixed|admin|plain/)

    const shaped = await begin('?prompt=select_account&login_hint=alice%40example.org%26scope%3Dadmin')
    t.strictSame([...shaped.keys()].sort(), [...own, 'login_hint', 'prompt'].sort())
    t.equal(shaped.get('prompt'), 'select_account')
    t.equal(shaped.get('login_hint'), 'alice@example.org&scope=admin', 'one value stays one value')
    t.equal(shaped.getAll('scope').length, 1)
  })

  // Values that no form of the SPA sends, to be passed on to the provider or to fall over here.
  t.test('is not sent for values that make no sense', async t => {
    const queries = [
      'prompt=none%20login',
      'prompt=NONE',
      'prompt=create',
      'prompt=__proto__',
      'prompt=login&prompt=none',
      'login_hint=a&login_hint=b',
      'login_hint=a%0d%0aSet-Cookie:%20x',
      'login_hint=%00',
      `login_hint=${'a'.repeat(321)}`,
    ]
    const keys = await stage.redis.keys()
    for (const query of queries) {
      const answer = await stage.browser().get(`/bff/login?${query}`)
      t.equal(answer.status, 400, query)
      t.match(answer.headers['content-type'], /^application\/problem\+json/)
      t.equal(answer.json().code, 'bad_request')
      t.strictSame(answer.rawSetCookie, [], 'no login began')
    }
    t.strictSame(await stage.redis.keys(), keys)
  })

  // The provider is down: no login can begin, and nothing of one may be left behind.
  t.test('that cannot be made is a 503, and begins nothing', async t => {
    const provider503 = await startGateway({
      provider: { env: () => ({ ...provider.env(), OIDC_ISSUER: 'http://127.0.0.1:9' }) },
      env: { REDIS_URL: stage.redis.url },
    })
    t.teardown(() => provider503.close())
    const keys = await stage.redis.keys()
    const browser = stage.browser()
    const page = await browser.navigate(`${provider503.url}/bff/login`)
    t.equal(page.status, 503)
    t.match(page.headers['retry-after'], /^\d+$/)
    t.match(page.headers['content-type'], /^text\/html/)
    t.notMatch(page.text, /127\.0\.0\.1:9/)
    t.strictSame(page.rawSetCookie, [])
    t.strictSame(await stage.redis.keys(), keys)
    t.equal((await browser.get(`${provider503.url}/bff/login`)).json().code, 'provider_unavailable')
  })

  t.test('comes with a binding cookie for this browser and this state alone', async t => {
    const [one, two] = [await stage.browser().get('/bff/login'), await stage.browser().get('/bff/login')]
    const [first, second] = [one, two].map(({ rawSetCookie }) => parseSetCookie(rawSetCookie[0] ?? ''))
    t.not(first?.name, second?.name)
    t.not(first?.value, second?.value)
    t.notMatch(one.headers.location, new RegExp(first?.value ?? ''))
  })
})

/** Where a path redirects to, many times over on few connections. */
async function locations(stage: Stage, path: string, count: number): Promise<string[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 8 })
  const one = () =>
    new Promise<string>((resolve, reject) => {
      const { port } = stage.gateway
      request({ agent, host: '127.0.0.1', port, path }, response => {
        response.resume().on('end', () => resolve(response.headers.location ?? ''))
      })
        .on('error', reject)
        .end()
    })
  const found = await Promise.all(Array.from({ length: count }, one))
  agent.destroy()
  return found
}
