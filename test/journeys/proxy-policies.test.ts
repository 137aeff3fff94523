import tap, { test } from 'tap'
import { randomToken } from '../../src/core/random.ts'
import type { TestBrowser } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { startGateway } from '../support/gateway.ts'
import { cookieOf, lifetime, startRules } from '../support/rules.ts'
import { linked, sessionCookie, startStage } from '../support/stage.ts'

const { stage, side, upstream, gateway, provider, clock, redis, listen } = await startRules(tap)

// A rule that is judged by what was known at the login lets somebody in who has been put out since.
test('what a policy requires holds for the claims of now', async t => {
  provider.users.set('rita', { roles: ['user', 'chief'], note: 'ok' })
  const rita = await stage.loggedIn('rita')
  t.equal((await rita.api('/staff/list')).status, 200)
  const refuses = async (name: string) => {
    const heard = listen()
    for (const method of ['GET', 'POST', 'DELETE']) {
      const answer = await rita.api('/staff/list', { method })
      t.match([answer.status, answer.json()], [403, { code: 'forbidden', status: 403 }], name)
      t.match(answer.headers, { 'content-type': /^application\/problem\+json/, 'cache-control': 'no-store' })
      t.notMatch(answer.text, /staff|chief|roles|loginUrl/, 'and is not told what is required')
    }
    t.equal(heard(), '')
    t.equal((await rita.api('/api/items')).status, 200, 'other upstreams are not concerned')
  }
  const changed = async (claims: object) => {
    provider.users.set('rita', claims)
    clock.advance(lifetime * 1000 + 1000)
    await rita.api('/api/items')
  }
  await changed({ roles: ['user'] })
  await refuses('without the role')
  await changed({ roles: 'chief' })
  t.equal((await rita.api('/staff/list')).status, 200, 'with it again')
  for (const roles of [['Chief'], ['chie'], 'user chief', { chief: true }, [['chief']], [], null]) {
    await changed({ roles })
    await refuses(JSON.stringify(roles))
  }
  await changed({ roles: ['staff'], note: 'no' })
  await refuses('with one of two')
  t.equal((await stage.browser().api('/staff/list')).status, 401, 'nobody is 401, not 403')
})

// Anonymous is what is left when there is no session for sure. Taken for it, an outage shows the page of a stranger.
test('with AUTH=optional a dead cookie is nobody, and an outage is a 503', async t => {
  const [alice, gone] = [await stage.loggedIn('alice'), await stage.loggedIn('alice')]
  const goneCookie = cookieOf(gone)
  await gone.api('/bff/logout', { method: 'POST' })
  const cookies: Record<string, string[]> = {
    none: [],
    ended: [`${sessionCookie}=${goneCookie}`],
    'never issued': [`${sessionCookie}=${randomToken()}`],
    malformed: [`${sessionCookie}=x`],
    'two at once': [`${sessionCookie}=${cookieOf(alice)}; ${sessionCookie}=${randomToken()}`],
  }
  const nobody = async (name: string) => {
    const heard = listen()
    const answer = await stage.browser().api('/optional/x', { cookies: cookies[name] ?? [] })
    t.equal(answer.status, 200, name)
    t.strictSame([answer.rawSetCookie, answer.headers.location], [[], undefined])
    t.notMatch(heard(), /authorization|x-member|cookie/i, name)
  }
  for (const name of Object.keys(cookies)) await nobody(name)

  const unavailable = async (browser: TestBrowser, code: string, name: string, given?: string[]) => {
    const heard = listen()
    const answer = await browser.api('/optional/x', given === undefined ? {} : { cookies: given })
    t.match([answer.status, answer.json().code], [503, code], name)
    t.match(answer.headers['retry-after'], /^\d+$/)
    t.strictSame(answer.rawSetCookie, [])
    t.equal(heard(), '', `${name}: the upstream is not told of anybody`)
  }
  const faults = { hanging: [redis.pause, redis.resume], down: [redis.down, redis.restart] } as const
  const ready = async () => (await stage.browser().get(`${gateway.internalUrl}/readyz`)).status
  for (const [name, [fail, mend]] of Object.entries(faults)) {
    const known = await stage.loggedIn('olga')
    clock.advance(1000)
    await fail()
    await unavailable(known, 'store_unavailable', name)
    await unavailable(stage.browser(), 'store_unavailable', `${name}, ended`, cookies.ended)
    await unavailable(stage.browser(), 'store_unavailable', `${name}, never issued`, cookies['never issued'])
    t.equal((await known.api('/api/x')).status, 503)
    t.equal((await stage.browser().get('/open/x', { cookies: [`${sessionCookie}=${cookieOf(known)}`] })).status, 200)
    for (const other of ['none', 'malformed', 'two at once']) await nobody(other)
    t.equal(await ready(), 503)
    t.equal((await stage.browser().get(`${gateway.internalUrl}/healthz`)).status, 200)
    await mend()
    await linked(gateway)
    t.equal(await ready(), 200, `${name}: it is ready again`)
  }
  const known = await stage.loggedIn('olga')
  clock.advance(lifetime * 1000 + 1000)
  provider.respond('token', { status: 503 })
  await unavailable(known, 'provider_unavailable', 'without a provider')
  provider.reset()
  clock.advance(60_000)
  t.ok(await eventually(async () => (await known.api('/optional/x')).status === 200))
})

test('with ACTIVITY=passive requests do not keep a session alive', async t => {
  const quiet = await startStage(t, {
    memory: true,
    env: { UPSTREAM_QUIET_PATH: '/quiet', UPSTREAM_QUIET_URL: side.url, UPSTREAM_QUIET_ACTIVITY: 'passive' },
  })
  const browser = await quiet.loggedIn('alice')
  const left = async () =>
    (await browser.api('/bff/user?slide=false')).json<{ session: { idleExpiresIn: number } }>().session.idleExpiresIn
  quiet.clock.advance(600_000)
  for (const method of ['GET', 'POST', 'HEAD', 'OPTIONS'])
    t.ok((await browser.api('/quiet/x', { method, headers: { 'X-Activity': 'active' } })).status < 300)
  t.equal(await left(), 1200)
  await browser.api('/api/x', { method: 'OPTIONS' })
  t.equal(await left(), 1200, 'OPTIONS never counts')
  await browser.api('/api/x', { headers: { 'X-Activity': 'passive' } })
  t.equal(await left(), 1200)
  for (const accept of ['text/event-stream', 'text/event-stream, */*'])
    t.equal((await browser.api('/api/x', { headers: { Accept: accept } })).status, 200)
  t.equal(await left(), 1200, 'an event stream is opened anew by itself')
  t.equal((await browser.api('/api/x', { headers: { Accept: 'text/html, */*' } })).status, 200)
  t.equal(await left(), 1800)
  quiet.clock.advance(1_000_000)
  t.equal((await browser.api('/quiet/x')).status, 200)
  quiet.clock.advance(801_000)
  t.match((await browser.api('/quiet/x')).json(), { code: 'session_expired' })
})

// One connection to an API carries everybody's requests, one after the other.
test('forty sessions at once get their own tokens and their own answers, of two upstreams', async t => {
  const claimsOf = (authorization = '') =>
    JSON.parse(Buffer.from(authorization.split('.')[1] ?? '', 'base64url').toString()) as Record<string, unknown>
  const answer: typeof upstream.respond = ({ headers, url }, response) => {
    const { sub, scope } = claimsOf(headers.authorization)
    const staff = headers['x-staff'] ?? null
    setTimeout(() => response.end(JSON.stringify({ sub, scope, staff, url })), Math.random() * 100)
  }
  const both = [upstream, side]
  const honest = both.map(({ respond }) => respond)
  for (const at of both) at.respond = answer
  t.teardown(() => {
    for (const [index, at] of both.entries()) at.respond = honest[index] ?? answer
  })
  const names = Array.from({ length: 40 }, (_, index) => `mixed-${index}`)
  const browsers: TestBrowser[] = []
  for (let from = 0; from < names.length; from += 10)
    browsers.push(...(await Promise.all(names.slice(from, from + 10).map(stage.loggedIn))))
  const wrong: unknown[] = []
  const expect = async (browser: TestBrowser, sub: string, path: string, scope: RegExp, staff: string | null) => {
    const got = (await browser.api(path)).json()
    if (got.sub !== sub || !scope.test(String(got.scope)) || got.staff !== staff) wrong.push({ path, sub, got })
  }
  for (let round = 0; round < 2; round += 1) {
    await Promise.all(
      browsers.flatMap((browser, index) => {
        const name = names[index] ?? ''
        return [
          expect(browser, name, `/api/${name}`, /^openid\b/, name),
          expect(browser, name, `/other/${name}`, /^api:write$/, null),
          expect(browser, name, `/api/${name}`, /^openid\b/, name),
        ]
      }),
    )
    clock.advance(lifetime * 1000 + 1000)
  }
  t.strictSame(wrong.slice(0, 3), [])
})

// A page left open over night asks all its APIs at once. Were each sent to log in, the browser would be full of logins
// under way, and Redis as well.
test('requests without a session are refused at once, and leave nothing behind', async t => {
  const before = [(await redis.keys()).sort(), provider.requests.length] as const
  const heard = listen()
  const browser = stage.browser()
  const answers = await Promise.all(
    Array.from({ length: 50 }, (_, index) =>
      index % 2 === 0
        ? browser.api(`/api/${index}`)
        : browser.get(`/api/${index}`, { headers: { Accept: 'text/html', 'X-CSRF': '1' } }),
    ),
  )
  for (const answer of answers) {
    t.match([answer.status, answer.json()], [401, { code: 'not_authenticated', loginUrl: '/bff/login' }])
    t.strictSame([answer.rawSetCookie, answer.headers.location], [[], undefined])
    t.match(answer.headers, { 'content-type': /^application\/problem\+json/, 'cache-control': 'no-store' })
  }
  t.strictSame([(await redis.keys()).sort(), provider.requests.length], before)
  t.equal(heard(), '')
})

// A Redis set up as a cache forgets the session of whoever has not been there for longest, and the only copy of a token.
test('a Redis that drops records when it is full is warned of at the start', async t => {
  const warnings = async (policy: string) => {
    await redis.client.config('SET', 'maxmemory-policy', policy)
    const started = await startGateway({ provider: stage.provider, env: { REDIS_URL: redis.url } })
    await linked(started)
    await eventually(() => started.log.some(line => line.includes('noeviction')), policy === 'noeviction' ? 300 : 5000)
    await started.close()
    return started.log.filter(line => line.includes('noeviction')).length
  }
  t.same([await warnings('allkeys-lru'), await warnings('noeviction')], [1, 0])
})

// Redis is there, and worse than away: it takes nothing, or takes its time.
test('a degraded Redis is a defined answer, and is over when it is', async t => {
  const alice = await stage.loggedIn('alice')
  const config = (name: string, value: string) => redis.client.config('SET', name, value)
  const faults: Record<string, [() => Promise<unknown>, () => Promise<unknown>]> = {
    'full, and it evicts nothing': [() => config('maxmemory', '1'), () => config('maxmemory', '0')],
    'read-only': [() => config('min-replicas-to-write', '1'), () => config('min-replicas-to-write', '0')],
    'a replica': [
      () => redis.client.call('REPLICAOF', '127.0.0.1', '1'),
      () => redis.client.call('REPLICAOF', 'NO', 'ONE'),
    ],
  }
  for (const [name, [fail, mend]] of Object.entries(faults)) {
    const half = stage.browser()
    const under = await stage.pendingCallback(half, 'bob')
    clock.advance(1000)
    await fail()
    const begun = await stage.browser().get('/bff/login')
    t.ok([302, 503].includes(begun.status), `${name}: a login is begun or not: ${begun.status}`)
    if (begun.status === 503) t.match(begun.headers['retry-after'], /^\d+$/)
    const finished = await stage.open(half, under)
    t.equal(finished.status, 503, `${name}: no login is finished`)
    t.strictSame(
      finished.rawSetCookie.filter(line => line.startsWith(`${sessionCookie}=`)),
      [],
    )
    const call = await alice.api('/api/x')
    t.ok([200, 503].includes(call.status), `${name}: whoever is known is served or asked to wait: ${call.status}`)
    t.equal((await stage.browser().api('/api/x')).status, 401)
    await mend()
    await linked(gateway)
    t.ok(await eventually(async () => (await alice.api('/api/x')).status === 200), `${name}: and is known afterwards`)
    await stage.loggedIn('bob')
  }
})

// A script that has run wild, or a stolen cookie, must not take an upstream away from everybody else.
test('a session has at most 128 requests under way, and others are served meanwhile', async t => {
  const [wild, calm] = [await stage.loggedIn('wild'), await stage.loggedIn('calm')]
  const [respond, held] = [upstream.respond, [] as (() => void)[]]
  t.teardown(() => {
    upstream.respond = respond
  })
  upstream.respond = (request, response) => {
    if (request.url.startsWith('/held')) held.push(() => void response.end('{}'))
    else response.end('{}')
  }
  const calls = Array.from({ length: 160 }, () => wild.api('/api/held'))
  t.ok(await eventually(() => held.length === 128, 10_000))
  const refused = await wild.api('/api/items')
  t.match([refused.status, refused.headers['retry-after'], refused.json()], [429, '1', { code: 'too_many_requests' }])
  t.equal((await calm.api('/api/items')).status, 200)
  for (const finish of held.splice(0)) finish()
  const statuses = (await Promise.all(calls)).map(({ status }) => status)
  t.same(
    [statuses.filter(status => status === 200).length, statuses.filter(status => status === 429).length],
    [128, 32],
  )
  t.equal((await wild.api('/api/items')).status, 200)
})
