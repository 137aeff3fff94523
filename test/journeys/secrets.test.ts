import { type Test, test } from 'tap'
import { type BrowserResponse, createBrowser } from '../support/browser.ts'
import { startGateway } from '../support/gateway.ts'
import { login, throughProvider } from '../support/login.ts'
import { withoutHint } from '../support/logout-hint.ts'
import { startProvider, type TestProvider } from '../support/provider.ts'
import { startRedis } from '../support/redis.ts'
import { linked } from '../support/stage.ts'
import { startUpstream } from '../support/upstream.ts'

const cookieName = '__Host-coatcheck'
const email = 'canary.person@example.test'

/** Everything that must stay behind the counter: tokens, codes, verifiers, the client's secret. */
function secretsOf(provider: TestProvider): string[] {
  const { accessTokens, refreshTokens, codes, idTokens } = provider.issued
  const verifiers = provider.tokenCalls().map(call => call.form.get('code_verifier') ?? '')
  return [...accessTokens, ...refreshTokens, ...codes, ...idTokens, ...verifiers, provider.clientSecret].filter(Boolean)
}

function appearsIn(text: string, secrets: readonly string[]): string[] {
  return secrets.filter(secret => text.includes(secret))
}

const wire = (response: BrowserResponse) =>
  `${response.status}\n${response.rawHeaders.map(withoutHint).join('\n')}\n${response.text}`

async function setUp(t: Test) {
  const provider = await startProvider({ accessTokens: 'jwt', idTokenClaims: 'full' })
  provider.users.set('alice', { email })
  const upstream = await startUpstream()
  const redis = await startRedis()
  const gateway = await startGateway({ provider, upstreams: { '/api': upstream.url }, env: { REDIS_URL: redis.url } })
  t.teardown(async () => {
    await gateway.close()
    await Promise.all([provider.close(), upstream.close(), redis.stop()])
  })
  return { provider, upstream, redis, gateway, browser: createBrowser({ origin: gateway.url }) }
}

// Somebody copies the Redis of a running gateway, or reads its backup.
test('a dump of Redis logs nobody in and names nobody, at any moment of a session', async t => {
  const { provider, redis, gateway, browser } = await setUp(t)
  const dumps: Record<string, string> = {}
  const dump = async (moment: string) => {
    dumps[moment] = (await redis.dump()).toString('latin1')
    t.ok(dumps[moment], `there is something to look at ${moment}`)
  }
  await browser.navigate(`${gateway.url}/bff/login`, { stopBefore: url => url.href.startsWith(provider.issuer) })
  await dump('while a login is under way')
  await login(browser, gateway.url, provider)
  await dump('after a login')
  t.equal((await browser.api('/api/items')).status, 200)
  await dump('after a call')
  const cookie = browser.jar.get(cookieName) ?? ''
  const bindings = browser.jar.seen.filter(seen => seen.name.startsWith(`${cookieName}-login`)).map(seen => seen.value)
  const states = provider
    .of('authorization')
    .flatMap(({ query }) => [query.get('state') ?? '', query.get('nonce') ?? ''])
  const { session } = (await browser.api('/bff/user')).json() as { session: { logoutUrl: string } }
  const { logoutUrl } = (await browser.api('/bff/logout', { method: 'POST' })).json() as { logoutUrl: string }
  await dump('while a logout is under way')
  const own = [cookie, ...bindings, ...states, session.logoutUrl.split('=')[1] ?? '', logoutUrl.split('=')[1] ?? '']
  const secrets = [
    ...secretsOf(provider),
    ...own.filter(Boolean),
    email,
    'canary',
    'alice',
    'eyJhbGci',
    provider.issuer,
  ]
  t.ok(
    own.every(secret => secret.length >= 43 || secret === ''),
    'the canaries are at hand',
  )
  t.ok(provider.issued.refreshTokens.size > 0)
  for (const [moment, text] of Object.entries(dumps)) t.same(appearsIn(text, secrets), [], moment)
})

test('the name of a key in Redis is no cookie', async t => {
  const { provider, redis, gateway, browser } = await setUp(t)
  await login(browser, gateway.url, provider)
  const id = (await redis.keys()).map(key => key.split(':').at(-1) ?? '').find(part => /^[\w-]{43}$/.test(part))
  t.ok(id)
  const answer = await browser.api('/bff/user', { cookies: [`${cookieName}=${id}`] })
  t.equal(answer.status, 401)
})

test('no answer of the gateway holds a token, whatever is asked and whatever goes wrong', async t => {
  const { provider, upstream, redis, gateway, browser } = await setUp(t)
  // An API that echoes its request would tell the token itself; that is not the gateway's to prevent.
  upstream.respond = (_request, response) => void response.end('{"items":[]}')
  const answers: BrowserResponse[] = []
  const journey = await login(browser, gateway.url, provider, { returnUrl: '/deep/link?x=1' })
  answers.push(...journey.chain)
  const cookie = browser.jar.get(cookieName) ?? ''

  const paths = [
    'login',
    'login/failed',
    'callback',
    'user',
    'user?anonymous=200',
    'logout',
    'logout/continue',
    'nothing',
  ]
  const targets = ['/', '/api', '/api/items', '/api/..', '/index.html', ...paths.map(path => `/bff/${path}`)]
  const crawl = async () => {
    for (const target of targets) {
      for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
        if (method === 'POST' && target.endsWith('/logout')) continue
        for (const headers of [{}, { accept: 'text/html' }])
          answers.push(await browser.api(target, { method, headers }))
        answers.push(await browser.request(target, { method, cookies: [] }))
      }
    }
  }
  await crawl()
  upstream.respond = (_request, response) => void response.socket?.destroy()
  answers.push(await browser.api('/api/items'))
  provider.respond('*', { status: 500, body: 'canary-of-a-body' })
  answers.push(await browser.navigate(`${gateway.url}/bff/callback?code=x&state=${'y'.repeat(43)}`))
  provider.reset()
  redis.pause()
  answers.push(await browser.api('/api/items'), await browser.api('/bff/user'))
  redis.resume()
  await linked(gateway)
  const { session } = (await browser.api('/bff/user')).json() as { session: { logoutUrl: string } }
  const logout = await browser.navigate(session.logoutUrl)
  answers.push(...logout.chain, await throughProvider(browser, logout, provider))

  const own = answers.filter(answer => answer.url.startsWith(gateway.url))
  // The provider itself sends the code to the callback; what the gateway answers there must not repeat it.
  const secrets = secretsOf(provider)
  t.ok(own.length > 200 && secrets.length > 5)
  for (const answer of own) {
    const found = appearsIn(wire(answer), secrets)
    if (found.length > 0) t.fail(`${answer.url} tells ${found}`)
    const outside = wire(answer)
      .split('\n')
      .filter(line => !answer.rawSetCookie.includes(line))
    if (outside.some(line => line.includes(cookie))) t.fail(`${answer.url} tells the session cookie`)
  }
  t.same(
    own.filter(answer => answer.status >= 500 && ![502, 503].includes(answer.status)).map(answer => answer.url),
    [],
    'no fault of the gateway itself',
  )
  const logs = gateway.log.join('')
  t.same(appearsIn(logs, [...secrets, cookie, email, 'canary', 'alice']), [], 'nor does the log at its most talkative')
})

test('an error of the provider does not carry its body into the log', async t => {
  const { provider, gateway, browser } = await setUp(t)
  const canary = 'canary-in-a-body'
  const bodies = [
    {
      status: 400,
      headers: { 'content-type': 'application/json' },
      body: `{"error":"${canary}","error_description":"${canary}"}`,
    },
    { status: 200, headers: { 'content-type': 'application/json' }, body: `${canary} is not JSON` },
    { status: 200, headers: { 'content-type': 'text/html' }, body: canary },
    { status: 401, headers: { 'www-authenticate': `Bearer realm="${canary}"` }, body: canary },
    { status: 500, body: canary },
    {
      status: 200,
      headers: { 'content-type': 'application/json' },
      body: `{"access_token":"${canary}","token_type":"mac"}`,
    },
  ]
  for (const answer of bodies) {
    const scripted = provider.respond('token', answer, { times: 1 })
    const end = await login(browser, gateway.url, provider)
    t.equal(scripted.calls, 1)
    t.equal(browser.jar.get(cookieName), undefined)
    t.notMatch(wire(end), canary)
  }
  for (const kind of ['discovery', 'jwks', 'userinfo', 'revocation'] as const) {
    const fresh = await startGateway({ provider })
    const scripted = provider.respond(kind, {
      status: 200,
      body: canary,
      headers: { 'content-type': 'application/json' },
    })
    const visitor = createBrowser({ origin: fresh.url })
    const end = await login(visitor, fresh.url, provider)
    t.notMatch(wire(end), canary)
    t.notMatch(fresh.log.join(''), canary, kind)
    scripted.stop()
    await fresh.close()
  }
  t.notMatch(gateway.log.join(''), canary)
})
