import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import tap, { type Test, test } from 'tap'
import { createSeal } from '../../src/core/seal.ts'
import { openSession } from '../../src/core/session.ts'
import { openTransaction } from '../../src/core/transaction.ts'
import type { RedisAddress } from '../../src/store/redis/address.ts'
import { createRedisStore } from '../../src/store/redis.ts'
import { loginSlot, type Store } from '../../src/store/store.ts'
import { aclOfReadme, commandsOf, denials, permit, withPassword } from '../support/acl.ts'
import { eventually } from '../support/eventually.ts'
import { startPair } from '../support/failover.ts'
import { freePort } from '../support/free-port.ts'
import { startGateway } from '../support/gateway.ts'
import { startProvider } from '../support/provider.ts'
import { claimsOf } from '../support/provider-logout.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { startCluster } from '../support/redis-cluster.ts'
import { selfSigned } from '../support/self-signed.ts'
import { untilRefused } from '../support/until-refused.ts'

const canary = 'canary-password-of-redis'
const { line, forCluster } = aclOfReadme()

/** A Redis that takes TLS, and the user of the README's line from its file of users. */
async function startSecured() {
  const dir = mkdtempSync(join(tmpdir(), 'redis-acl-'))
  const [authority, port] = [selfSigned('ec', undefined, { name: 'localhost' }), await freePort()]
  const file = (name: string, content: string) => {
    writeFileSync(join(dir, name), content)
    return join(dir, name)
  }
  const ca = file('cert.pem', authority.cert)
  const users = `${withPassword(line, canary)}\nuser default on nopass ~* &* +@all\n`
  const redis = await startRedis({
    args: [
      ...['--tls-port', `${port}`, '--tls-cert-file', ca, '--tls-key-file', file('key.pem', authority.key)],
      ...['--tls-ca-cert-file', ca, '--tls-auth-clients', 'no', '--aclfile', file('users.acl', users)],
    ],
  })
  tap.teardown(async () => {
    await redis.stop()
    rmSync(dir, { recursive: true, force: true })
  })
  const url = `rediss://coatcheck:${canary}@localhost:${port}`
  return { redis, ca, url, address: { url: new URL(url), ca: Buffer.from(authority.cert) } }
}

const secured = await startSecured()

async function openStore(address: RedisAddress, patienceMs = 10_000): Promise<Store> {
  const store = createRedisStore({
    address,
    seal: createSeal({ keys: [randomBytes(32)], context: 'acl' }),
    prefix: 'coatcheck:',
    lifetimes: { idleTimeout: 60, absoluteTimeout: 600 },
    elapsed: () => performance.now(),
    onUnreadable: () => {},
    onLinkError: () => {},
  })
  // A store whose link may not be asked for `PING` is up all the same.
  await eventually(() => store.isLogoutTokenSpent('any').then(() => true, isRefusal), patienceMs)
  return store
}

/** Whether Redis answered, and be it that something is not permitted. */
function isRefusal(error: unknown): boolean {
  return String((error as { cause?: unknown }).cause).includes('NOPERM')
}

/** Asks everything of a store that a gateway does. What is refused is found in Redis's own log. */
async function askEverything(store: Store): Promise<void> {
  const client = { userAgent: 'test', address: '192.0.2.1' }
  const tokens = {
    access: { value: 'at', expiresAt: 2, refreshAt: 1, scope: undefined },
    refresh: 'rt',
    idToken: 'it',
  }
  const identity = { issuer: 'https://idp', subject: 'alice', providerSessionId: undefined, claims: {} }
  const open = () => openSession({ ...identity, nonce: 'n', authTime: undefined }, client, 5).session
  const [used, brief] = [open(), open()]
  const { id } = used
  const wish = { slot: loginSlot, owner: 'me', version: 0, forced: true }
  const renewal = { slot: loginSlot, access: tokens.access, refresh: 'rt2', session: undefined }
  const refused = { slot: loginSlot, refusal: { code: 'forbidden' as const, detail: undefined } }
  const { transaction } = openTransaction({ returnUrl: '/', silent: false, previousSessionId: null }, 0)
  const steps: (() => Promise<unknown>)[] = [
    () => store.ping(),
    () => store.ping(0),
    () => store.evicts(),
    () => store.putTransaction(id, transaction),
    () => store.takeTransaction(id),
    () => store.countStepUp(id, 1),
    () => store.countStepUp(id, 0),
    () => store.spendLogoutToken(id, 1000),
    () => store.isLogoutTokenSpent(id),
    () => store.addToIndexes(id, ['user']),
    () => store.createSession(used, tokens),
    () => store.createSession(brief, tokens, 1),
    () => store.getSession(id, { slot: loginSlot, active: true, pendingAgeMs: null }),
    () => store.getSession(brief.id, { slot: loginSlot, active: true, pendingAgeMs: null }),
    () => Promise.all(store.missingAmong([id])),
    () => store.touchSessions([{ id, ageMs: 0 }]),
    () => store.beginRefresh(id, wish),
    () => store.renewRefresh(id, 'me'),
    () => store.saveRefresh(id, 'me', 0, renewal),
    () => store.beginRefresh(id, { ...wish, version: 1, forced: false }),
    () => store.abandonRefresh(id, 'me', { unsure: true, refused }),
    () => store.findSessions('user'),
    () => store.markIndexEnded('user', 'admin'),
    () => store.endedSince(['user'], 0 as never),
    () => store.sweep(store.bucketOf(brief.id)),
    () => store.endSession(id, 'logout'),
    () => store.removeFromIndexes(id, ['user']),
    () => store.queueRevocation(id, 'rt', { reason: 'login_failed' }),
    () => store.claimRevocations(store.bucketOf(id), 10),
    () => store.settleRevocation(id, 1000),
    () => store.settleRevocation(id, null),
    // On this link the script is known by now.
    () => store.addToIndexes(id, ['user']),
    () => store.removeFromIndexes(id, ['user']),
  ]
  for (const step of steps) await step().catch(() => {})
}

/** That what is permitted suffices, and that each permission is needed. */
async function needsEach(t: Test, servers: readonly TestRedis[], address: RedisAddress, commands: string[]) {
  const onAll = (...args: [string, ...string[]]) => Promise.all(servers.map(({ client }) => client.call(...args)))
  const allDenials = async () => (await Promise.all(servers.map(({ client }) => denials(client)))).flat()
  const open = async (patienceMs?: number) => {
    await onAll('ACL', 'LOG', 'RESET')
    return await openStore(address, patienceMs)
  }
  const whole = await open()
  t.ok(await eventually(async () => (await whole.evicts()) === false), 'it answers')
  await askEverything(whole)
  await whole.close()
  t.same(await allDenials(), [], 'what is permitted suffices')
  for (const command of commands) {
    await onAll('ACL', 'SETUSER', 'coatcheck', `-${command}`)
    const store = await open(500)
    const isMissed = async () => {
      await askEverything(store)
      return (await allDenials()).some(({ object }) => object === command)
    }
    t.ok(await eventually(isMissed, 20_000), `${command} is needed`)
    await store.close()
    await onAll('ACL', 'SETUSER', 'coatcheck', `+${command}`)
  }
}

test('of what the README permits nothing can be left out, and nothing is missing', { timeout: 180_000 }, async t => {
  t.ok(commandsOf(line).length > 20)
  await needsEach(t, [secured.redis], secured.address, commandsOf(line))
})

test('in a cluster a little more is needed', { timeout: 180_000 }, async t => {
  const cluster = await startCluster()
  t.teardown(cluster.stop)
  for (const { client } of cluster.nodes) await permit(client, canary, true)
  const nodes = cluster.nodes.map(({ port }) => ({ host: '127.0.0.1', port }))
  const address = { url: new URL(`redis://coatcheck:${canary}@cluster`), cluster: nodes }
  // The rest is for a slot that moves, and for a replica that becomes a master.
  const rest = ['asking', 'readwrite']
  const commands = commandsOf(` ${forCluster}`).filter(command => !rest.includes(command))
  t.equal(commands.length, 4)
  await needsEach(t, cluster.nodes, address, commands)
})

// Whoever stands between the gateway and Redis would read and change all that goes by.
test('a server that nobody vouches for is not talked to', async t => {
  const store = await openStore({ url: secured.address.url }, 500)
  await t.rejects(store.ping())
  await store.close()
})

test('the whole life of sessions, over TLS and with least privilege', async t => {
  await secured.redis.client.call('ACL', 'LOG', 'RESET')
  const pair = await startPair(t, {
    REDIS_URL: secured.url,
    REDIS_CA_FILE: secured.ca,
    SESSION_IDLE_TIMEOUT: '8s',
  })
  const { provider, gateways, enter, ask, keepAsking } = pair
  provider.lifetimes.accessToken = 3
  const [alice, bob, carol, dave] = [
    await enter('alice'),
    await enter('bob'),
    await enter('carol'),
    await enter('dave'),
  ]
  const { sub } = claimsOf([...provider.issued.idTokens][2] ?? '')
  const isRevoked = async (gateway: number, cookie: string, name: string) => {
    const { answer, lastServedMs } = await untilRefused(() => ask(gateway, cookie))
    t.equal(answer.code, 'session_revoked', name)
    t.ok(lastServedMs < 1000, `${name} within a second`)
  }
  const client = keepAsking(alice.cookie)
  t.teardown(client.stop)
  t.equal((await ask(0, bob.cookie, 'POST', '/bff/activity')).status, 204)
  t.equal((await ask(1, bob.cookie, 'GET', '/bff/sessions')).status, 200)
  const stream = await bob.browser.stream(`${gateways[1].url}/bff/events`, {
    headers: { Origin: gateways[0].url, 'Sec-Fetch-Site': 'same-origin' },
  })
  t.equal((await ask(0, bob.cookie, 'POST', '/bff/logout')).status, 200)
  await stream.ended
  t.match(stream.text(), /event: ended/, 'word of a logout goes round')
  const token = provider.logoutToken({ sub })
  const body = new URLSearchParams({ logout_token: token })
  t.equal((await fetch(`${gateways[0].url}/bff/backchannel`, { method: 'POST', body })).status, 200)
  await isRevoked(1, carol.cookie, 'ended by the provider')
  const again = await enter('erin')
  const { sub: erin } = claimsOf([...provider.issued.idTokens].at(-1) ?? '')
  const revoked = await fetch(`${gateways[1].internalUrl}/admin/revoke`, {
    method: 'POST',
    headers: { authorization: `Bearer ${'a'.repeat(32)}`, 'content-type': 'application/json' },
    body: JSON.stringify({ iss: provider.issuer, sub: erin }),
  })
  t.same(await revoked.json(), { ended: 1 }, 'ended by the administrator')
  await isRevoked(0, again.cookie, 'ended by the administrator')
  t.ok(await eventually(() => provider.tokenCalls('refresh_token').length > 0, 10_000), 'tokens are refreshed')
  const swept = () => pair.events('session_ended').some(({ reason }) => reason === 'idle')
  t.ok(await eventually(swept), 'sessions end by themselves')
  t.equal((await ask(1, dave.cookie)).code, 'session_expired')
  t.ok(await eventually(() => provider.revocations().length === 4, 20_000), 'their tokens are revoked')
  t.ok(client.heard.length > 50)
  t.same(
    client.heard.filter(({ status }) => status !== 200),
    [],
    'and who is there stays',
  )
  t.same(await denials(secured.redis.client), [], 'Redis refused nothing')
  t.notOk(pair.text().includes(canary), 'no log line has the password')
})

// A password that is wrong is refused with the command that had it, which the client's errors quote.
test('a password that Redis refuses is told in no log line', async t => {
  const { port } = new URL(secured.url)
  const wrong = 'canary-wrong-password'
  const provider = await startProvider()
  const gateway = await startGateway({
    provider,
    env: { REDIS_URL: `rediss://coatcheck:${wrong}@localhost:${port}`, REDIS_CA_FILE: secured.ca },
  })
  t.teardown(() => Promise.all([gateway.close(), provider.close()]))
  t.ok(await eventually(() => gateway.log.some(line => line.includes('link to Redis'))))
  t.equal((await fetch(`${gateway.internalUrl}/readyz`)).status, 503)
  t.notOk(gateway.log.some(line => line.includes(wrong)))
})
