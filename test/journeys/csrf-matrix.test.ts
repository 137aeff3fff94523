import { readFileSync } from 'node:fs'
import tap, { test } from 'tap'
import { sendLive } from '../support/browser/wire.ts'
import { sessionCookie, startStage } from '../support/stage.ts'

const spa = 'http://spa.localhost:5173'
const stage = await startStage(tap, { env: { CORS_ORIGINS: spa } })
const { gateway, upstream, redis } = stage
const own = gateway.url
const { port } = new URL(own)

const origins = [
  undefined,
  own,
  spa,
  'null',
  '',
  'https://evil.test',
  `http://app.localhost:${port}`,
  'http://localhost',
  `https://localhost:${port}`,
  `${own}.evil.test`,
  'http://spa.localhost',
  'http://spa.localhost:51730',
  'https://spa.localhost:5173',
]
const sites = [undefined, 'same-origin', 'same-site', 'cross-site', 'none']
const marks = [undefined, '1', '0']
const types = [
  undefined,
  'application/json',
  'text/plain',
  'application/x-www-form-urlencoded',
  'multipart/form-data; boundary=x',
]

/** All that a browser may say of a request of the application: written down, not computed. */
const honest = new Set(
  [
    [undefined, undefined],
    [undefined, 'same-origin'],
    [own, undefined],
    [own, 'same-origin'],
    [spa, undefined],
    [spa, 'same-origin'],
    [spa, 'same-site'],
  ].map(pair => JSON.stringify(pair)),
)

type Rule = 'header' | 'fetch-metadata'

interface Endpoint {
  method: string
  path: string
  rule: Rule
  /** The answer to whoever keeps the rule. */
  status: number
  types: (string | undefined)[]
}

// biome-ignore format: a table
const endpoints: Endpoint[] = [
  { method: 'GET',    path: '/bff/user',                      rule: 'header',         status: 200, types: [undefined] },
  { method: 'GET',    path: '/bff/sessions',                  rule: 'header',         status: 200, types: [undefined] },
  { method: 'POST',   path: '/bff/activity',                  rule: 'header',         status: 204, types },
  { method: 'DELETE', path: '/bff/sessions/AAAAAAAAAAAAAAAA', rule: 'header',         status: 404, types: [undefined] },
  { method: 'GET',    path: '/bff/events',                    rule: 'fetch-metadata', status: 200, types: [undefined] },
  { method: 'GET',    path: '/api/items',                     rule: 'header',         status: 200, types: [undefined] },
  { method: 'POST',   path: '/api/items',                     rule: 'header',         status: 200, types },
  { method: 'DELETE', path: '/api/items',                     rule: 'header',         status: 200, types: [undefined] },
]

const keeps = (rule: Rule, origin?: string, site?: string, mark?: string) =>
  honest.has(JSON.stringify([origin, site])) &&
  (rule === 'header' ? mark === '1' : origin !== undefined || site !== undefined)

// Whatever a page elsewhere can make a browser send comes with the cookie; only these headers tell it apart.
for (const { method, path, rule, status, types: bodies } of endpoints) {
  test(`${method} ${path}: every combination of what a browser says is let through or refused as it should be`, async t => {
    const alice = await stage.loggedIn('alice')
    const cookies = [`${sessionCookie}=${alice.jar.get(sessionCookie)}`]
    const cases = origins.flatMap(origin =>
      sites.flatMap(site => marks.flatMap(mark => bodies.map(type => ({ origin, site, mark, type })))),
    )
    const wrong: string[] = []
    let through = 0
    upstream.requests.length = 0
    const judge = async ({ origin, site, mark, type }: (typeof cases)[number]) => {
      const headers: [string, string][] = []
      if (origin !== undefined) headers.push(['Origin', origin])
      if (site !== undefined) headers.push(['Sec-Fetch-Site', site])
      if (mark !== undefined) headers.push(['X-CSRF', mark])
      if (type !== undefined) headers.push(['Content-Type', type])
      const good = keeps(rule, origin, site, mark)
      if (good) through += 1
      const answer =
        path === '/bff/events' && good
          ? await streamed(headers, cookies)
          : await alice.request(path, { method, headers, cookies, ...(type !== undefined && { body: 'X-CSRF=1' }) })
      const named = answer.headers['access-control-allow-origin']
      const right = answer.status === (good ? status : 403) && named === (origin === spa ? spa : undefined)
      if (!right) wrong.push(`${answer.status}, named ${named}: ${JSON.stringify({ origin, site, mark, type })}`)
    }
    for (let index = 0; index < cases.length; index += 16) await Promise.all(cases.slice(index, index + 16).map(judge))
    t.strictSame(wrong, [])
    t.ok(through > 0 && through < cases.length / 4)
    if (path.startsWith('/api')) t.equal(upstream.requests.length, through, 'the API hears of these alone')
    t.equal((await alice.api('/bff/user')).status, 200)
  })
}

/** The head of an event stream, which goes on; nothing is sent but this. */
async function streamed(headers: [string, string][], cookies: string[]) {
  const lines = cookies.map((line): [string, string] => ['Cookie', line])
  const stream = await sendLive(new URL('/bff/events', own), 'GET', [...headers, ...lines])
  stream.close()
  return stream
}

/** What a request without the header may reach, in README.md too. */
const exempt = [
  'GET /login',
  'GET /login/failed',
  'GET /callback',
  'GET /logout',
  'GET /logout/continue',
  'POST /backchannel',
  'GET /frontchannel',
]

// An endpoint that was forgotten in the table is the one that an attacker finds.
test('without the header nothing is reached but what is said to be', async t => {
  const paths = ['', '/', '/login', '/login/failed', '/callback', '/user', '/logout', '/logout/continue', '/sessions']
  const more = [
    '/sessions/AAAAAAAAAAAAAAAA',
    '/activity',
    '/events',
    '/backchannel',
    '/frontchannel',
    '/healthz',
    '/admin/revoke',
  ]
  const alice = await stage.loggedIn('alice')
  const cookies = [`${sessionCookie}=${alice.jar.get(sessionCookie)}`]
  const reached: string[] = []
  for (const path of [...paths, ...more]) {
    for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
      const { status } = await alice.request(`/bff${path}`, { method, cookies })
      if (![403, 404, 405].includes(status)) reached.push(`${method} ${path}`)
    }
  }
  t.strictSame(reached.sort(), [...exempt].sort())
  const readme = readFileSync('README.md', 'utf8')
  for (const endpoint of exempt) t.ok(readme.includes(`\`${endpoint}\``), `${endpoint} is documented`)
  t.equal((await alice.api('/bff/user')).status, 200, 'and the session is there')
})

// Refused is refused before anything is done: no command to Redis, and so no sign of life for an idle session.
test('what is refused costs Redis nothing', async t => {
  const alice = await stage.loggedIn('alice')
  const cookies = [`${sessionCookie}=${alice.jar.get(sessionCookie)}`]
  const monitor = await redis.monitor()
  for (const { method, path } of endpoints)
    t.equal((await alice.request(path, { method, cookies, headers: { 'Sec-Fetch-Site': 'cross-site' } })).status, 403)
  t.strictSame(monitor.commands, [])
  monitor.stop()
})
