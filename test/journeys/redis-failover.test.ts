import { setTimeout as sleep } from 'node:timers/promises'
import tap, { type Test, test } from 'tap'
import { sessionIdOf } from '../../src/core/session.ts'
import { createKeys } from '../../src/store/redis/keys.ts'
import { callsOf, denials, permit } from '../support/acl.ts'
import { eventually } from '../support/eventually.ts'
import { type Client, oddities, type Pair, startPair } from '../support/failover.ts'
import type { TestRedis } from '../support/redis.ts'
import { startCluster, type TestCluster } from '../support/redis-cluster.ts'
import { startSentinels } from '../support/redis-sentinel.ts'

// Most of the time here is spent waiting for Redis to find that a master is gone.
tap.jobs = 3
const parallel = { buffered: true }

const canary = 'canary/p@ss:word%1'
const url = (host: string) => `redis://coatcheck:${encodeURIComponent(canary)}@${host}`
const keys = createKeys('coatcheck:')
const bucketKey = (cookie: string) => keys.bucketFor(sessionIdOf(cookie))
/** Far longer than a failover takes here, and short enough to be waited for. */
const idleSeconds = 30
/** A master of a cluster that is silent for so long is gone, and not only held up by a busy machine. */
const nodeTimeoutMs = 3000

interface Topology {
  nodes: readonly TestRedis[]
  env: Record<string, string>
  masterOf(cookie: string): Promise<TestRedis>
  replicated(): Promise<void>
  stop(): Promise<void>
}

async function clusterTopology(cluster: TestCluster): Promise<Topology> {
  for (const { client } of cluster.nodes) await permit(client, canary, true)
  const { nodes, replicated, stop } = cluster
  const env = { REDIS_URL: url('cluster'), REDIS_CLUSTER: cluster.list }
  return { nodes, replicated, stop, env, masterOf: cookie => cluster.masterOf(bucketKey(cookie)) }
}

async function sentinelTopology(): Promise<Topology> {
  const secret = 'canary-of-the-sentinels'
  const sentinels = await startSentinels(secret)
  for (const { client } of sentinels.nodes) await permit(client, canary, false)
  const { nodes, replicated, stop, master } = sentinels
  const env = {
    REDIS_URL: url('main'),
    REDIS_SENTINELS: sentinels.list,
    REDIS_SENTINEL_MASTER: sentinels.masterName,
    REDIS_SENTINEL_PASSWORD: secret,
  }
  return { nodes, replicated, stop, env, masterOf: master }
}

async function logsOut(pair: Pair, cookie: string): Promise<void> {
  await eventually(async () => (await pair.ask(0, cookie, 'POST', '/bff/logout')).status === 200)
}

/** The refreshes whose answers are kept back from now on, at a provider that has done its work. */
function holdRefreshes({ provider }: Pair) {
  let release = () => {}
  const held = new Promise<void>(resolve => {
    release = resolve
  })
  const isRefresh = (request: { form: URLSearchParams }) => request.form.get('grant_type') === 'refresh_token'
  const before = provider.tokenCalls('refresh_token').length
  provider.tamper.tokenResponse = async (response, request) => {
    if (isRefresh(request)) await held
    return response
  }
  return { release, begun: () => provider.tokenCalls('refresh_token').length > before }
}

async function staysInThroughFailover(t: Test, topology: Topology): Promise<void> {
  const { replicated, masterOf, env } = topology
  t.teardown(topology.stop)
  const pair = await startPair(t, { ...env, SESSION_IDLE_TIMEOUT: `${idleSeconds}s` })
  const { provider, gateways, enter, ask, keepAsking } = pair
  const [watched, gone, idle] = [await enter('watched'), await enter('gone'), await enter('idle')]
  const idleSince = performance.now()
  const users = await Promise.all(Array.from({ length: 6 }, (_, user) => enter(`user-${user}`)))
  const stream = await watched.browser.stream(`${gateways[1].url}/bff/events`, {
    headers: { Origin: gateways[0].url, 'Sec-Fetch-Site': 'same-origin' },
  })
  t.equal(stream.status, 200)
  await logsOut(pair, gone.cookie)
  const clients = [watched, ...users].map(({ cookie }) => keepAsking(cookie))
  t.teardown(() => Promise.all(clients.map(client => client.stop())))
  t.ok(await eventually(() => clients.every(client => client.steady(10)), 10_000), 'all are served')
  t.same(pair.linkErrors(), [[], []], 'nothing to tell so far')

  provider.lifetimes.accessToken = 6
  const refreshed = await enter('refreshed')
  provider.lifetimes.accessToken = 3600
  const { release, begun } = holdRefreshes(pair)
  clients.push(keepAsking(refreshed.cookie))
  t.ok(await eventually(begun, 10_000), 'a refresh is under way')
  await replicated()
  const victim = await masterOf(refreshed.cookie)
  const killedAt = performance.now()
  await victim.down('SIGKILL')
  release()
  const loggingIn = eventually(async () => {
    const entered = await enter('late').catch(() => null)
    if (entered === null) await sleep(200)
    return entered !== null
  }, 60_000)
  const back = () => clients.every(client => client.heard.at(-1)?.status === 200 && client.steady())
  const failing = () => clients.some(({ heard }) => heard.some(({ status, at }) => status === 503 && at > killedAt))
  t.ok(await eventually(failing, 20_000), 'it is felt')
  t.ok(await eventually(back, 60_000), 'all are served again')
  t.comment(`${Math.round(performance.now() - killedAt)} ms from the kill until all are served`)
  t.ok(await loggingIn, 'and new logins succeed')
  t.same(oddities(clients), [], 'nobody was logged out, or told anything but to come again')
  t.same(provider.replays(), [], 'no refresh token was presented twice')
  const told = pair.linkErrors()
  t.ok(
    told.every(lines => lines.length >= 1 && lines.length <= 4),
    `it is told of, and not over and over: ${told.map(lines => lines.length)}`,
  )

  for (const gateway of [0, 1])
    t.equal((await ask(gateway, gone.cookie)).code, 'session_revoked', 'what ended stays so')
  await clients[0]?.stop()
  await logsOut(pair, watched.cookie)
  const endedAt = performance.now()
  await stream.ended
  t.ok(performance.now() - endedAt < 10_000, 'word of a logout goes round')
  t.match(stream.text(), /event: ended/)
  const isRevoked = (token: string) => provider.revocations().some(({ form }) => form.get('token') === token)
  t.ok(await eventually(() => provider.revocations().length >= 2, 20_000), 'the outbox is emptied')
  t.ok([...provider.issued.refreshTokens].some(isRevoked))
  const swept = () => pair.events('session_ended').some(({ reason }) => reason === 'idle')
  const leftMs = idleSeconds * 1000 - (performance.now() - idleSince)
  t.ok(await eventually(swept, Math.max(0, leftMs) + 20_000), 'sessions end by themselves')
  t.notOk(clients.some(isOut), 'and only those that nobody used')
  t.match(await ask(0, idle.cookie), { status: 401, code: 'session_expired' })
  t.same(oddities(clients), [])
  const others = topology.nodes.filter(node => node !== victim)
  t.same((await Promise.all(others.map(({ client }) => denials(client)))).flat(), [], 'Redis refused nothing')
  for (const secret of [canary, encodeURIComponent(canary), env.REDIS_SENTINEL_PASSWORD ?? canary])
    t.notOk(pair.text().includes(secret), 'no log line has a password')
}

const isOut = ({ heard }: Client) => heard.some(({ status }) => status === 401)

test('nobody is logged out when a master of a cluster dies', parallel, async t => {
  await staysInThroughFailover(t, await clusterTopology(await startCluster(nodeTimeoutMs)))
})

test('nobody is logged out when the sentinels replace the master', parallel, async t => {
  await staysInThroughFailover(t, await sentinelTopology())
})

// While a slot moves its keys are on two nodes. A script that looks for a session where it no longer is would find that it
// never was: a logout; and one that ends a session could remove the record and fail before its token is in the outbox.
test('nobody is logged out while a slot moves to another node', parallel, async t => {
  const cluster = await startCluster(nodeTimeoutMs)
  const topology = await clusterTopology(cluster)
  t.teardown(topology.stop)
  const pair = await startPair(t, topology.env)
  const { cookie } = await pair.enter('alice')
  const other = await pair.enter('bob')
  const clients = [cookie, other.cookie].map(pair.keepAsking)
  t.teardown(() => Promise.all(clients.map(client => client.stop())))
  t.ok(await eventually(() => clients.every(client => client.steady(10)), 10_000))
  const from = await topology.masterOf(cookie)
  const to = (await cluster.masters()).find(node => node !== from) as TestRedis
  const slot = await cluster.slotOf(bucketKey(cookie))
  let endings: Awaited<ReturnType<Pair['ask']>>[] = []
  await cluster.moveSlot(slot, to, async () => {
    await sleep(1500)
    endings = await Promise.all([0, 1].map(gateway => pair.ask(gateway, cookie, 'POST', '/bff/logout')))
  })
  t.match(endings, [{ status: 503 }, { status: 503 }], 'a logout is refused as a whole')
  t.ok(await eventually(() => clients.every(client => client.steady()), 20_000), 'both are served again')
  t.ok(await eventually(async () => (await topology.masterOf(cookie)) === to), 'by the other node')
  t.same(oddities(clients), [])
  t.ok(
    clients[0]?.heard.some(({ status }) => status === 503),
    'those of the slot were told to come again',
  )
  t.ok((await callsOf(to.client, 'asking')) > 0)
  t.same((await Promise.all(topology.nodes.map(({ client }) => denials(client)))).flat(), [], 'Redis refused nothing')
  await clients[0]?.stop()
  await logsOut(pair, cookie)
  t.ok(await eventually(async () => (await pair.ask(1, cookie)).code === 'session_revoked'), 'word of it goes round')
  t.ok(await eventually(() => pair.provider.revocations().length === 1, 40_000), 'and its token is revoked')
})
