import tap, { type Test, test } from 'tap'
import { randomToken } from '../../src/core/random.ts'
import { sessionIdOf } from '../../src/core/session.ts'
import type { BrowserResponse, TestBrowser } from '../support/browser.ts'
import { sessionCookie, startStage } from '../support/stage.ts'

type Rule = 'navigation' | 'header' | 'fetch-metadata' | 'token' | 'none'

/** What is promised of one endpoint. */
interface Row {
  method: 'GET' | 'POST' | 'DELETE'
  path: string
  rule: Rule
  /** The answer to a request that keeps the rule, without a session and with one. */
  without: number
  having: number
  /** People navigate here; everything else is for scripts, and never redirects. */
  people: boolean
}

// biome-ignore format: a table
const table: Row[] = [
  { method: 'GET',    path: '/login',           rule: 'navigation',     without: 302, having: 302, people: true },
  { method: 'GET',    path: '/login/failed',    rule: 'navigation',     without: 200, having: 303, people: true },
  { method: 'GET',    path: '/callback',        rule: 'navigation',     without: 400, having: 400, people: true },
  { method: 'GET',    path: '/user',            rule: 'header',         without: 401, having: 200, people: false },
  { method: 'GET',    path: '/logout',          rule: 'token',          without: 302, having: 200, people: true },
  { method: 'POST',   path: '/logout',          rule: 'header',         without: 200, having: 200, people: false },
  { method: 'GET',    path: '/logout/continue', rule: 'navigation',     without: 302, having: 302, people: true },
  { method: 'GET',    path: '/sessions',        rule: 'header',         without: 401, having: 200, people: false },
  { method: 'DELETE', path: '/sessions',        rule: 'header',         without: 401, having: 200, people: false },
  { method: 'DELETE', path: '/sessions/:id',    rule: 'header',         without: 401, having: 404, people: false },
  { method: 'POST',   path: '/activity',        rule: 'header',         without: 401, having: 204, people: false },
  { method: 'GET',    path: '/events',          rule: 'fetch-metadata', without: 401, having: 200, people: false },
  { method: 'POST',   path: '/backchannel',     rule: 'none',           without: 415, having: 415, people: false },
  { method: 'GET',    path: '/frontchannel',    rule: 'none',           without: 200, having: 200, people: true },
]

const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']
const paths = [...new Set(table.map(row => row.path))]
const allowedAt = (path: string) => table.filter(row => row.path === path).map(row => row.method as string)
const addressOf = (path: string) => `/bff${path.replace(':id', 'AAAAAAAAAAAAAAAA')}`

const stage = await startStage(tap)
const { gateway, redis, upstream } = stage
const origin = gateway.url

type Headers = [string, string][]
/** Headers as browsers send them where the rule is kept. */
const kept: Record<Rule, Headers[]> = {
  header: [
    [['X-CSRF', '1']],
    [
      ['x-csrf', '1'],
      ['Origin', origin],
    ],
    [
      ['X-CSRF', '1'],
      ['Sec-Fetch-Site', 'same-origin'],
    ],
    [
      ['X-CSRF', '1'],
      ['Origin', origin],
      ['Sec-Fetch-Site', 'same-origin'],
      ['Sec-Fetch-Mode', 'cors'],
      ['Sec-Fetch-Dest', 'empty'],
    ],
  ],
  'fetch-metadata': [
    [['Sec-Fetch-Site', 'same-origin']],
    [['Origin', origin]],
    [
      ['Origin', origin],
      ['Sec-Fetch-Site', 'same-origin'],
    ],
  ],
  navigation: [
    [],
    [
      ['Sec-Fetch-Mode', 'navigate'],
      ['Sec-Fetch-Dest', 'document'],
      ['Sec-Fetch-Site', 'cross-site'],
    ],
    [
      ['Sec-Fetch-Mode', 'navigate'],
      ['Sec-Fetch-Dest', 'document'],
      ['Sec-Fetch-Site', 'none'],
      ['Sec-Fetch-User', '?1'],
    ],
  ],
  token: [[], [['Sec-Fetch-Site', 'cross-site']]],
  none: [
    [],
    [
      ['Sec-Fetch-Mode', 'navigate'],
      ['Sec-Fetch-Dest', 'iframe'],
      ['Sec-Fetch-Site', 'cross-site'],
    ],
  ],
}

const { host, port } = new URL(origin)
const foreignOrigins = [
  'null',
  '',
  'https://evil.test',
  'http://evil.localhost',
  `http://app.localhost:${port}`,
  `${origin}.evil.test`,
  `http://evil.test/${host}`,
  `http://evil${host}`,
  `http://localhost:${Number(port) + 1}`,
  'http://localhost',
  `https://${host}`,
  origin.toUpperCase(),
  `${origin}/`,
  `http://localhost.:${port}`,
  `http://user@${host}`,
  `${origin}, ${origin}`,
  '*',
]
const foreignSites = ['same-site', 'cross-site', 'none', '', 'SAME-ORIGIN', 'same-origin, same-origin', 'same-origin;']
/** Headers that break the rule, each in one way. */
const broken: Record<Rule, Headers[]> = {
  header: [
    [],
    ...['', '0', '2', '01', '1.0', 'true', '1, 1', '11'].map((value): Headers => [['X-CSRF', value]]),
    [
      ['X-CSRF', '1'],
      ['X-CSRF', '1'],
    ],
    [['X_CSRF', '1']],
    [['X-CSRF-Token', '1']],
    [['X-Requested-With', 'XMLHttpRequest']],
    [['Cookie', 'X-CSRF=1']],
    [['Content-Type', 'text/plain']],
    [['Content-Type', 'application/x-www-form-urlencoded']],
    [['Content-Type', 'multipart/form-data; boundary=x']],
    [
      ['Origin', origin],
      ['Sec-Fetch-Site', 'same-origin'],
    ],
    ...foreignOrigins.map(
      (value): Headers => [
        ['X-CSRF', '1'],
        ['Origin', value],
      ],
    ),
    ...foreignSites.map(
      (value): Headers => [
        ['X-CSRF', '1'],
        ['Sec-Fetch-Site', value],
      ],
    ),
    [
      ['X-CSRF', '1'],
      ['Origin', 'https://evil.test'],
      ['Sec-Fetch-Site', 'same-origin'],
    ],
    [
      ['X-CSRF', '1'],
      ['Origin', origin],
      ['Sec-Fetch-Site', 'cross-site'],
    ],
  ],
  'fetch-metadata': [
    [],
    [['X-CSRF', '1']],
    [['Referer', `${origin}/`]],
    ...foreignOrigins.map((value): Headers => [['Origin', value]]),
    ...foreignSites.map((value): Headers => [['Sec-Fetch-Site', value]]),
    [
      ['Origin', 'https://evil.test'],
      ['Sec-Fetch-Site', 'same-origin'],
    ],
    [
      ['Origin', origin],
      ['Sec-Fetch-Site', 'cross-site'],
    ],
  ],
  navigation: [
    ...['cors', 'no-cors', 'same-origin', 'websocket', ''].map((value): Headers => [['Sec-Fetch-Mode', value]]),
    ...['iframe', 'frame', 'image', 'script', 'empty', 'embed', 'object', ''].map(
      (value): Headers => [['Sec-Fetch-Dest', value]],
    ),
    [
      ['Sec-Fetch-Mode', 'navigate'],
      ['Sec-Fetch-Dest', 'iframe'],
    ],
    [['Sec-Purpose', 'prefetch']],
    [['Sec-Purpose', 'prefetch;prerender']],
    [['Purpose', 'prefetch']],
  ],
  token: [],
  none: [],
}

interface Sent {
  status: number
  headers: BrowserResponse['headers']
  rawSetCookie: string[]
  text: string
}

/** Sends exactly this; an event stream is left as soon as its head is there. */
async function send(
  browser: TestBrowser,
  method: string,
  path: string,
  headers: Headers,
  cookie?: string,
): Promise<Sent> {
  const all: Headers = cookie === undefined ? headers : [...headers, ['Cookie', `${sessionCookie}=${cookie}`]]
  if (method !== 'GET' || !path.includes('/events')) return browser.request(path, { method, headers: all, cookies: [] })
  const own = all.map(([name]) => name.toLowerCase())
  if (own.includes('x-csrf')) return browser.request(path, { method, headers: all, cookies: [] })
  const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers: all })
  const streams = response.headers.get('content-type')?.startsWith('text/event-stream') ?? false
  const text = streams ? '' : await response.text()
  if (streams) await response.body?.cancel()
  return { status: response.status, headers: Object.fromEntries(response.headers), rawSetCookie: [], text }
}

/** What holds for every answer of the gateway's own, whatever it says. */
function ownAnswer(t: Test, answer: Sent, row: Pick<Row, 'people'>, name: string): void {
  t.match(
    answer.headers,
    { 'cache-control': 'no-store', 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer' },
    name,
  )
  t.equal(answer.headers['access-control-allow-origin'], undefined, name)
  if (row.people) return
  t.ok(answer.status < 300 || answer.status >= 400, `${name}: a script is not redirected`)
  t.equal(answer.headers.location, undefined, name)
}

function refused(t: Test, answer: Sent, status: number, code: string, name: string): void {
  t.equal(answer.status, status, name)
  t.match(answer.headers['content-type'], /^application\/problem\+json/, name)
  t.match(JSON.parse(answer.text), { status, code }, name)
  t.same([answer.rawSetCookie, answer.headers.location], [[], undefined], name)
}

const cookieOf = (browser: TestBrowser) => browser.jar.get(sessionCookie) ?? ''

/** A user whose session may end; the next one is another. */
let users = 0
async function liveCookie(): Promise<string> {
  users += 1
  return cookieOf(await stage.loggedIn(`user-${users}`))
}

/** Paths and methods that are registered below `/bff`, from the router itself. */
function registered(): Map<string, string[]> {
  const routes = new Map<string, string[]>()
  const parents: string[] = []
  for (const line of gateway.app.publicServer.printRoutes({ commonPrefix: false }).split('\n')) {
    const [, indent = '', segment = '', verbs = ''] = /^([│ ]*)[├└]── (\S+) \(([^)]*)\)/.exec(line) ?? []
    if (segment === '') continue
    parents.splice(indent.length / 4, parents.length, segment)
    const path = parents.join('')
    routes.set(path, [...(routes.get(path) ?? []), ...verbs.split(', ')])
  }
  return routes
}

// An endpoint that nobody put into the table has no rule that anybody looked at.
test('the table has every endpoint there is', async t => {
  const routes = registered()
  const own = [...routes.keys()].filter(path => !/^\/api([/*]|$)/.test(path))
  // What is no endpoint is nothing, whatever stands behind the gateway at the root.
  t.same(own.sort(), ['/bff', '/bff*', ...paths.map(path => `/bff${path}`)].sort())
  for (const path of own) t.same(routes.get(path)?.sort(), [...methods].sort(), `${path} answers each method`)
})

test('every endpoint answers as the table says, with and without a session, and only to its methods', async t => {
  const browser = stage.browser()
  const sessions: Record<string, { cookie: () => Promise<string | undefined>; expected: 'without' | 'having' }> = {
    'no cookie': { cookie: async () => undefined, expected: 'without' },
    'a malformed cookie': { cookie: async () => 'malformed', expected: 'without' },
    'an unknown cookie': { cookie: async () => randomToken(), expected: 'without' },
    'a session': { cookie: liveCookie, expected: 'having' },
  }
  for (const [who, { cookie, expected }] of Object.entries(sessions)) {
    for (const row of table) {
      for (const headers of kept[row.rule]) {
        const answer = await send(browser, row.method, addressOf(row.path), headers, await cookie())
        const name = `${row.method} ${row.path} with ${who} and ${JSON.stringify(headers)}`
        t.equal(answer.status, row[expected], name)
        ownAnswer(t, answer, row, name)
        if (answer.status === 401) refused(t, answer, 401, 'not_authenticated', name)
      }
    }
    const live = await cookie()
    for (const path of paths) {
      const allowed = allowedAt(path)
      for (const method of methods.filter(word => !allowed.includes(word))) {
        for (const headers of [[], kept.header[3] ?? [], kept.navigation[1] ?? []]) {
          const answer = await send(browser, method, addressOf(path), headers, live)
          const name = `${method} ${path} with ${who}`
          ownAnswer(t, answer, { people: false }, name)
          t.same(answer.headers.allow?.split(', ').sort(), [...allowed].sort(), name)
          if (method === 'HEAD') t.same([answer.status, answer.text], [405, ''], name)
          else refused(t, answer, 405, 'method_not_allowed', name)
        }
      }
    }
  }
})

// Another site makes the browser send a request with the cookie: a form, an image, a fetch without preflight, a prefetch.
test('a request that breaks the rule of its endpoint is refused, changes nothing, and costs no command of the store', async t => {
  const browser = stage.browser()
  const cookie = await liveCookie()
  const monitor = await redis.monitor()
  for (const row of table) {
    for (const headers of broken[row.rule]) {
      const answer = await send(browser, row.method, addressOf(row.path), headers, cookie)
      const name = `${row.method} ${row.path} with ${JSON.stringify(headers)}`
      refused(t, answer, 403, 'csrf', name)
      ownAnswer(t, answer, { people: false }, name)
      t.notOk(JSON.parse(answer.text).loginUrl, 'a login would not help')
    }
  }
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x'])
    for (const path of ['/bff/activity?X-CSRF=1', '/bff/logout?x-csrf=1']) {
      const options = { headers: { 'Content-Type': type }, body: 'X-CSRF=1', cookies: [`${sessionCookie}=${cookie}`] }
      refused(t, await browser.post(path, options), 403, 'csrf', `${path} as ${type}`)
    }
  await redis.client.echo('the end')
  monitor.stop()
  const touched = monitor.commands.filter(words => words.includes(sessionIdOf(cookie)))
  t.same(touched, [], 'the store was not asked for the session')
  const others = monitor.commands.filter(words => words.some(word => /:(transaction|logout):/.test(word)))
  t.same(others, [], 'nor for anything else')
  t.equal((await send(browser, 'GET', '/bff/user', [['X-CSRF', '1']], cookie)).status, 200, 'the session lives on')
})

// A flood of cookies that cannot be ours would cost the store a command each.
test('a cookie that cannot be one of ours costs the store nothing', async t => {
  const browser = stage.browser()
  const monitor = await redis.monitor()
  const tokens = [`${randomToken()}x`, randomToken().slice(1), `"${randomToken()}"`]
  const malformed = ['', 'x', '%00', '*', '{}', '__proto__', 'x'.repeat(8000), ...tokens]
  for (const row of table.filter(each => each.without === 401)) {
    for (const cookie of malformed) {
      const answer = await send(browser, row.method, addressOf(row.path), kept[row.rule][0] ?? [], cookie)
      refused(t, answer, 401, 'not_authenticated', `${row.method} ${row.path} with ${cookie.slice(0, 50)}`)
    }
  }
  await redis.client.echo('the end')
  monitor.stop()
  t.ok(monitor.commands.length > 0, 'the store was watched')
  const ids = malformed.map(sessionIdOf)
  t.same(
    monitor.commands.filter(words => words.some(word => ids.includes(word))),
    [],
  )
})

// A script that asks like a navigating person must not be sent to the provider: its fetch would follow, and hang in CORS.
test('what is for scripts answers scripts, even when it is asked as a page', async t => {
  const browser = stage.browser()
  const page: Headers = [
    ['Accept', 'text/html,application/xhtml+xml'],
    ['Sec-Fetch-Mode', 'navigate'],
    ['Sec-Fetch-Dest', 'document'],
  ]
  for (const row of table.filter(each => !each.people)) {
    const headers: Headers = [...(kept[row.rule].at(-1) ?? []).filter(([name]) => !/mode|dest/i.test(name)), ...page]
    const answer = await send(browser, row.method, addressOf(row.path), headers)
    t.equal(answer.status, row.without, `${row.method} ${row.path}`)
    t.notMatch(answer.headers['content-type'], /html/)
    ownAnswer(t, answer, row, `${row.method} ${row.path}`)
  }
  for (const path of ['/bff', '/bff/', '/bff/nothing', '/bff/user/', '/bff/User', '/bff/user;x'])
    refused(t, await send(browser, 'GET', path, page), 404, 'not_found', path)
  // Others might take these for the endpoint.
  for (const path of ['/bff//user', '/BFF/user', '/bff%2fuser'])
    refused(t, await send(browser, 'GET', path, page), 400, 'bad_request', path)
})

// Servers and proxies that let a header or the query change the method turn a harmless GET into an unsafe request.
test('no header and no parameter changes the method', async t => {
  const browser = await stage.loggedIn('override')
  const other = await stage.loggedIn('override')
  for (const name of ['X-HTTP-Method-Override', 'X-HTTP-Method', 'X-Method-Override']) {
    t.equal((await browser.api('/bff/sessions', { headers: { [name]: 'DELETE' } })).status, 200)
    t.equal((await browser.api('/bff/sessions', { method: 'POST', headers: { [name]: 'DELETE' } })).status, 405)
  }
  t.equal((await browser.api('/bff/sessions?_method=DELETE&method=DELETE')).status, 200)
  t.equal(
    (await browser.api('/bff/logout?_method=POST', { redirect: 'manual' })).status,
    200,
    'the question, no logout',
  )
  for (const each of [browser, other]) t.equal((await each.api('/bff/user')).status, 200)
})

// The token goes to an API for a request that another site has made, or for nobody.
test('an upstream hears of no request that breaks the rule or has no session', async t => {
  const browser = stage.browser()
  const cookie = await liveCookie()
  upstream.requests.length = 0
  const options = await send(browser, 'OPTIONS', '/api/items', [], cookie)
  t.match([options.status, options.headers.allow], [204, 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS'])
  for (const method of methods.filter(each => each !== 'OPTIONS')) {
    for (const headers of broken.header) {
      const answer = await send(browser, method, '/api/items', headers, cookie)
      t.equal(answer.status, 403, `${method} with ${JSON.stringify(headers)}`)
      if (method !== 'HEAD') refused(t, answer, 403, 'csrf', method)
    }
    for (const dead of [undefined, 'malformed', randomToken()]) {
      const answer = await send(browser, method, '/api/items', kept.header[0] ?? [], dead)
      t.equal(answer.status, 401, method)
      if (method !== 'HEAD') refused(t, answer, 401, 'not_authenticated', method)
    }
  }
  t.equal(upstream.requests.length, 0)
})

// The router refuses before any rule is asked; its answers must not tell what it is made of, nor be stored.
test('a path that cannot be decoded, or is too long, is refused like everything else', async t => {
  const browser = await stage.loggedIn('router')
  for (const path of ['/%zz', '/bff/%zz', '/bff/sessions/%zz', '/bff/sessions/%c3%28', '/api/%zz']) {
    const answer = await browser.api(path, { method: 'DELETE' })
    refused(t, answer, 400, 'bad_request', path)
    t.equal(answer.headers['cache-control'], 'no-store', path)
    t.notMatch(answer.text, /FST_|zz/)
  }
  const long = await browser.api(`/bff/sessions/${'x'.repeat(300)}`, { method: 'DELETE' })
  t.ok([404, 414].includes(long.status))
  refused(t, long, long.status, long.status === 404 ? 'not_found' : 'uri_too_long', 'a handle of 300 letters')
  t.equal(long.headers['cache-control'], 'no-store')
  t.notMatch(long.text, /FST_|xxx/)
})

test('under another BFF_PATH the endpoints are there, and no longer here', async t => {
  const moved = await startStage(t, { memory: true, env: { BFF_PATH: '/auth/gate' } })
  const browser = moved.browser()
  for (const row of table) {
    const path = addressOf(row.path)
    const headers = (kept[row.rule][0] ?? []).map(([name, value]): [string, string] => [
      name,
      value === origin ? moved.gateway.url : value,
    ])
    const there = await browser.request(path.replace('/bff', '/auth/gate'), { method: row.method, headers })
    t.equal(there.status, row.without, `${row.method} ${row.path}`)
    t.equal((await browser.request(path, { method: row.method, headers })).status, 404)
  }
  t.match((await browser.api('/auth/gate/user')).json(), { loginUrl: '/auth/gate/login' })
})
