import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import tap, { type Test, test } from 'tap'
import { createBrowser } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { claims, type Forgery, withoutHash } from '../support/forgeries.ts'
import { startGateway } from '../support/gateway.ts'
import { startHouse } from '../support/hostile-provider.ts'
import { type IdTokenDraft, startProvider } from '../support/provider.ts'
import { holdTokenResponses, knownSession, sendLogoutToken } from '../support/provider-logout.ts'
import { startRace } from '../support/race.ts'
import { startReplicas } from '../support/replicas.ts'
import { login, sessionCookie, startStage } from '../support/stage.ts'

/*
 * How gateways like this one are broken in practice, continued from attacks.test.ts: the attacks on sessions, on what the
 * provider says, and on the patience of everybody.
 */

const stage = await startStage(tap, { env: { SESSION_MAX_PER_USER: '100' } })
const { clock, gateway, provider, upstream, evil } = stage

const revoked = (token: string, at = provider) =>
  eventually(() => at.revocations().some(({ form, answered }) => form.get('token') === token && answered === 200))
const newest = (at = provider) => [...at.issued.refreshTokens].at(-1) ?? ''

// A hundred tabs wake up with a token that is over. Two that present the same refresh token are thief and victim to the
// provider, which revokes the family: everybody is out.
// Then a replica dies, and then Redis takes nothing more, just after the provider has replaced the token.
test('8. and 9. a stampede refreshes once, and who dies in the middle of it leaves a clean end', async t => {
  const { provider, redis, enter, ask, refreshes, replicas, seen, events, restart } = await startRace(t, 3, {
    lifetimes: { accessToken: 8 },
  })
  await t.test('8. a hundred requests on three replicas make one call and are all served', async t => {
    const cookie = await enter('alice')
    await sleep(8000)
    provider.lifetimes.accessToken = 60
    const answers = await Promise.all(Array.from({ length: 100 }, (_, index) => ask(index % 3, cookie)))
    t.ok(answers.every(({ status }) => status === 200))
    t.equal(refreshes().length, 1)
    t.equal(new Set(seen.slice(-100).map(({ token }) => token)).size, 1, 'all with the new token')
    t.same(provider.replays(), [])
    for (const index of [0, 1, 2]) t.equal((await ask(index, cookie)).status, 200, 'and nobody is logged out')
  })

  await t.test('9. when Redis takes no writes at that moment, the token is saved when it does again', async t => {
    provider.lifetimes.accessToken = 4
    const cookie = await enter('bob')
    await sleep(4000)
    provider.lifetimes.accessToken = 120
    provider.clear()
    const readOnly = (on: boolean) => redis.client.config('SET', 'min-replicas-to-write', on ? '1' : '0')
    provider.respond(
      'token',
      async () => {
        await readOnly(true)
        return 'pass' as const
      },
      { times: 1, when: 'after' },
    )
    const first = ask(0, cookie)
    t.ok(await eventually(() => refreshes()[0]?.answered === 200))
    const used = seen.length
    const others = [ask(1, cookie), ask(2, cookie)]
    await sleep(1000)
    t.equal(seen.length, used, 'the new token is used by nobody before it is stored')
    await readOnly(false)
    for (const { status } of await Promise.all([first, ...others])) t.ok([200, 503].includes(status))
    for (const index of [0, 1, 2])
      t.ok(await eventually(async () => (await ask(index, cookie)).status === 200), `replica ${index} goes on`)
    t.equal(refreshes().length, 1)
    t.same(provider.replays(), [])
  })

  await t.test('9. when the replica is killed at that moment, the session ends cleanly, and in no loop', async t => {
    provider.lifetimes.accessToken = 4
    const cookie = await enter('carol')
    await sleep(4000)
    provider.clear()
    const release = holdTokenResponses(provider)
    const held = newest(provider)
    const orphan = ask(2, cookie).catch(() => null)
    t.ok(await eventually(() => newest(provider) !== held), 'the provider has replaced the token')
    await replicas.all[2]?.stop('SIGKILL')
    release()
    provider.tamper.tokenResponse = response => response
    t.equal(await orphan, null)
    await restart(2)
    const statuses: string[] = []
    const over = await eventually(async () => {
      const { status, reason } = await ask(statuses.length % 3, cookie)
      statuses.push(`${status} ${reason}`)
      return status === 401
    }, 25_000)
    t.ok(over, [...new Set(statuses)].join())
    t.equal(statuses.at(-1), '401 rotation_lost')
    t.equal(refreshes().length, 2, 'one call by each who tried')
    for (const index of [0, 1, 2]) t.match(await ask(index, cookie), { status: 401, reason: 'rotation_lost' })
    t.equal(refreshes().length, 2, 'and no more of them')
    t.ok(await eventually(() => events('rotation_lost').length === 1))
  })
})

/** A replica whose sessions end after some seconds without use, with a provider of their own. */
async function startQuiet(t: Test, idleTimeout: string, lifetimes = {}) {
  const provider = await startProvider({ lifetimes })
  const env = {
    SESSION_IDLE_TIMEOUT: idleTimeout,
    REDIS_PREFIX: `${new URL(provider.issuer).port}:`,
    UPSTREAM_API_PATH: '/api',
    UPSTREAM_API_URL: upstream.url,
  }
  const replicas = await startReplicas(1, { provider, redis: stage.redis, env })
  t.teardown(async () => {
    await replicas.stop()
    await provider.close()
  })
  return { replicas, provider }
}

// A session is ended while the provider works for it; what comes back must not raise it from the dead.
test('10. what was on its way when a session ended brings nothing back', async t => {
  type Held = Awaited<ReturnType<typeof knownSession>>
  const ends: Record<string, (session: Held) => Promise<unknown>> = {
    logout: ({ browser }) => browser.api('/bff/logout', { method: 'POST' }),
    'a logout token': ({ sid }) => sendLogoutToken(stage.browser(), provider.logoutToken({ sid })),
  }
  for (const [name, end] of Object.entries(ends)) {
    const session = await knownSession(stage, 'alice')
    clock.advance(305_000)
    const release = holdTokenResponses(provider)
    const calling = session.browser.api('/api/items')
    t.ok(await eventually(() => newest() !== session.refreshToken))
    const heard = upstream.requests.length
    await end(session)
    release()
    t.equal((await calling).status, 401, name)
    provider.reset()
    t.equal(upstream.requests.length, heard, 'the API was not called')
    const answer = await stage.browser().api('/bff/user', { cookies: [`${sessionCookie}=${session.cookie}`] })
    t.equal(answer.status, 401, `${name}: it stays so`)
    t.ok(await revoked(newest()), `${name}: the newest refresh token is revoked`)
    t.strictSame(await stage.sessions(), [])
  }

  const browser = stage.browser()
  const callback = await stage.pendingCallback(browser, 'bob')
  const release = holdTokenResponses(provider)
  const before = newest()
  const opening = stage.open(browser, callback)
  t.ok(await eventually(() => newest() !== before))
  await sendLogoutToken(stage.browser(), provider.logoutToken({ sub: 'bob' }))
  release()
  t.equal((await opening).status, 400, 'a login')
  provider.reset()
  t.ok(await revoked(newest()))
  t.strictSame(await stage.sessions(), [])
})

test('10. nor does it when the session ends because nobody used it', async t => {
  const { replicas, provider } = await startQuiet(t, '6s', { accessToken: 1 })
  const alice = createBrowser({ origin: replicas.url })
  await login(alice, replicas.url, provider)
  const before = newest(provider)
  await sleep(1000)
  const release = holdTokenResponses(provider)
  const calling = alice.api('/api/items')
  t.ok(await eventually(() => newest(provider) !== before))
  const heard = upstream.requests.length
  t.ok(await eventually(() => replicas.events('session_ended').length === 1, 20_000))
  release()
  t.match([(await calling).status, (await alice.api('/bff/user')).status], [401, 401])
  t.equal(upstream.requests.length, heard)
  t.ok(await revoked(newest(provider), provider), 'the newest refresh token is revoked')
})

// Alice closes her laptop, and the gateway is down when her session is due. Nobody ever asks for it again; somebody who
// has got hold of the refresh token could go on using it.
test('11. a session that nobody asks for again is revoked, even if the gateway was down at its deadline', async t => {
  const { replicas, provider } = await startQuiet(t, '3s')
  const alice = createBrowser({ origin: replicas.url })
  await login(alice, replicas.url, provider)
  t.ok(alice.jar.get(sessionCookie))
  const token = newest(provider)
  await replicas.all[0]?.stop('SIGKILL')
  await sleep(3500)
  t.notOk(provider.revocations().some(({ form }) => form.get('token') === token))
  await replicas.restart(0)
  t.ok(await revoked(token, provider), 'without a request')
  t.match(replicas.events('session_ended'), [{ reason: 'idle' }])
  const answer = await alice.api('/bff/user')
  t.match([answer.status, answer.json().code], [401, 'session_expired'])
})

// Anybody may call the endpoint for logout tokens. Whatever JWT is at hand, or can be made, must not sign people out.
test('12. what is not exactly a logout token for this client signs nobody out', async t => {
  const session = await knownSession(stage, 'alice')
  const { sid, sub } = session
  const event = 'http://schemas.openid.net/event/backchannel-logout'
  const used = provider.logoutToken({ sid: (await knownSession(stage, 'alice')).sid })
  t.equal((await sendLogoutToken(stage.browser(), used)).status, 200)
  const [, payload] = provider.logoutToken({ sid }).split('.')
  const unsigned = (alg: string) =>
    `${Buffer.from(JSON.stringify({ alg, typ: 'logout+jwt' })).toString('base64url')}.${payload}.`
  const tokens: Record<string, string> = {
    'its own ID token': [...provider.issued.idTokens].at(-2) ?? '',
    'a logout token typed as any JWT': provider.logoutToken({ sid }, { typ: 'JWT' }),
    unsigned: unsigned('none'),
    'unsigned, spelled otherwise': unsigned('nOnE'),
    'of another client': provider.logoutToken({ sid, aud: 'other' }),
    'of several clients': provider.logoutToken({ sid, aud: [provider.clientId, 'other'] }),
    'of another provider': provider.logoutToken({ sid, iss: 'https://evil.test' }),
    'used before': used,
    'with an empty nonce': provider.logoutToken({ sid, nonce: '' }),
    'with null for a nonce': provider.logoutToken({ sid, nonce: null }),
    'with events as text': provider.logoutToken({ sid, events: event }),
    'with events as a list': provider.logoutToken({ sid, events: [event] }),
    'with another event': provider.logoutToken({ sid, events: { [`${event}s`]: {} } }),
    'with nobody': provider.logoutToken({}),
    'with a session of somebody else': provider.logoutToken({ sid, sub: `${sub}x` }),
    expired: provider.logoutToken({ sid, exp: Math.floor(clock.now() / 1000) - 300 }),
  }
  for (const [name, token] of Object.entries(tokens)) {
    const answer = await sendLogoutToken(stage.browser(), token)
    // One that is sound but names no session has nothing to do.
    const status = name === 'with a session of somebody else' ? 200 : 400
    t.strictSame([answer.status, answer.headers['cache-control']], [status, 'no-store'], name)
    t.equal((await session.browser.api('/bff/user')).status, 200, `${name}: signed in as before`)
  }
})

// The ID token comes from the provider's own endpoint, over TLS: many do not look at it any further.
test('13. a forged ID token opens no session, although it came over the back channel', async t => {
  const house = await startHouse(t)
  const pem = ({ key }: IdTokenDraft) => key.publicKey.export({ format: 'pem', type: 'spki' })
  let earlier = ''
  await house.accepts(t, 'an honest token, which is kept', at => {
    at.tamper.idToken = ({ token }) => {
      earlier = token
      return token
    }
  })
  const forgeries: Record<string, Forgery> = {
    'with a bad signature': ({ token }) => `${token.slice(0, -8)}${token.endsWith('A') ? 'BBBBBBBB' : 'AAAAAAAA'}`,
    'without a signature': ({ token }) => `${token.split('.').slice(0, 2).join('.')}.`,
    'signed with the public key as a secret': withoutHash(draft =>
      draft.sign({ ...draft.header, alg: 'HS256' }, draft.payload, pem(draft)),
    ),
    'for another client as well': claims({ aud: [house.provider.clientId, 'other'] }),
    'of an earlier login': () => earlier,
    'with a nonce of its own': claims({ nonce: 'stale' }),
  }
  for (const [name, forgery] of Object.entries(forgeries))
    await house.refuses(t, name, at => {
      at.tamper.idToken = forgery
    })
})

// A link to this very site, which sends whoever logs in by it to another one.
test('14. a login never leads to another site, whatever becomes of its return URL', async t => {
  const far = `127.0.0.1:${evil.port}`
  const urls = [
    `/.//${far}`,
    `/a/..//${far}`,
    `/%2e/%2e%2e//${far}`,
    `/.%2f/${far}`,
    `//${far}`,
    `///${far}`,
    `/\\${far}`,
    `\\\\${far}`,
    `/\t/${far}`,
    `/%09/${far}`,
    `http:${far}`,
    `http:///${far}`,
    `http://${far}/`,
    `${gateway.url}@${far}/`,
    `${gateway.url}.${far}/`,
    'javascript:alert(1)',
  ]
  for (const returnUrl of urls) {
    const browser = stage.browser()
    const begun = await browser.navigate(`/bff/login?returnUrl=${encodeURIComponent(returnUrl)}`)
    if (begun.status === 400) continue
    const end = await login(browser, gateway.url, provider, { returnUrl })
    t.equal(new URL(end.url).origin, gateway.url, returnUrl)
    for (const { headers } of end.chain) t.notMatch(headers.location ?? '', /^(\/\/|\/\\|\\)/, returnUrl)
  }
  t.equal(evil.connections, 0)
})

// What costs an attacker a loop must not cost anybody else their login.
test('15. cheap floods lock nobody out', async t => {
  const limits = { headersMs: 2000, requestMs: 3000, unreadMs: 2000, checkMs: 250 }
  const most = 30
  const busy = await startGateway({
    provider,
    clock,
    upstreams: { '/api': upstream.url },
    clientLimits: limits,
    env: {
      REDIS_URL: stage.redis.url,
      REDIS_PREFIX: 'busy:',
      TRUSTED_PROXIES: '127.0.0.0/8,::1',
      RATE_LIMIT_LOGIN: `${most}/m`,
      RATE_LIMIT_INVALID: `${most}/m`,
    },
  })
  t.teardown(busy.close)
  const from = (number: number) => ({ 'X-Forwarded-For': `198.51.100.${number}` })
  const keys = async () => (await stage.redis.keys()).filter(key => key.startsWith('busy:'))

  await t.test('a browser that begins logins in a loop keeps a small header, and its newest ones work', async t => {
    const browser = stage.browser()
    const callbacks: URL[] = []
    for (let round = 0; round < 40; round += 1) callbacks.push(await stage.pendingCallback(browser, 'eager'))
    const header = browser.jar.header(new URL(gateway.url), { method: 'GET', crossSite: false, topLevel: true })
    t.ok(Buffer.byteLength(header ?? '') < 4096)
    for (const callback of callbacks.slice(-2)) t.equal((await stage.open(browser, callback)).status, 303)
  })

  await t.test('a flood of logins fills nothing, and others log in', async t => {
    const flood = await Promise.all(
      Array.from({ length: 500 }, (_, index) =>
        createBrowser({ origin: busy.url }).get('/bff/login', { headers: from(index % 3) }),
      ),
    )
    t.equal(flood.filter(({ status }) => status === 302).length, 3 * most)
    const refused = flood.filter(({ status }) => status !== 302)
    t.ok(refused.every(({ status, headers }) => status === 429 && /^\d+$/.test(headers['retry-after'] ?? '')))
    t.ok((await keys()).length <= 3 * most, 'Redis holds what was let through')
    const browser = createBrowser({ origin: busy.url })
    await login(browser, busy.url, provider, { user: 'somebody else' })
    t.ok(browser.jar.get(sessionCookie))
  })

  await t.test('logout tokens with keys that nobody knows do not hammer the provider', async t => {
    const before = provider.jwksFetches().length
    const statuses = await Promise.all(
      Array.from({ length: 100 }, async (_, index) => {
        const token = provider.logoutToken({ sub: 'x' }, { kid: `random-${index}` })
        const body = new URLSearchParams({ logout_token: token })
        return (await createBrowser({ origin: busy.url }).post('/bff/backchannel', { body, headers: from(9) })).status
      }),
    )
    t.strictSame([...new Set(statuses)].sort(), [400, 429])
    t.ok(provider.jwksFetches().length - before <= 2)
  })

  await t.test('connections that send a byte now and then are closed, and others are served meanwhile', async t => {
    const closed: Promise<void>[] = []
    for (let count = 0; count < 200; count += 1) {
      const socket = connect(busy.port, '127.0.0.1')
      socket.on('error', () => undefined)
      socket.resume()
      socket.write(`GET /api/items HTTP/1.1\r\nHost: localhost:${busy.port}\r\nX-Slow: `)
      const drip = setInterval(() => socket.write('x'), 500)
      closed.push(
        new Promise(resolve => {
          socket.once('close', () => {
            clearInterval(drip)
            resolve()
          })
        }),
      )
    }
    const browser = createBrowser({ origin: busy.url })
    const answers = await Promise.all(Array.from({ length: 20 }, () => browser.api('/bff/user', { headers: from(7) })))
    t.ok(answers.every(({ status }) => status === 401))
    const all = Promise.all(closed).then(() => true)
    t.ok(await Promise.race([all, sleep(20_000, false, { ref: false })]), 'all are closed')
  })
})
