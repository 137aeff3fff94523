import { setTimeout as sleep } from 'node:timers/promises'
import tap, { type Test, test } from 'tap'
import { sessionHandle, sessionIdOf } from '../../src/core/session.ts'
import { type BrowserResponse, createBrowser } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { claims } from '../support/forgeries.ts'
import { startGateway } from '../support/gateway.ts'
import { login, throughProvider } from '../support/login.ts'
import { startProvider, type TestProvider } from '../support/provider.ts'
import {
  claimsOf,
  holdTokenResponses,
  type KnownSession,
  knownSession,
  lastIdToken,
  sendLogoutToken,
} from '../support/provider-logout.ts'
import { startRedis } from '../support/redis.ts'
import { startReplicas } from '../support/replicas.ts'
import { linked, sessionCookie, startStage } from '../support/stage.ts'
import { untilRefused } from '../support/until-refused.ts'

const stage = await startStage(tap, { env: { SESSION_MAX_PER_USER: '100' } })
const { clock, gateway, provider, redis } = stage
const { logoutToken } = provider

const enter = (user: string) => knownSession(stage, user)
const send = (token: string) => sendLogoutToken(stage.browser(), token)
const isAlive = async ({ browser }: KnownSession) => (await browser.api('/bff/user')).status === 200
const isRevoked = (at: TestProvider, refreshToken: string) =>
  eventually(() => at.revocations().some(call => call.form.get('token') === refreshToken && call.answered === 200))

/** The answer to a logout that happened: nothing in it, and not stored (Back-Channel Logout §2.8). */
function done(t: Test, answer: BrowserResponse, name = 'done'): void {
  t.strictSame(
    [answer.status, answer.text, answer.headers['cache-control'], answer.rawSetCookie],
    [200, '', 'no-store', []],
    name,
  )
}

async function hasEnded(t: Test, session: KnownSession, name: string): Promise<void> {
  for (const path of ['/bff/user', '/api/items']) {
    const answer = await session.browser.api(path)
    t.match([answer.status, answer.json()], [401, { code: 'session_revoked', reason: 'backchannel_logout' }], name)
  }
  t.notOk(
    (await stage.sessions()).some(key => key.endsWith(sessionIdOf(session.cookie))),
    `${name}: no record is left`,
  )
}

test('a logout token ends exactly the session that it names, and its refresh token is revoked', async t => {
  const [here, there, stranger] = [await enter('alice'), await enter('alice'), await enter('bob')]
  done(t, await send(logoutToken({ sid: here.sid })))
  await hasEnded(t, here, 'named')
  t.ok(await isAlive(there), 'another session of the same user')
  t.ok(await isAlive(stranger))
  t.ok(await isRevoked(provider, here.refreshToken))
  t.notOk(provider.revocations().some(call => call.form.get('token') === there.refreshToken))
  const session = sessionHandle(sessionIdOf(here.cookie))
  t.match(gateway.events('session_ended').at(-1), { session, reason: 'backchannel_logout' })
  t.match(gateway.events('provider_logout').at(-1), { channel: 'back', ended: 1 })
})

test('a logout token without a session ends all sessions of its user, and nobody else', async t => {
  const [first, second, stranger] = [await enter('carol'), await enter('carol'), await enter('dave')]
  clock.advance(2000)
  done(t, await send(logoutToken({ sub: 'carol' })))
  for (const session of [first, second]) {
    await hasEnded(t, session, 'of the user')
    t.ok(await isRevoked(provider, session.refreshToken))
  }
  t.ok(await isAlive(stranger))
})

test('a session and a user that do not belong together end nothing', async t => {
  const [erin, frank] = [await enter('erin'), await enter('frank')]
  done(t, await send(logoutToken({ sid: erin.sid, sub: frank.sub })))
  for (const session of [erin, frank]) t.ok(await isAlive(session))
  done(t, await send(logoutToken({ sid: erin.sid, sub: erin.sub })))
  await hasEnded(t, erin, 'together')
})

test('with nothing to end a logout is done', async t => {
  const session = await enter('grace')
  await session.browser.api('/bff/logout', { method: 'POST' })
  for (const names of [{ sid: session.sid }, { sub: 'grace' }, { sid: 'nobody-knows' }, { sub: 'nobody' }])
    done(t, await send(logoutToken(names)))
})

// Whatever sends a logout in another way than the standard's is no provider, and may be another site's page.
test('a logout token comes in a form, once, by POST', async t => {
  const session = await enter('heidi')
  const browser = stage.browser()
  const token = logoutToken({ sid: session.sid })
  const form = `logout_token=${token}`
  const type = 'application/x-www-form-urlencoded'
  const attempts: [number, string, Parameters<typeof browser.request>[0], Parameters<typeof browser.request>[1]][] = [
    [405, 'GET', `/bff/backchannel?${form}`, {}],
    [405, 'HEAD', `/bff/backchannel?${form}`, { method: 'HEAD' }],
    [405, 'PUT', '/bff/backchannel', { method: 'PUT', body: form, headers: { 'content-type': type } }],
    [415, 'JSON', '/bff/backchannel', { method: 'POST', body: { logout_token: token } }],
    [415, 'plain text', '/bff/backchannel', { method: 'POST', body: form, headers: { 'content-type': 'text/plain' } }],
    [415, 'no type', '/bff/backchannel', { method: 'POST', body: form }],
    [
      415,
      'the token itself',
      '/bff/backchannel',
      { method: 'POST', body: token, headers: { 'content-type': 'application/logout+jwt' } },
    ],
    [
      415,
      'multipart',
      '/bff/backchannel',
      {
        method: 'POST',
        body: `--x\r\nContent-Disposition: form-data; name="logout_token"\r\n\r\n${token}\r\n--x--\r\n`,
        headers: { 'content-type': 'multipart/form-data; boundary=x' },
      },
    ],
    [400, 'in the query', `/bff/backchannel?${form}`, { method: 'POST', body: new URLSearchParams({ x: '1' }) }],
    ...['', 'logout_token', 'logout_token=', `${form}&${form}`, `${form}&logout_token=`, `Logout_Token=${token}`].map(
      (body): (typeof attempts)[number] => [
        400,
        body.slice(0, 30),
        '/bff/backchannel',
        { method: 'POST', body, headers: { 'content-type': type } },
      ],
    ),
    [
      413,
      'a megabyte',
      '/bff/backchannel',
      { method: 'POST', body: new URLSearchParams({ logout_token: 'x'.repeat(1 << 20) }) },
    ],
    [
      413,
      'a megabyte beside it',
      '/bff/backchannel',
      { method: 'POST', body: new URLSearchParams({ logout_token: token, x: 'x'.repeat(1 << 20) }) },
    ],
  ]
  for (const [status, name, path, options] of attempts) {
    const answer = await browser.request(path, options)
    t.strictSame([answer.status, answer.headers['cache-control']], [status, 'no-store'], name)
    if (status !== 405) t.match(answer.headers['content-type'], /^application\/problem\+json/, name)
    t.ok(await isAlive(session), name)
  }
  const extra = `x=1&x=2&${form}&state=`
  const headers = {
    'content-type': `${type}; charset=UTF-8`,
    origin: 'https://evil.test',
    'sec-fetch-site': 'cross-site',
  }
  done(t, await browser.post('/bff/backchannel', { body: extra, headers }), 'fields that mean nothing are passed over')
  await hasEnded(t, session, 'in the end')
})

// Somebody who has got hold of a token sends it again, when the user has signed in anew.
test('a logout token works once, and a replay ends no later session', async t => {
  const first = await enter('ivan')
  for (const names of [{ sid: first.sid, sub: first.sub }, { sub: 'ivan' }]) {
    clock.advance(2000)
    const token = logoutToken(names)
    done(t, await send(token))
    t.equal((await send(token)).status, 400, 'at once')
    clock.advance(2000)
    const anew = await enter('ivan')
    t.equal((await send(token)).status, 400, 'after the next login')
    t.ok(await isAlive(anew))
    t.match(gateway.events('logout_token_refused').at(-1), { detail: 'logout token refused: used before' })
  }
  const spent = (await redis.keys()).filter(key => key.includes(':logout-token:'))
  const token = logoutToken({ sub: 'ivan', exp: Math.floor(clock.now() / 1000) + 120 })
  done(t, await send(token))
  const [key = ''] = (await redis.keys()).filter(each => each.includes(':logout-token:') && !spent.includes(each))
  t.notMatch(key, String(claimsOf(token).jti), 'the store is not told the id')
  const left = await redis.client.pttl(key)
  t.ok(left > 150_000 && left <= 420_000, `remembered beyond its life and the leeway: ${left} ms`)
})

// A token that was held up on its way must not sign out a user who has come back since.
test('a late logout token for all sessions of a user spares those signed in to after it was made', async t => {
  const early = await enter('judy')
  clock.advance(2000)
  const token = logoutToken({ sub: 'judy' })
  clock.advance(60_000)
  const browser = createBrowser({ origin: gateway.url })
  const late = await knownSession(stage, 'judy', async user => {
    await login(browser, gateway.url, provider, { user })
    return browser
  })
  t.ok(Number(lastIdToken(provider).auth_time) > Number(claimsOf(token).iat))
  done(t, await send(token))
  await hasEnded(t, early, 'from before')
  t.ok(await isAlive(late))

  provider.tamper.idToken = claims({ auth_time: undefined })
  const untold = await enter('kim')
  clock.advance(5000)
  done(t, await send(logoutToken({ sub: 'kim' })))
  await hasEnded(t, untold, 'of a provider that does not tell when')
  const made = logoutToken({ sub: 'kim' })
  clock.advance(60_000)
  const next = await enter('kim')
  done(t, await send(made))
  t.ok(await isAlive(next))
  provider.reset()
})

// The user signs out at the provider while a callback of another tab is being redeemed: the session must not appear after.
test('a logout that arrives while a login of the same session is in flight wins', async t => {
  for (const names of ['sid', 'sub', 'both']) {
    const browser = stage.browser()
    const callback = await stage.pendingCallback(browser, `lena-${names}`)
    const release = holdTokenResponses(provider)
    const issued = provider.issued.idTokens.size
    const opening = stage.open(browser, callback)
    t.ok(
      await eventually(() => provider.issued.idTokens.size > issued),
      'the provider has answered, and it is on its way',
    )
    const { sid, sub } = lastIdToken(provider)
    const refreshToken = [...provider.issued.refreshTokens].at(-1) ?? ''
    done(t, await send(logoutToken(names === 'sid' ? { sid } : names === 'sub' ? { sub } : { sid, sub })))
    release()
    const answer = await opening
    provider.reset()
    t.equal(answer.status, 400)
    const cookie = browser.jar.get(sessionCookie)
    t.equal(cookie, undefined, 'no session')
    t.match(gateway.events('login_rejected').at(-1), { reason: 'stale', detail: /backchannel_logout/ })
    t.match(gateway.events('session_ended').at(-1), { reason: 'backchannel_logout' })
    t.ok(await isRevoked(provider, refreshToken), 'what the provider gave is revoked')
    await enter(`lena-${names}`)
  }
})

test('a logout that arrives while a refresh of the session is in flight wins', async t => {
  const session = await enter('mia')
  clock.advance(305_000)
  const release = holdTokenResponses(provider)
  const issued = provider.issued.refreshTokens.size
  const calling = session.browser.api('/api/items')
  t.ok(await eventually(() => provider.issued.refreshTokens.size > issued))
  const newest = [...provider.issued.refreshTokens].at(-1) ?? ''
  done(t, await send(logoutToken({ sid: session.sid })))
  release()
  const answer = await calling
  provider.reset()
  t.match([answer.status, answer.json()], [401, { reason: 'backchannel_logout' }])
  await hasEnded(t, session, 'after the refresh')
  t.ok(await isRevoked(provider, newest), 'the newest refresh token is revoked')
})

// The gateway must not say that a user is signed out while the session goes on.
test('a logout that cannot be carried out is said to have failed, and succeeds when it is tried again', async t => {
  const broken = await startStage(t, { redisDir: t.testdir() })
  const session = await knownSession(broken, 'nora')
  const failed = (answer: BrowserResponse, name: string) => {
    t.strictSame([answer.status, answer.json().code], [400, 'bad_request'], name)
    t.match(answer.headers['retry-after'], /^\d+$/, name)
    t.notMatch(answer.text, /redis|store|provider/i, name)
  }
  const token = broken.provider.logoutToken({ sid: session.sid, sub: session.sub })
  await broken.redis.down()
  failed(await sendLogoutToken(broken.browser(), token), 'without a store')
  await broken.redis.restart()
  await linked(broken.gateway)
  t.ok(await isAlive(session))
  broken.redis.pause()
  failed(await sendLogoutToken(broken.browser(), token), 'with a store that hangs')
  broken.redis.resume()
  await linked(broken.gateway)
  t.match(broken.gateway.events('provider_logout_failed'), [{ channel: 'back' }, { channel: 'back' }])

  const onlyKeys = (...patterns: string[]) =>
    broken.redis.client.call('ACL', 'SETUSER', 'default', 'resetkeys', ...patterns)
  await onlyKeys('~coatcheck:{sid-*', '~coatcheck:logout-token:*')
  failed(await sendLogoutToken(broken.browser(), token), 'with a store that fails half-way')
  await onlyKeys('~*')
  t.ok(await isAlive(session))
  done(t, await sendLogoutToken(broken.browser(), token), 'tried again')
  t.notOk(await isAlive(session))

  const other = await knownSession(broken, 'otto')
  const second = broken.provider.logoutToken({ sid: other.sid })
  await onlyKeys('~coatcheck:{*', '%R~coatcheck:logout-token:*')
  failed(await sendLogoutToken(broken.browser(), second), 'with a store that does not note the use of the token')
  await onlyKeys('~*')
  t.notOk(await isAlive(other), 'all is done but that')
  done(t, await sendLogoutToken(broken.browser(), second), 'tried again')

  broken.clock.advance(61 * 60_000)
  const third = broken.provider.logoutToken({ sid: session.sid })
  broken.provider.respond('jwks', { status: 503 })
  failed(await sendLogoutToken(broken.browser(), third), 'without the keys of the provider')
  broken.provider.reset()
  broken.clock.advance(31_000)
  done(t, await sendLogoutToken(broken.browser(), third), 'tried again')
})

// Two providers number their sessions alike, or one of them is hostile and takes the other's numbers.
test('a session of the same name at another provider is another session', async t => {
  const side = await startStage(t, { env: { REDIS_URL: redis.url } })
  stage.provider.tamper.idToken = claims({ sid: 'session-1' })
  side.provider.tamper.idToken = claims({ sid: 'session-1' })
  const [here, there] = [await enter('quentin'), await knownSession(side, 'quentin')]
  done(t, await sendLogoutToken(side.browser(), side.provider.logoutToken({ sid: 'session-1', sub: 'quentin' })))
  t.ok(await isAlive(here))
  t.notOk(await isAlive(there))
  t.equal((await send(side.provider.logoutToken({ sid: 'session-1' }))).status, 400, 'and its tokens mean nothing here')
  t.ok(await isAlive(here))
  provider.reset()
})

test('the provider delivers its logout to every session of the browser that signs out there', async t => {
  const op = await startProvider({ client: { backchannel_logout_uri: 'http://localhost/replaced' } })
  const server = await startRedis()
  const own = await startGateway({ provider: op, env: { REDIS_URL: server.url } })
  t.teardown(async () => {
    await own.close()
    await Promise.all([op.close(), server.stop()])
  })
  await linked(own)
  await op.configureClient({ backchannelLogoutUri: `${own.url}/bff/backchannel` })
  const browser = createBrowser({ origin: own.url })
  await login(browser, own.url, op, { user: 'rosa' })
  const refreshToken = [...op.issued.refreshTokens].at(-1) ?? ''
  t.equal((await browser.api('/bff/user')).status, 200)
  const end = await browser.navigate(`${op.issuer}/session/end?client_id=${op.clientId}`)
  await throughProvider(browser, end, op)
  t.ok(await eventually(() => own.events('provider_logout').length === 1))
  t.match((await browser.api('/bff/user')).json(), { reason: 'backchannel_logout' })
  t.ok(await isRevoked(op, refreshToken))
  t.strictSame(op.errors, [])
})

test('a logout at one replica ends the session at all of them, and two that get the same token do no harm', async t => {
  const [op, server] = await Promise.all([startProvider(), startRedis()])
  const replicas = await startReplicas(3, { provider: op, redis: server })
  t.teardown(async () => {
    await replicas.stop()
    await Promise.all([op.close(), server.stop()])
  })
  const urls = replicas.all.map(({ url }) => url)
  const enterThere = async (user: string) => {
    const browser = createBrowser({ origin: replicas.url })
    await login(browser, replicas.url, op, { user })
    return browser
  }
  const ask = (cookie: string, url: string) =>
    createBrowser({ origin: replicas.url }).api(`${url}/bff/user?slide=false`, {
      headers: { Origin: replicas.url, 'Sec-Fetch-Site': 'same-origin' },
      cookies: [`${sessionCookie}=${cookie}`],
    })
  for (const names of ['sid', 'sub'] as const) {
    const known = await knownSession({ provider: op, loggedIn: enterThere }, `sam-${names}`)
    const other = await enterThere(names === 'sid' ? `sam-${names}` : 'tina')
    for (const url of urls) t.equal((await ask(known.cookie, url)).status, 200, 'every replica has served it')
    await sleep(1000)
    const token = op.logoutToken(names === 'sid' ? { sid: known.sid } : { sub: known.sub })
    const answers = await Promise.all(urls.map(url => sendLogoutToken(known.browser, token, url)))
    const looks = urls.map(async url => {
      const { answer, lastServedMs } = await untilRefused(() => ask(known.cookie, url))
      t.match([answer.status, answer.json().reason], [401, 'backchannel_logout'], url)
      return lastServedMs
    })
    const delays = await Promise.all(looks)
    const statuses = answers.map(({ status }) => status)
    t.ok(statuses.includes(200) && statuses.every(status => status === 200 || status === 400), String(statuses))
    t.comment(`${names}: ${statuses}, served for ${delays.map(ms => ms.toFixed(0)).join(', ')} ms more`)
    for (const delay of delays) t.ok(delay < 1000)
    for (const url of urls) t.equal((await ask(other.jar.get(sessionCookie) ?? '', url)).status, 200, 'nobody else')
    t.ok(await isRevoked(op, known.refreshToken))
    const session = sessionHandle(sessionIdOf(known.cookie))
    const ends = () => replicas.events('session_ended').filter(event => event.session === session)
    t.ok(await eventually(() => ends().length === 1))
    t.match(ends(), [{ reason: 'backchannel_logout' }])
    for (const url of urls) t.equal((await sendLogoutToken(known.browser, token, url)).status, 400, 'a replay')
  }
})

// Made-up logout tokens each cost a look at the keys, and front-channel logouts a command in Redis: nobody may flood
// either, nor keep the provider's own logouts out by it.
test('a client that sends what is refused again and again is stopped for a while', async t => {
  const stage = await startStage(t, { env: { RATE_LIMIT_INVALID: '5/h' } })
  const { gateway, provider } = stage
  const browser = await stage.loggedIn('alice')
  const send = (logoutToken: string) =>
    fetch(`${gateway.url}/bff/backchannel`, {
      method: 'POST',
      body: new URLSearchParams({ logout_token: logoutToken }),
    })
  const frame = (sid: string) => fetch(`${gateway.url}/bff/frontchannel?sid=${sid}`)
  for (let count = 0; count < 5; count += 1) t.equal((await frame(String(count))).status, 200)
  t.equal((await frame('x')).status, 429, 'whatever a sid meant')
  for (let count = 0; count < 5; count += 1) t.equal((await send('made-up')).status, 400)
  const stopped = await send('made-up')
  t.equal(stopped.status, 429)
  t.match(await stopped.json(), { code: 'too_many_requests' })
  t.match(stopped.headers.get('retry-after'), /^[1-9]\d*$/)
  t.equal((await browser.api('/bff/user')).status, 200, 'nothing else is held up')
  // The time of authentication is by the machine's clock.
  stage.clock.advance(30_000)
  t.equal((await send(provider.logoutToken({ sub: 'alice' }))).status, 200, 'least of all the provider itself')
  t.equal((await browser.api('/bff/user')).status, 401)
})
