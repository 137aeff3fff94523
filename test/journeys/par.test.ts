import { type Test, test } from 'tap'
import type { Answer } from '../support/provider.ts'
import { login, type Stage, sessionCookie, startStage } from '../support/stage.ts'

/** Starts a login and stops at the redirect to the provider. */
async function started(stage: Stage, browser = stage.browser()): Promise<URL> {
  const answer = await browser.navigate(`${stage.gateway.url}/bff/login?returnUrl=/welcome&login_hint=alice`, {
    stopBefore: () => true,
  })
  if (answer.status !== 302) throw new Error(`no redirect: ${answer.status} ${answer.text}`)
  return new URL(answer.headers.location ?? '')
}

test('an authorization request that is pushed', async t => {
  const env = { OIDC_AUTHORIZE_PARAMS: 'acr_values=1' }
  const stage = await startStage(t, { env, provider: { requirePar: true, resources: {} } })
  const { gateway, provider } = stage
  t.beforeEach(() => provider.clear())

  t.test('leaves nothing for the browser to read or change but its name', async t => {
    const url = await started(stage)
    t.same([...url.searchParams.keys()].sort(), ['client_id', 'request_uri'])
    t.equal(url.searchParams.get('client_id'), provider.clientId)
    t.match(url.searchParams.get('request_uri'), /^urn:ietf:params:oauth:request_uri:/)
    const [push, ...more] = provider.of('par')
    t.equal(more.length, 0)
    t.match(Object.fromEntries(push?.form ?? []), {
      response_type: 'code',
      redirect_uri: `${gateway.url}/bff/callback`,
      client_secret: provider.clientSecret,
      code_challenge_method: 'S256',
      code_challenge: /^[\w-]{43}$/,
      state: /^[\w-]{43}$/,
      nonce: /^[\w-]{43}$/,
      scope: /openid/,
      login_hint: 'alice',
      acr_values: '1',
    })
    t.notOk(push?.form.has('dpop_jkt'))
  })

  t.test('logs in', async t => {
    const alice = await stage.loggedIn('alice')
    t.equal((await alice.api('/api/items')).status, 200)
    t.ok(provider.of('authorization').every(({ query }) => !query.has('state')))
  })

  // The redirect is read from a history or a referrer and opened again, here or by somebody else (RFC 9126 §7.3).
  t.test('is good once: a request_uri that is opened again leads to no session', async t => {
    const victim = stage.browser()
    const url = await started(stage, victim)
    const end = await victim.navigate(url.href)
    t.equal(end.status, 200, 'the page of the provider')
    provider.autoLogin = 'victim'
    const first = await victim.navigate(url.href)
    t.equal(new URL(first.url).pathname, '/welcome')
    t.not(victim.jar.get(sessionCookie), undefined)
    const sessions = await stage.sessions()
    for (const browser of [victim, stage.browser()]) {
      const away = (to: URL) => to.origin !== provider.issuer
      const again = await browser.navigate(url.href, { stopBefore: away })
      t.match(again.headers.location, /[?&]error=invalid_request_uri/)
      t.notMatch(again.headers.location, /[?&]code=/)
    }
    t.same(await stage.sessions(), sessions)
    provider.autoLogin = undefined
  })

  // An attacker lures the victim to a request of the attacker's own (RFC 9700 §4.7).
  t.test('of another browser opens no session in this one', async t => {
    const attacker = stage.browser()
    const url = await started(stage, attacker)
    provider.autoLogin = 'mallory'
    const victim = stage.browser()
    const end = await victim.navigate(url.href)
    provider.autoLogin = undefined
    t.equal(end.status, 400)
    t.equal(victim.jar.get(sessionCookie), undefined)
    t.equal(provider.tokenCalls().length, 0)
  })

  t.test('goes with none of what the browser adds', async t => {
    const url = await started(stage)
    t.notOk(url.searchParams.has('login_hint'))
    const hostile = `${gateway.url}/bff/login?request_uri=urn:x&request=e30&redirect_uri=https://evil.test&client_id=x`
    await stage.browser().navigate(hostile, { stopBefore: () => true })
    const push = provider.of('par').at(-1)
    t.equal(push?.form.get('redirect_uri'), `${gateway.url}/bff/callback`)
    t.notOk(push?.form.has('request_uri') || push?.form.has('request'))
  })

  // Whoever can disturb the connection to the provider would get the request back into the browser (RFC 9126 §4).
  t.test('that cannot be pushed is not sent in any other way', async t => {
    const answers: Record<string, Answer> = {
      '500': { status: 500 },
      '503': { status: 503, headers: { 'retry-after': '7' } },
      '429': { status: 429, headers: { 'retry-after': '7' } },
      '404': { status: 404, body: 'not here' },
      '405': { status: 405 },
      reset: 'reset',
      'no JSON': { status: 201, body: '<html>' },
      'an empty object': { status: 201, body: {} },
      'no lifetime': { status: 201, body: { request_uri: 'urn:x' } },
      'a number for a name': { status: 201, body: { request_uri: 7, expires_in: 60 } },
      'an OK that is none': { status: 200, body: { request_uri: 'urn:x', expires_in: 60 } },
      'a redirect': { status: 302, headers: { location: 'https://evil.test' } },
      invalid_request: { status: 400, body: { error: 'invalid_request', error_description: '<script>' } },
      invalid_target: { status: 400, body: { error: 'invalid_target' } },
      'no code of an error': { status: 400, body: { error: ['x'] } },
      'a challenge': { status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } },
    }
    for (const [name, answer] of Object.entries(answers)) {
      provider.clear()
      provider.respond('par', answer)
      await isRefused(t, stage, name)
      t.equal(provider.of('authorization').length, 0)
      provider.reset()
    }
    t.equal((await started(stage)).searchParams.has('request_uri'), true)
  })

  t.test('tells of a client that is refused, and of its being accepted again', async t => {
    provider.respond('par', { status: 401, body: { error: 'invalid_client' } })
    await isRefused(t, stage, 'invalid_client')
    t.match(gateway.events('client_refused').at(-1), { severity: 'high', detail: '/request: invalid_client' })
    const ready = () => stage.browser().get(`${gateway.internalUrl}/readyz`)
    t.equal((await ready()).status, 503)
    provider.reset()
    await started(stage)
    t.equal(gateway.events('client_accepted').length, 1)
    t.equal((await ready()).status, 200)
  })
})

async function isRefused(t: Test, stage: Stage, name: string): Promise<void> {
  const answer = await stage.browser().navigate(`${stage.gateway.url}/bff/login`, { stopBefore: () => true })
  t.equal(answer.status, 503, name)
  t.match(answer.headers['content-type'], /html/)
  t.match(answer.headers['retry-after'], /^\d+$/)
  t.notMatch(answer.text, /script|request_uri|invalid/)
}

test('whether requests are pushed goes by OIDC_PAR', async t => {
  const cases = [
    { par: undefined, requirePar: false, pushed: false },
    { par: 'always', requirePar: false, pushed: true },
    { par: 'never', requirePar: true, pushed: false },
  ]
  for (const { par, requirePar, pushed } of cases) {
    await t.test(`${par ?? 'auto'}, and the provider ${requirePar ? 'requires it' : 'leaves it open'}`, async t => {
      const stage = await startStage(t, { memory: true, env: par ? { OIDC_PAR: par } : {}, provider: { requirePar } })
      const url = await started(stage)
      t.equal(url.searchParams.has('request_uri'), pushed)
      t.equal(url.searchParams.has('state'), !pushed)
    })
  }

  await t.test('always, at a provider that has no such endpoint', async t => {
    const stage = await startStage(t, { memory: true, env: { OIDC_PAR: 'always' } })
    stage.provider.tamper.discovery = ({ pushed_authorization_request_endpoint: _, ...rest }) => rest
    stage.clock.advance(2 * 3_600_000)
    await isRefused(t, stage, 'without an endpoint')
    t.match(stage.gateway.log.join(''), /names no pushed_authorization_request_endpoint/)
  })

  await t.test('always, with the resources of all upstreams', async t => {
    const resources = { 'https://a.example': 'api:read', 'https://b.example': 'api:read' }
    const env: Record<string, string> = { OIDC_PAR: 'always' }
    for (const name of ['A', 'B']) {
      env[`UPSTREAM_${name}_PATH`] = `/${name}`
      env[`UPSTREAM_${name}_URL`] = 'http://127.0.0.1:9'
      env[`UPSTREAM_${name}_RESOURCE`] = `https://${name.toLowerCase()}.example`
    }
    const stage = await startStage(t, { memory: true, env, provider: { resources } })
    await stage.loggedIn('alice')
    t.same(stage.provider.of('par')[0]?.form.getAll('resource'), Object.keys(resources))
  })

  await t.test('auto, with two client secrets of which the second is good', async t => {
    const stage = await startStage(t, {
      memory: true,
      provider: { requirePar: true, clientSecret: 'the-second-and-good-secret' },
      env: { OIDC_CLIENT_SECRET: 'the-first-and-bad-secret', OIDC_CLIENT_SECRET_2: 'the-second-and-good-secret' },
    })
    await started(stage)
    t.same(
      stage.provider.of('par').map(({ answered }) => answered),
      [401, 201],
    )
    await started(stage)
    t.equal(stage.provider.of('par').length, 3, 'from then on the good one goes first')
    const browser = stage.browser()
    const end = await login(browser, stage.gateway.url, stage.provider, { returnUrl: '/welcome' })
    t.equal(new URL(end.url).pathname, '/welcome')
  })
})
