import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import tap, { test } from 'tap'
import { randomToken } from '../../src/core/random.ts'
import { rawRequest } from '../support/browser.ts'
import { launchChromium } from '../support/chromium.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { startGateway } from '../support/gateway.ts'
import { bindingPrefix, login, sessionCookie, sessionCookiesSet, startStage } from '../support/stage.ts'
import { startUpstream, type TestUpstream } from '../support/upstream.ts'

/*
 * How gateways like this one are broken in practice, in the order of a list of such attacks: the first seven, which take
 * but requests. The others are in attacks-on-sessions.test.ts.
 */

const [admin, open] = await Promise.all([startUpstream(), startUpstream()])
for (const upstream of [admin, open]) upstream.respond = (_request, response) => void response.end('{}')
const stage = await startStage(tap, {
  env: {
    UPSTREAM_U0_CLAIMS_HEADERS: 'X-User-Id=sub',
    UPSTREAM_ADMIN_PATH: '/api/admin',
    UPSTREAM_ADMIN_URL: `${admin.url}/root`,
    UPSTREAM_ADMIN_SCOPE: 'api:write',
    UPSTREAM_OPEN_PATH: '/public',
    UPSTREAM_OPEN_URL: open.url,
    UPSTREAM_OPEN_AUTH: 'none',
  },
})
const { gateway, provider, upstream, evil } = stage
tap.teardown(() => Promise.all([admin.close(), open.close()]))

/** What an upstream has been told since this was called. */
function listenTo({ rawText }: Pick<TestUpstream, 'rawText'>): () => string {
  const before = rawText().length
  return () => rawText().slice(before)
}

const tokensIn = (text: string) => [...text.matchAll(/^authorization: Bearer (\S+)\r$/gim)].map(match => match[1])

/** A request word for word, as no browser would send it; the lines after the first are its headers. */
const raw = (lines: readonly string[]) =>
  rawRequest(
    gateway.port,
    `${[lines[0], `Host: localhost:${gateway.port}`, 'Connection: close', ...lines.slice(1)].join('\r\n')}\r\n\r\n`,
  )

/** What makes a request one of this browser's user. */
const asUser = (browser: { jar: { get(name: string): string | undefined } }) => [
  `Cookie: ${sessionCookie}=${browser.jar.get(sessionCookie)}`,
  'X-CSRF: 1',
]

// Mallory logs in as herself, stops before the callback, and gets Alice's browser to open it: what Alice then uploads or
// pays goes to Mallory's account. With a code of Alice's it would be Mallory who gets into Alice's.
test('1. a login that somebody else began opens no session, and redeems no code', async t => {
  const mallory = stage.browser()
  const [fresh, busy, alice] = [stage.browser(), stage.browser(), await stage.loggedIn('alice')]
  const begun = await stage.pendingCallback(busy, 'bob')
  const before = { calls: provider.tokenCalls('authorization_code').length, sessions: await stage.sessions() }
  for (const [name, victim] of Object.entries({ fresh, busy, alice })) {
    const lure = await stage.pendingCallback(mallory, 'mallory')
    const answer = await stage.open(victim, lure)
    t.equal(answer.status, 400, name)
    t.strictSame(sessionCookiesSet(answer), [], `${name}: no session`)
    const injected = new URL(begun)
    injected.searchParams.set('code', lure.searchParams.get('code') ?? '')
    t.equal((await stage.open(mallory, injected)).status, 400, 'nor does her code do with the state of another')
  }
  t.equal(provider.tokenCalls('authorization_code').length, before.calls, 'the provider was not asked')
  t.strictSame(await stage.sessions(), before.sessions)
  t.match((await alice.api('/bff/user')).json(), { user: { sub: 'alice' } }, 'who was there still is')
})

// Mallory knows a cookie value and plants it in Alice's browser; once Alice has logged in, the value would be Alice.
test('2. a session cookie that was planted before a login is not the session after it', async t => {
  const mallory = await stage.loggedIn('mallory')
  const lure = stage.browser()
  await lure.navigate('/bff/login', { stopBefore: () => true })
  const planted = {
    unknown: randomToken(),
    anonymous: lure.jar.list().find(({ name }) => name.startsWith(bindingPrefix))?.value ?? '',
    "the attacker's own": mallory.jar.get(sessionCookie) ?? '',
  }
  for (const [name, value] of Object.entries(planted)) {
    const victim = stage.browser()
    victim.jar.set(sessionCookie, value, { secure: true, httpOnly: true, sameSite: 'strict' })
    await login(victim, gateway.url, provider, { user: 'alice', returnUrl: '/welcome' })
    t.match((await victim.api('/bff/user')).json(), { user: { sub: 'alice' } }, name)
    t.not(victim.jar.get(sessionCookie), value, name)
    const answer = await stage.browser().api('/bff/user', { cookies: [`${sessionCookie}=${value}`] })
    t.equal(answer.status, 401, `${name}: worth nothing`)
  }
})

// Mallory has a page on another name of the same site: SameSite keeps no cookie from her there, and a form or a simple
// fetch asks nobody's leave.
test('3. a page of a sibling domain sends the cookie along, and reaches no API', async t => {
  const [port, chromium] = [await freePort(), await launchChromium()]
  const home = `http://app.localhost:${port}`
  const spa = t.testdir({ 'index.html': '<!doctype html><title>SPA</title><link rel="icon" href="data:,">' })
  const shop = await startGateway({
    provider,
    clock: stage.clock,
    upstreams: { '/api': upstream.url },
    env: { PUBLIC_URL: home, PORT: String(port), HOST: '127.0.0.1', REDIS_URL: stage.redis.url, SPA_DIR: spa },
  })
  const sibling = createServer((_request, response) => {
    response.setHeader('content-type', 'text/html').end('<!doctype html><iframe name="sink"></iframe>')
  }).listen(0, '127.0.0.1')
  t.teardown(async () => {
    await chromium.close()
    sibling.close()
    await shop.close()
  })
  const page = await chromium.newPage()
  await page.goto(`${home}/bff/login?returnUrl=/welcome`)
  await page.fill('input[name=login]', 'alice')
  await page.click('button')
  await page.waitForURL(`${home}/welcome`)
  const [cookie] = (await page.context().cookies(home)).filter(({ name }) => name === sessionCookie)
  t.match(cookie, { sameSite: 'Strict' })

  const cookiesSent: (string | undefined)[] = []
  shop.app.publicServer.server.on('request', ({ headers }) => void cookiesSent.push(headers.cookie))
  const heard = listenTo(upstream)
  await page.goto(`http://evil.app.localhost:${(sibling.address() as AddressInfo).port}/`)
  const seen = await page.evaluate(`(async home => {
    const form = enctype => {
      const form = document.createElement('form')
      Object.assign(form, { action: home + '/api/items', method: 'post', enctype, target: 'sink' })
      form.append(Object.assign(document.createElement('input'), { name: '{"pay":"', value: 'mallory"}' }))
      document.body.append(form)
      const loaded = new Promise(resolve => { document.querySelector('iframe').onload = resolve })
      form.submit()
      return loaded
    }
    await form('text/plain')
    await form('multipart/form-data')
    const quiet = init => fetch(home + '/api/items', { credentials: 'include', ...init }).then(
      answer => answer.type, () => 'refused')
    return [
      await quiet({ method: 'POST', mode: 'no-cors', body: 'x' }),
      await quiet({ mode: 'no-cors' }),
      await quiet({ method: 'POST', headers: { 'X-CSRF': '1' }, body: 'x' }),
      await quiet({ headers: { 'X-CSRF': '1' } }),
    ]
  })(${JSON.stringify(home)})`)
  t.strictSame(seen, ['refused', 'refused', 'refused', 'refused'], 'nothing can be read')
  t.equal(cookiesSent.filter(sent => sent?.includes(cookie?.value ?? '?')).length, 4, 'the cookie came with the simple')
  t.equal(shop.events('csrf_refused').length, 6, 'two forms, two fetches, two preflights: 403 each')
  t.equal(heard(), '')
  await page.goto(`${home}/welcome`)
  const user = `fetch('/bff/user', { headers: { 'X-CSRF': '1' } }).then(answer => answer.status)`
  t.equal(await page.evaluate(user), 200, 'and the session is there')
})

// Whoever may name headers to be dropped on the way names those by which the API knows the user, and sends her own.
test('4. the token and the claims cannot be stripped by naming them in Connection', async t => {
  const alice = await stage.loggedIn('alice')
  for (const spelling of ['X-User-Id', 'x-user-id', 'X_User_Id', 'X-User_Id', 'X-USER-ID']) {
    const heard = listenTo(upstream)
    const answer = await rawRequest(
      gateway.port,
      [
        'GET /api/orders HTTP/1.1',
        `Host: localhost:${gateway.port}`,
        'Connection: close, Authorization, X-User-Id, x_user_id, X-Forwarded-For, X-Forwarded-Host, Host, Cookie',
        `${spelling}: admin`,
        `${spelling}: root`,
        'Authorization: Bearer attacker',
        ...asUser(alice),
        '\r\n',
      ].join('\r\n'),
    )
    t.match(answer, /^HTTP\/1\.1 200 /, spelling)
    t.strictSame(heard().match(/^x[-_]user[-_]id:.*$/gim), ['x-user-id: alice'], spelling)
    t.strictSame(
      heard()
        .match(/^x-forwarded-(for|host): .*$/gim)
        ?.sort(),
      ['x-forwarded-for: 127.0.0.1', `x-forwarded-host: localhost:${gateway.port}`],
    )
    t.match(heard(), new RegExp(`^host: 127\\.0\\.0\\.1:${upstream.port}\r$`, 'im'))
    const tokens = tokensIn(heard())
    t.equal(tokens.length, 1, 'one token')
    t.ok(provider.issued.accessTokens.has(tokens[0] ?? ''), "the session's")
    t.notMatch(heard(), /admin|root|attacker|cookie|__Host-/i)
  }
})

// Node hands the whole target to a server as it came; a proxy that joins it to its upstream goes where the target says.
test('5. a target that names another host is not gone to, and no token with it', async t => {
  const alice = await stage.loggedIn('alice')
  const far = `127.0.0.1:${evil.port}`
  const heard = [upstream, admin, open].map(listenTo)
  const targets = [
    `${evil.url}/`,
    `${evil.url}/api/items`,
    `HTTP://${far}/api/items`,
    `//${far}/`,
    `//${far}/api/items`,
    `///${far}/api`,
    `/\\${far}/api`,
    `\\\\${far}\\api`,
    `http:/${far}/api`,
    `http:${far}`,
    `@${far}/api`,
    `${far}/api`,
    `/api//${far}/`,
    `/api/\\${far}/`,
    '*',
  ]
  for (const target of targets)
    t.match(await raw([`GET ${target} HTTP/1.1`, ...asUser(alice)]), /^HTTP\/1\.1 400 /, target)
  t.strictSame(
    heard.map(each => each()),
    ['', '', ''],
  )
  // These are paths like any other, if odd ones: they stay at the upstream.
  for (const path of [`/api/@${far}/`, `/api/${encodeURIComponent(evil.url)}/`, `/api:${far}/`]) {
    const answer = await raw([`GET ${path} HTTP/1.1`, ...asUser(alice)])
    t.match(answer, path.startsWith('/api/') ? /^HTTP\/1\.1 (200|400) / : /^HTTP\/1\.1 404 /, path)
  }
  // An address as the host is let through, for probes; nothing is made of it.
  for (const [host, status] of [
    [far, 200],
    ['evil.test', 400],
    [`localhost@${far}`, 400],
    ['', 400],
  ] as const) {
    const request = `GET /api/items HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n${asUser(alice).join('\r\n')}\r\n\r\n`
    t.match(await rawRequest(gateway.port, request), new RegExp(`^HTTP/1\\.1 ${status} `), host)
  }
  t.equal(evil.connections, 0)
})

// Two APIs, two tokens. Who routes by one reading of a path and forwards another sends the token of the one to the other.
test('6. however a path is written, its route, its policy and its token are of the same upstream', async t => {
  const alice = await stage.loggedIn('alice')
  const tokenAt = async (at: TestUpstream, path: string) => {
    const heard = listenTo(at)
    t.equal((await alice.api(path)).status, 200, path)
    return tokensIn(heard())[0]
  }
  const tokens = [await tokenAt(upstream, '/api/x'), await tokenAt(admin, '/api/admin/x')]
  t.not(tokens[0], tokens[1], 'two tokens')
  const heard = [listenTo(upstream), listenTo(admin)]
  const seen = [upstream.requests.length, admin.requests.length]
  const climbs = ['..', '%2e%2e', '.%2e', '%252e%252e', '%25252e%25252e', '..;', '..;x=1', '%2e%2e;', '..%00', '.%00.']
  const slashes = ['/', '%2f', '%2F', '%252f', '%25252F', '\\', '%5c', '%255c', '//', '/./', '/%2e/', '%c0%af', ';/']
  const paths = [
    ...slashes.flatMap(slash => [`/api${slash}admin`, `/api${slash}admin/x`, `/api${slash}admin${slash}x`]),
    ...slashes.flatMap(slash => climbs.map(climb => `/api/x${slash}${climb}${slash}admin/x`)),
    ...slashes.flatMap(slash => climbs.map(climb => `/api/admin${slash}${climb}${slash}x`)),
    ...slashes.flatMap(slash => climbs.map(climb => `/public${slash}${climb}${slash}api/admin`)),
    ...[
      '/apiadmin',
      '/api.x',
      '/api;x',
      '/API',
      '/Api/admin',
      '/api/ADMIN/x',
      '/api/admin;x',
      '/api/admin.',
      '/api/admin%20',
    ],
    ...[
      '/api/adminx',
      '/api/%61dmin/x',
      '/api/admin%3f',
      '/api/admin%23',
      '/%61pi/x',
      '/api/x?/../admin',
      '/api?/admin',
    ],
  ]
  const statuses = new Map<string, number>()
  for (let index = 0; index < paths.length; index += 16)
    await Promise.all(
      paths.slice(index, index + 16).map(async path => {
        const answer = await raw([`GET ${path} HTTP/1.1`, ...asUser(alice)])
        statuses.set(path, Number(answer.slice(9, 12)))
      }),
    )
  t.strictSame([...new Set(statuses.values())].sort(), [200, 400, 404])
  for (const [index, at] of [upstream, admin].entries()) {
    t.ok(
      tokensIn(heard[index]?.() ?? '').every(token => token === tokens[index]),
      'each upstream has its own token alone',
    )
    const urls = at.requests.slice(seen[index]).map(({ url }) => url)
    const plain = urls.map(url => allDecoded(url.split('?')[0] ?? ''))
    if (at === admin) t.ok(plain.every(path => path === '/root' || path.startsWith('/root/')))
    else
      t.notOk(
        plain.some(path => /^\/admin(\/|;|\.|\s|\?|#|$)/i.test(path)),
        `${urls}`,
      )
    t.notOk(
      plain.some(path => /\.\.|\\|\/\/|\0/.test(path)),
      'and no upstream a path to climb',
    )
  }
})

/** As the most credulous server reads a path. */
function allDecoded(path: string): string {
  for (let reading = path; ; ) {
    const next = reading.replace(/%([0-9a-f]{2})/gi, (_all, hex) => String.fromCharCode(Number.parseInt(hex, 16)))
    if (next === reading) return reading
    reading = next
  }
}

// One route is open to anybody. A rule that looks for its name in the wrong place, or trusts a header, opens the others.
test('7. no route is taken for an open one', async t => {
  const heard = [upstream, admin, open].map(listenTo)
  const browser = stage.browser()
  const targets: [string, number][] = [
    ['/api/items?/public', 401],
    ['/api/items?x=/public/', 401],
    ['/api/items?path=/public#', 400],
    ['/api/items#/public', 400],
    ['/api/items%23/public', 401],
    ['/api/items%3f/public', 401],
    ['/api/items;/public', 401],
    ['/api/public', 401],
    ['/public/../api/items', 400],
    ['/public/..%2fapi/items', 400],
    ['/public/%2e%2e/api/items', 400],
    ['/public%2f..%2fapi/items', 400],
    ['//public/api/items', 400],
  ]
  for (const [target, status] of targets) {
    const answer = await raw([`GET ${target} HTTP/1.1`, 'X-CSRF: 1', 'Accept: text/html'])
    t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), target)
    t.match(answer, /^content-type: application\/problem\+json/im, target)
  }
  const disguises: Record<string, string>[] = [
    { 'X-Forwarded-Uri': '/public' },
    { 'X-Original-URL': '/public', 'X-Rewrite-URL': '/public', 'X-Original-URI': '/public' },
    { 'User-Agent': 'kube-probe/1.29' },
    { 'User-Agent': 'ELB-HealthChecker/2.0' },
    { 'User-Agent': 'GoogleHC/1.0' },
    { 'X-HTTP-Method-Override': 'OPTIONS' },
    { 'X-Forwarded-For': '127.0.0.1', 'X-Real-IP': '127.0.0.1' },
    { 'X-Authenticated-User': 'alice', 'Remote-User': 'alice' },
    { Authorization: `Bearer ${[...provider.issued.accessTokens][0]}` },
    { 'Access-Control-Request-Method': 'GET' },
  ]
  for (const headers of disguises) {
    for (const method of ['GET', 'HEAD', 'POST']) {
      const answer = await browser.api('/api/items', { method, headers })
      t.equal(answer.status, 401, `${method} ${JSON.stringify(headers).slice(0, 40)}`)
      t.strictSame([answer.headers.location, answer.headers['cache-control']], [undefined, 'no-store'])
    }
  }
  const options = await browser.api('/api/items', { method: 'OPTIONS' })
  t.strictSame([options.status, options.text], [204, ''], 'OPTIONS is answered here')
  t.strictSame(
    heard.map(each => each()),
    ['', '', ''],
    'and no API heard anything',
  )
  t.equal((await browser.api('/public')).status, 200)
  t.ok(await eventually(() => open.requests.length === 1))
})
