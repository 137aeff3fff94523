import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import tap, { test } from 'tap'
import { createBrowser } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { startGateway } from '../support/gateway.ts'
import { login } from '../support/login.ts'
import { createPlanter, type Planted } from '../support/planted.ts'
import { startProvider } from '../support/provider.ts'
import { type PublishFault, startPublishLink } from '../support/publish-link.ts'
import { startRedis } from '../support/redis.ts'
import { sessionCookie } from '../support/stage.ts'
import { startUpstream } from '../support/upstream.ts'

const [provider, redis, upstream] = await Promise.all([startProvider(), startRedis(), startUpstream()])
upstream.respond = ({ url }, response) => {
  if (url !== '/stream') return void response.end('{}')
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.write(': open\n\n')
}
const link = await startPublishLink(redis)
const common = {
  SESSION_KEYS: randomBytes(32).toString('base64'),
  ADMIN_TOKEN: 'a'.repeat(32),
  UPSTREAM_API_PATH: '/api',
  UPSTREAM_API_URL: upstream.url,
}
const [troubled, sound] = await Promise.all([
  startGateway({ provider, env: { ...common, REDIS_URL: link.url } }),
  startGateway({ provider, env: { ...common, REDIS_URL: redis.url } }),
])

tap.teardown(async () => {
  await Promise.all([troubled.close(), sound.close()])
  await Promise.all([link.close(), redis.stop(), provider.close(), upstream.close()])
})

async function enter(user: string): Promise<string> {
  const browser = createBrowser({ origin: sound.url })
  await login(browser, sound.url, provider, { user })
  return browser.jar.get(sessionCookie) ?? ''
}

async function ask(at: { url: string }, cookie: string, method = 'GET', path = '/api/items') {
  const headers = { cookie: `${sessionCookie}=${cookie}`, 'x-csrf': '1' }
  const response = await fetch(at.url + path, { method, headers })
  const body = (await response.json()) as { code?: string }
  return { status: response.status, code: body.code }
}

/** An answer of the upstream that goes on, and when it was cut off. */
async function openStream(cookie: string) {
  const response = await fetch(`${troubled.url}/api/stream`, {
    headers: { cookie: `${sessionCookie}=${cookie}`, 'x-csrf': '1' },
  })
  const closedAt = response.text().then(
    () => performance.now(),
    () => performance.now(),
  )
  return { closedAt }
}

/** Requests one after the other until told to stop: when each was sent, and its answer. */
function keepAsking(cookie: string) {
  const answers: { sentAt: number; status: number; code: string | undefined }[] = []
  let stopped = false
  const loop = (async () => {
    while (!stopped) {
      const sentAt = performance.now()
      answers.push({ sentAt, ...(await ask(troubled, cookie)) })
      await sleep(5)
    }
  })()
  return {
    answers,
    async stop() {
      stopped = true
      await loop
    },
  }
}

// Somebody signs out on a replica. Another has the session at hand, and the word of its end is lost on the way, while
// nothing looks broken: whoever has copied the cookie would go on there for as long as that lasts.
for (const fault of ['dead', 'half-open', 'late', null] as (PublishFault | null)[]) {
  test(`a session that has ended is refused within a second where word of it comes ${fault ?? 'through'}`, async t => {
    const subscribers = async () => Number((await redis.client.pubsub('NUMSUB', 'coatcheck:events'))[1])
    t.ok(await eventually(async () => (await subscribers()) === 2, 10_000), 'both listen')
    const cookie = await enter(`user-${fault}`)
    if (fault !== null) link.fail(fault)
    t.teardown(link.mend)
    const stream = await openStream(cookie)
    const client = keepAsking(cookie)
    t.ok(await eventually(() => client.answers.length > 20))
    const endedAt = performance.now()
    t.equal((await ask(sound, cookie, 'POST', '/bff/logout')).status, 200)
    const goneAt = performance.now()
    t.ok(await eventually(() => client.answers.at(-1)?.status === 401, 10_000))
    await sleep(300)
    await client.stop()
    const served = client.answers.filter(({ status }) => status === 200)
    const lastServed = served.at(-1)?.sentAt ?? 0
    const closedAt = await stream.closedAt
    t.comment(`an open stream was closed ${Math.round(closedAt - goneAt)} ms after its end`)
    t.ok(closedAt - goneAt < 5000, 'what is open is closed as well')
    t.comment(`served until ${Math.round(lastServed - goneAt)} ms after its end`)
    t.ok(lastServed - goneAt < 1000, 'within a second')
    t.ok(
      served.some(({ sentAt }) => sentAt > endedAt - 3000),
      'it was served until then',
    )
    t.same(
      new Set(client.answers.map(({ status, code }) => `${status} ${code}`)),
      new Set(['200 undefined', '401 session_revoked']),
    )
    const firstRefused = client.answers.findIndex(({ status }) => status === 401)
    t.notOk(
      client.answers.slice(firstRefused).some(({ status }) => status === 200),
      'and never again',
    )
  })
}

// The session has ended, a refresh finds out before word of it has come, and the user is told that there never was one.
test('who finds out without word that a session has ended is told why', async t => {
  const lifetimes = { idleTimeout: 1800, absoluteTimeout: 43_200 }
  const options = { provider, sessionKey: randomBytes(32), prefix: 'apart:', lifetimes }
  const [here, there] = await Promise.all([
    createPlanter({ ...options, redis: { ...redis, url: link.url } }),
    createPlanter({ ...options, redis }),
  ])
  t.teardown(() => Promise.all([here.close(), there.close()]))
  link.fail('half-open')
  t.teardown(link.mend)
  const look = { active: false, pendingAgeMs: null }
  let id = ''
  // A session that was looked at longer than a second ago has to be asked for.
  const isLiveHere = async () => {
    const [planted] = (await here.plant(1)) as [Planted]
    id = planted.id
    t.match(await here.store.getSession(id, look), { found: { state: 'live', stored: { version: 0 } } })
    await there.store.endSession(id, 'admin')
    return here.store.sessionAtHand(id, look) !== null
  }
  t.ok(await eventually(isLiveHere), 'no word of it has come')
  const wish = { slot: 'login', owner: 'here', version: 0, forced: false }
  t.same(await here.store.beginRefresh(id, wish), { state: 'gone' })
  t.match(await here.store.getSession(id, look), { found: { state: 'ended', reason: 'admin' } })
})

test('a busy session costs Redis no more than a command or two a second', async t => {
  const cookie = await enter('busy')
  await ask(sound, cookie)
  const monitor = await redis.monitor()
  const startedAt = performance.now()
  for (let count = 0; count < 300; count += 1) t.equal((await ask(sound, cookie)).status, 200)
  const seconds = (performance.now() - startedAt) / 1000
  monitor.stop()
  const about = monitor.commands.filter(command => /getSession|evalsha/i.test(String(command)))
  t.comment(`300 requests in ${seconds.toFixed(1)} s: ${about.length} scripts`)
  t.ok(about.length <= 4 + 3 * seconds, `${about.length} scripts`)
})
