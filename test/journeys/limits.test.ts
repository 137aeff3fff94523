import tap, { test } from 'tap'
import { randomToken } from '../../src/core/random.ts'
import { rawRequest } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import type { RedisMonitor } from '../support/redis-monitor.ts'
import { sessionCookie, startStage } from '../support/stage.ts'

const most = 10
const stage = await startStage(tap, {
  env: { RATE_LIMIT_LOGIN: `${most}/m`, RATE_LIMIT_INVALID: `${most}/m`, TRUSTED_PROXIES: '127.0.0.0/8,::1' },
})
const { gateway, redis, upstream } = stage
// What it takes to open the test's own link is not to be counted.
await redis.client.ping()
let addresses = 0
/** A client that nobody has heard of yet, behind the proxy that this test is. */
const newcomer = () => {
  addresses += 1
  return { 'X-Forwarded-For': `198.51.100.${addresses}` }
}
const browser = stage.browser()
/** What was asked of Redis so far: a monitor may tell of it only after the answer to a request. */
async function commandsOf(monitor: RedisMonitor): Promise<string[][]> {
  const last = randomToken()
  await redis.client.echo(last)
  const isTold = () => monitor.commands.some(words => words.includes(last))
  if (!(await eventually(isTold))) throw new Error('the monitor has stopped')
  return monitor.commands.filter(([name]) => name !== 'echo')
}
const page = { Accept: 'text/html', 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'document' }

// Each login keeps a transaction in Redis for minutes: anybody could fill it (OWASP ASVS 2.4.1).
test('logins from one address are bounded, before Redis is asked, and those from others are not', async t => {
  const flooder = newcomer()
  for (let count = 0; count < most; count += 1)
    t.equal((await browser.get('/bff/login', { headers: flooder, cookies: [] })).status, 302)
  const monitor = await redis.monitor()
  for (let count = 0; count < 50; count += 1) {
    const answer = await browser.get('/bff/login', { headers: { ...flooder, ...page }, cookies: [] })
    t.equal(answer.status, 429)
    t.match(answer.headers, { 'retry-after': /^[1-9]\d?$/, 'content-type': /html/, 'cache-control': 'no-store' })
    t.strictSame(answer.rawSetCookie, [])
  }
  t.strictSame(await commandsOf(monitor), [])
  monitor.stop()
  const problem = await browser.get('/bff/login', { headers: flooder, cookies: [] })
  t.match(problem.json(), { code: 'too_many_requests', status: 429 })
  t.equal((await browser.get('/bff/login', { headers: newcomer(), cookies: [] })).status, 302)
  t.match(gateway.events('rate_limited'), [{ limit: 'login', address: flooder['X-Forwarded-For'] }], 'said once')
  t.equal(gateway.events('rate_limited').length, 1)
})

test('the callback and the ways out count, too', async t => {
  const ways = [
    ['GET', '/bff/callback?code=x&state=y'],
    ['GET', '/bff/logout'],
    ['POST', '/bff/logout'],
    ['GET', '/bff/logout/continue'],
  ] as const
  for (const [method, path] of ways) {
    const headers = { ...newcomer(), 'X-CSRF': '1' }
    const statuses: number[] = []
    for (let count = 0; count <= most; count += 1)
      statuses.push((await browser.request(path, { method, headers, cookies: [] })).status)
    t.equal(statuses.filter(status => status !== 429).length, most, `${method} ${path}`)
    t.equal(statuses.at(-1), 429, `${method} ${path}`)
  }
})

// An image on any page could otherwise use up what its visitor may sign in by.
test('what another site makes a browser ask does not count', async t => {
  const headers = newcomer()
  const image = { ...headers, 'Sec-Fetch-Mode': 'no-cors', 'Sec-Fetch-Dest': 'image', 'Sec-Fetch-Site': 'cross-site' }
  for (let count = 0; count < most * 3; count += 1)
    t.equal((await browser.get('/bff/login', { headers: image, cookies: [] })).status, 403)
  t.equal((await browser.get('/bff/login', { headers, cookies: [] })).status, 302)
})

// A new X-Forwarded-For with each request makes one client look like a thousand.
test('an address that anybody may have made up is not counted by', async t => {
  const direct = await startStage(t, { memory: true, env: { RATE_LIMIT_LOGIN: `${most}/m` } })
  const statuses: number[] = []
  for (let count = 0; count < 20; count += 1) {
    const headers = {
      'X-Forwarded-For': `203.0.113.${count}`,
      Forwarded: `for=203.0.113.${count}`,
      'X-Real-IP': '1.1.1.1',
    }
    statuses.push((await direct.browser().get('/bff/login', { headers })).status)
  }
  t.equal(statuses.filter(status => status === 302).length, most)
  const left = newcomer()['X-Forwarded-For']
  for (let count = 0; count < 20; count += 1) {
    const headers = { 'X-Forwarded-For': `203.0.113.${count}, ${left}` }
    const { status } = await browser.get('/bff/login', { headers, cookies: [] })
    t.equal(status, count < most ? 302 : 429, 'nor is what stands left of the client')
  }
  for (let count = 0; count < 20; count += 1) {
    const headers = { 'X-Forwarded-For': `2001:db8:1:2::${count + 1}` }
    const { status } = await browser.get('/bff/login', { headers, cookies: [] })
    t.equal(status, count < most ? 302 : 429, 'nor an address of the same /64')
  }
})

// Guessing cookies, or only making Redis work: each is a read, and no more than that.
test('cookies that name nothing are bounded, and cost one read each', async t => {
  const alice = await stage.loggedIn('alice')
  const headers = newcomer()
  const bogus = () => [`${sessionCookie}=${randomToken()}`]
  for (let count = 0; count < most; count += 1)
    t.equal((await browser.api('/bff/user', { headers, cookies: bogus() })).status, 401)
  const keys = (await redis.keys()).sort()
  const monitor = await redis.monitor()
  for (let count = 0; count < 20; count += 1) {
    const path = count % 2 === 0 ? '/bff/user' : '/api/items'
    const answer = await browser.api(path, { headers, cookies: bogus() })
    t.match([answer.status, answer.json().code], [429, 'too_many_requests'])
    t.match(answer.headers['retry-after'], /^[1-9]\d?$/)
    t.strictSame(answer.rawSetCookie, [])
  }
  const asked = (await commandsOf(monitor)).length
  t.ok(asked <= 20, `${asked} commands`)
  for (const cookie of ['x', '', 'A'.repeat(42), 'A'.repeat(44), `${'A'.repeat(42)}!`, 'A'.repeat(4000)])
    t.equal((await browser.api('/bff/user', { headers, cookies: [`${sessionCookie}=${cookie}`] })).status, 401)
  t.equal((await commandsOf(monitor)).length, asked, 'a malformed one is not even looked up')
  monitor.stop()
  t.strictSame((await redis.keys()).sort(), keys, 'nothing was written')
  t.equal((await alice.api('/bff/user', { headers })).status, 200, 'a user at the same address is served')
  t.equal((await browser.api('/bff/user', { headers: newcomer(), cookies: bogus() })).status, 401)
  t.equal(upstream.requests.length, 0)
})

test('a session that has ended may be asked for as often as one likes', async t => {
  const alice = await stage.loggedIn('alice')
  const headers = newcomer()
  const cookies = [`${sessionCookie}=${alice.jar.get(sessionCookie)}`]
  await alice.api('/bff/logout', { method: 'POST', headers })
  for (let count = 0; count < most * 2; count += 1)
    t.equal((await browser.api('/bff/user', { headers, cookies })).json().code, 'session_revoked')
})

test('a session has at most 64 event streams', async t => {
  const alice = await stage.loggedIn('alice')
  const other = await stage.loggedIn('bob')
  const streams = await Promise.all(Array.from({ length: 64 }, () => alice.stream('/bff/events')))
  t.ok(streams.every(stream => stream.status === 200))
  const tooMany = await alice.api('/bff/events')
  t.match([tooMany.status, tooMany.headers['retry-after']], [429, '1'])
  t.equal((await alice.api('/bff/user')).status, 200)
  const others = await other.stream('/bff/events')
  t.equal(others.status, 200)
  streams[0]?.close()
  const again = async () => {
    const stream = await alice.stream('/bff/events')
    streams.push(stream)
    return stream.status === 200
  }
  t.ok(await eventually(again))
  for (const stream of [...streams, others]) stream.close()
})

// The cookies of other applications under the same name of a host come along, and there may be many of them.
test('a flood of cookies is refused at once, and one below the limit is survived', async t => {
  const head = (cookie: string) =>
    `GET /bff/user HTTP/1.1\r\nHost: localhost\r\nX-CSRF: 1\r\nConnection: close\r\nCookie: ${cookie}\r\n\r\n`
  const flood = (count: number, size: number) =>
    Array.from({ length: count }, (_, index) => `c${index}=${'x'.repeat(size)}`).join('; ')
  const started = performance.now()
  t.match(await rawRequest(gateway.port, head(flood(150, 430))), /^HTTP\/1\.1 431 /)
  t.match(await rawRequest(gateway.port, head(flood(150, 80))), /^HTTP\/1\.1 401 /)
  t.match(await rawRequest(gateway.port, head(';'.repeat(15_000))), /^HTTP\/1\.1 401 /)
  t.match(await rawRequest(gateway.port, head(`${sessionCookie}=;`.repeat(800))), /^HTTP\/1\.1 401 /)
  t.ok(performance.now() - started < 3000)
})

// One header that takes a second to read, and a few clients stop everybody (OWASP ASVS 1.3.12).
test('no parsing takes longer than its input is worth', async t => {
  const [long, slowMs] = [15_000, 250]
  const headers: [string, string][] = [
    ...['a=b; ', ';', ' ', '=', `${sessionCookie}=`, '"'].map((unit): [string, string] => ['Cookie', fill(unit, long)]),
    ...['text/html,', ',', ';q=0,', '*'].map((unit): [string, string] => ['Accept', fill(unit, long)]),
    ...['for=1.2.3.4,', '"', ','].map((unit): [string, string] => ['Forwarded', fill(unit, long)]),
    ...['127.0.0.1,', '[', '1', ':', ',', ' ,', '::1,'].map((unit): [string, string] => [
      'X-Forwarded-For',
      fill(unit, long),
    ]),
    ...['localhost,', ',', 'a.', '['].map((unit): [string, string] => ['X-Forwarded-Host', fill(unit, long)]),
    ...['http,', ' '].map((unit): [string, string] => ['X-Forwarded-Proto', fill(unit, long)]),
    ...['a', '.', '[', ':1'].map((unit): [string, string] => ['Host', fill(unit, long)]),
    ['Origin', fill('http://', long)],
    ['Access-Control-Request-Headers', fill('a,', long)],
    ['Access-Control-Request-Headers', fill('a, ', long)],
  ]
  const targets = ['/', '%2e/', '../', 'a/', '%25', ';', '%'].map(unit => `/${fill(unit, long)}`)
  const returns = ['/', '%2F', '\\', '@', '#', 'http://', '/..'].map(
    unit => `/bff/login?returnUrl=/${fill(unit, long)}`,
  )
  const requests = [
    ...headers.map(([name, value]) => [`OPTIONS /bff/user`, `${name}: ${value}`]),
    ...headers.map(([name, value]) => [`GET /bff/login/failed`, `${name}: ${value}`]),
    ...[...targets, ...returns].map(target => [`GET ${target}`, 'X: x']),
  ]
  const timesMs: number[] = []
  for (const [start, line] of requests) {
    const host = line?.startsWith('Host:') ? '' : 'Host: localhost\r\n'
    let bestMs = Number.POSITIVE_INFINITY
    // What takes long for its own sake does so every time; a busy machine does not.
    for (let tries = 0; tries < 3 && bestMs > slowMs; tries += 1) {
      const started = performance.now()
      const answer = await rawRequest(gateway.port, `${start} HTTP/1.1\r\n${host}${line}\r\nConnection: close\r\n\r\n`)
      bestMs = Math.min(bestMs, performance.now() - started)
      t.match(answer, /^HTTP\/1\.1 [234]\d\d /, `${start?.slice(0, 30)} ${line?.slice(0, 30)}`)
    }
    timesMs.push(bestMs)
  }
  const slow = timesMs.toSorted((a, b) => a - b).at(-3) ?? 0
  t.ok(slow < slowMs, `${Math.round(slow)} ms`)
})

function fill(unit: string, length: number): string {
  return unit.repeat(Math.floor(length / unit.length))
}
