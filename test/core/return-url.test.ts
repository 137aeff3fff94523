import { parse } from 'node:url'
import { test } from 'tap'
import { isBelow, safeReturnUrl } from '../../src/core/return-url.ts'
import { launchChromium } from '../support/chromium.ts'
import { startStage } from '../support/stage.ts'

const origin = 'https://app.example'
const rules = { origin, corsOrigins: [], excludedPaths: ['/bff', '/api', '/deep/api'] }
const spa = { 'index.html': '<!doctype html><title>SPA</title><link rel="icon" href="data:,">' }

/** Addresses that lead to the attacker in one way of reading or another, made of scheme, slashes and host. */
function hostile(own: string, evil: string): string[] {
  const schemes = [
    '',
    'http:',
    'https:',
    'HTTPS:',
    'javascript:',
    'data:',
    'file:',
    'ws:',
    'blob:',
    'x:',
    'http',
    ' https:',
  ]
  const slashes = [
    '',
    '/',
    '//',
    '///',
    '////',
    '/\\',
    '\\/',
    '\\\\',
    '\\',
    '/./',
    '/.//',
    '/.///',
    '/a/..//',
    '/a/../\\',
  ]
  const encoded = [
    '/%2e/%2e%2e//',
    '/%2e//',
    '/%2f',
    '/%2f%2f',
    '/%5c',
    '/%5c%5c',
    '%2f%2f',
    '/%09/',
    '/%0a/',
    '/..;//',
    '/;//',
    '/?//',
  ]
  const hosts = [
    evil,
    `${own}@${evil}`,
    `user:${own}@${evil}`,
    `${own}.${evil}`,
    `${evil}%2e${own}`,
    `${evil}#@${own}`,
    `${evil}?${own}`,
    `${evil}\\@${own}`,
    '0177.0.0.1',
    '0x7f000001',
    '[::1]',
    'evil。test',
    'evil%E3%80%82test',
    'ｅvil.test',
  ]
  return schemes.flatMap(scheme =>
    [...slashes, ...encoded].flatMap(slash =>
      hosts.flatMap(host => [scheme + slash + host, `${scheme}${slash}${host}/%2f..`]),
    ),
  )
}

/** What parsers drop, fold or stumble over. */
const insertions = ['\t', '\n', '\r', '\0', '\u2028', '\\', '/', '%09', '%00', '\u00a0', '\ufeff', '\x7f', '\x85']

/** Why a target would not stay on the site, or null; by other parsers than the one under test asks. */
function leadsAway(target: string, site: string): string | null {
  if (!/^\/(?![/\\])/.test(target)) return 'it does not begin with one slash'
  if (!/^[\x21-\x7e]+$/.test(target)) return 'it has characters that a header line must not have'
  if (parse(target, false, true).host !== null) return 'an old parser finds a host in it'
  for (const base of [`${site}/`, `${site}/bff/callback?code=x`, `${site}/a/b/c/`]) {
    const url = new URL(target, base)
    if (url.origin !== site) return `it is at ${url.origin}`
    if (url.pathname.startsWith('//')) return 'its path begins with two slashes'
    if (url.pathname + url.search + url.hash !== target) return 'it changes when it is read again'
  }
  return null
}

test('a return URL', async t => {
  t.test('that is a page of the application is kept to the letter', async t => {
    const good = [
      '/',
      '/welcome',
      '/welcome/',
      '/welcome?tab=1&next=%2Fx#top',
      '/a/b.c/d~e_f-g',
      '/search?q=//evil.test&u=https://evil.test/',
      '/search?q=a%20b+c',
      '/#/route//with/slashes',
      '/?',
      '/x?y=%22%3C%3E',
      '/caf%C3%A9',
      '/bffs',
      '/api-docs',
      '/deep',
      '/deep/apiary',
      '/x/bff/login',
      `/${'a'.repeat(2047)}`,
    ]
    for (const value of good) t.equal(safeReturnUrl(value, rules), value.replace(/\?$/, ''), value)
  })

  t.test('is normalised as a browser would do it', async t => {
    const pairs = [
      ['/a/../b', '/b'],
      ['/a/./b/', '/a/b/'],
      ['/%2e%2e/b', '/b'],
      ['/../../b', '/b'],
      ['/café?ü=ö#ß', '/caf%C3%A9?%C3%BC=%C3%B6#%C3%9F'],
      ['/a b', '/a%20b'],
      ['/a\u2028b', '/a%E2%80%A8b'],
    ] as const
    for (const [value, target] of pairs) t.equal(safeReturnUrl(value, rules), target, `to ${target}`)
  })

  // An address on an allowed origin is the one way away from here; whatever else only looks like one must not be taken.
  t.test('may be absolute on an exact origin of the list, and on nothing that looks like it', async t => {
    const spa = 'https://spa.example'
    const withSpa = { ...rules, corsOrigins: [spa, 'http://localhost:5173'] }
    const pairs = [
      [spa, `${spa}/`],
      [`${spa}/`, `${spa}/`],
      [`${spa}/bff/a?b=c#d`, `${spa}/bff/a?b=c#d`],
      [`${spa}?q=1`, `${spa}/?q=1`],
      [`${spa}#top`, `${spa}/#top`],
      [`${spa}/a/../b c`, `${spa}/b%20c`],
      [`${spa}//evil.test/`, `${spa}//evil.test/`],
      ['http://localhost:5173/x', 'http://localhost:5173/x'],
      ['/local', '/local'],
    ] as const
    for (const [value, target] of pairs) t.equal(safeReturnUrl(value, withSpa), target, value)
    const near = [
      `${spa}:443/`,
      `${spa}.evil.test/`,
      `${spa}@evil.test/`,
      `${spa}:x@evil.test/`,
      `${spa}:8443/`,
      `${spa}./`,
    ]
    const spelled = ['HTTPS://spa.example/', 'https://SPA.example/', 'http://spa.example/', 'https:/spa.example/']
    const slashed = [
      'https:///spa.example/',
      '//spa.example/',
      'https:\\\\spa.example/',
      `${spa}\\evil.test/`,
      `${spa}\\@evil.test/`,
    ]
    const users = ['https://@spa.example/', 'https://a:b@spa.example/', ` ${spa}/`, `\t${spa}/`, `${spa}\t.evil.test/`]
    const controls = [
      `${spa}/\r\nSet-Cookie: a=b`,
      `${spa}/\u0000`,
      `${spa}/\u0085`,
      'https://spa.exam\tple/',
      origin,
      `${origin}/x`,
    ]
    for (const value of [
      ...near,
      ...spelled,
      ...slashed,
      ...users,
      ...controls,
      'http://localhost:51730/',
      'null',
      `${spa}/${'a'.repeat(2048)}`,
    ])
      t.equal(safeReturnUrl(value, withSpa), null, JSON.stringify(value.slice(0, 60)))
    for (const [value] of pairs.slice(0, -1)) t.equal(safeReturnUrl(value, rules), null, `${value} without a list`)
  })

  // Open redirect: a link to the real login ends at the attacker's copy of the application (RFC 9700 §4.11.1).
  t.test('that leads away, or might for some parser, is refused', async t => {
    const bad = [
      '',
      ' ',
      '.',
      'welcome',
      './welcome',
      '?x',
      '#x',
      '//evil.test',
      '///evil.test',
      '/\\evil.test',
      '\\\\evil.test',
      '\\/evil.test',
      '/\t/evil.test',
      '/\n/evil.test',
      '\t//evil.test',
      ' //evil.test',
      '/.//evil.test',
      '/a/..//evil.test',
      '/a/b/../..//evil.test',
      '/%2e//evil.test',
      '/%2e/%2e%2e//evil.test',
      '/./\\evil.test',
      '/a\\b',
      '/a?b=\\c',
      'javascript:alert(1)',
      'JAVASCRIPT:alert(1)',
      'java\nscript:alert(1)',
      'data:text/html,x',
      'https:evil.test',
      'https:/evil.test',
      'https:///evil.test',
      'https://app.example@evil.test/',
      'https://app.example.evil.test/',
      'https://appxexample/',
      'http://app.example/',
      'https://app.example:444/',
      'https://app.example/',
      'https://evil。test/',
      '/\0',
      '/a\r\nSet-Cookie: x=y',
      '/a\x85b',
      '/%2f/evil.test',
      '/.%2f/evil.test',
      '/x/..%2f/evil.test',
      '/x/..%2fapi/items',
      '/%2fevil.test',
      '/%5cevil.test',
      '/a%0d%0aX:%20y',
      '/%2f/%00',
      '/%',
      '/%zz',
      '/%ff',
      `/${'a'.repeat(2048)}`,
      `/${'a'.repeat(10_240)}`,
    ]
    for (const value of bad) t.equal(safeReturnUrl(value, rules), null, JSON.stringify(value.slice(0, 40)))
  })

  // A target that is itself an endpoint logs in for ever, logs out at once, or shows raw data (RFC 9700 §4.11).
  t.test('below the gateway or an upstream is refused, however it is written', async t => {
    const bad = [
      '/bff',
      '/bff/',
      '/bff/login',
      '/bff/login?returnUrl=/bff/login',
      '/bff/logout?token=x',
      '/bff/callback?code=x',
      '/bff?x',
      '/bff#x',
      '/%62ff/login',
      '/%62%66%66/login',
      '/bff%2flogin',
      '/./bff/login',
      '/x/../bff/login',
      '/x/%2e%2e/bff/login',
      '/x/..//../bff/login',
      '/api',
      '/api/items',
      '/%61pi/items',
      '/deep/api/x',
      '/deep/%61pi',
      '/deep/x/../api',
    ]
    for (const value of bad) t.equal(safeReturnUrl(value, rules), null, value)
    t.ok(isBelow('/bff', '/bff') && isBelow('/bff/x', '/bff') && !isBelow('/bffx', '/bff'))
    t.notOk(isBelow('/anything', '/'), 'an upstream at the root leaves pages their paths')
  })

  // Every way to spell it that a generator can think of; other parsers say where it would lead.
  t.test('of hundreds of thousands of hostile ones stays on the site or is refused', async t => {
    const wrong: string[] = []
    let [kept, refused] = [0, 0]
    const look = (value: string) => {
      const target = safeReturnUrl(value, rules)
      if (target === null) {
        refused += 1
        return
      }
      kept += 1
      const reason =
        leadsAway(target, origin) ?? (safeReturnUrl(target, rules) === target ? null : 'it is refused itself')
      if (reason !== null) wrong.push(`${JSON.stringify(value)} becomes ${target}: ${reason}`)
    }
    const all = hostile('app.example', 'evil.test')
    for (const [number, value] of all.entries()) {
      look(value)
      look(encodeURIComponent(value))
      look(`/${encodeURIComponent(value)}`)
      look(`/x?next=${value}`)
      // At each index; one in three of the values, in turn, is plenty.
      if (number % 3 !== 0) continue
      for (const insertion of insertions)
        for (let index = 0; index <= Math.min(value.length, 24); index += 1)
          look(value.slice(0, index) + insertion + value.slice(index))
    }
    t.strictSame(wrong.slice(0, 10), [])
    t.ok(kept > 1000 && refused > 500_000, `${kept} were kept, ${refused} were refused`)
  })
})

test('a login with a hostile return URL', async t => {
  const stage = await startStage(t, { env: { SPA_DIR: t.testdir(spa) } })
  const { gateway, provider, evil, redis } = stage
  const evilHost = `127.0.0.1:${evil.port}`
  const begin = (query: string) => stage.browser().get(`/bff/login?${query}`)

  // Parameter pollution: the check reads one value, the redirect another (OWASP ASVS 15.3.7).
  t.test('given twice, as an array or far too long does not begin', async t => {
    const bad = [
      'returnUrl=/a&returnUrl=//evil.test',
      'returnUrl=//evil.test&returnUrl=/a',
      'returnUrl=/a&returnUrl=/a',
      'returnUrl=',
      `returnUrl=/${'a'.repeat(10_240)}`,
      `returnUrl=${encodeURIComponent(evil.url)}`,
      'returnUrl=/%5Cevil.test',
      'returnUrl=/%09/evil.test',
      'returnUrl=/%00',
      'returnUrl=%2F%2Fevil.test',
      'returnUrl=/.//evil.test',
      'returnUrl=/bff/login',
      'returnUrl=/api/items',
    ]
    const keys = await redis.keys()
    for (const query of bad) {
      const answer = await begin(query)
      t.equal(answer.status, 400, query.slice(0, 60))
      t.equal(answer.json().code, 'bad_request')
      t.strictSame(answer.rawSetCookie, [])
      t.equal(answer.headers.location, undefined)
      t.notMatch(answer.text, /evil/, 'the page does not repeat it')
    }
    t.strictSame(await redis.keys(), keys, 'nothing is kept of it')
    t.equal((await begin(`returnUrl=/${'a'.repeat(20_000)}`)).status, 431)
  })

  t.test('under another name leads to the start page', async t => {
    const names = [
      'returnUrl[]',
      'returnUrl[0]',
      'returnurl',
      'return_url',
      'returnTo',
      'redirect_uri',
      'target_link_uri',
    ]
    for (const name of names) {
      const browser = stage.browser()
      const callback = await stage.pendingCallback(browser, 'alice', { [name]: evil.url })
      const answer = await stage.open(browser, callback)
      t.equal(answer.status, 303)
      t.equal(answer.headers.location, '/', name)
    }
  })

  t.test('that is taken after all leads to a page of this site, through the whole login', async t => {
    const browser = await stage.loggedIn('bob')
    const values = hostile(`localhost:${gateway.port}`, evilHost)
    const rule = { origin: gateway.url, corsOrigins: [], excludedPaths: ['/bff', '/api'] }
    const taken = values.filter(value => safeReturnUrl(value, rule) !== null)
    const step = Math.ceil(taken.length / 100)
    for (const value of taken.filter((_value, index) => index % step === 0)) {
      const end = await browser.navigate(`/bff/login?returnUrl=${encodeURIComponent(value)}`)
      t.equal(new URL(end.url).origin, gateway.url, value)
      t.equal(leadsAway(end.chain.at(-2)?.headers.location ?? '', gateway.url), null)
    }
    t.equal(evil.connections, 0)
  })

  // The judge that counts: what a real browser makes of it.
  t.test('ends on this site in a real browser', async t => {
    const chromium = await launchChromium()
    t.teardown(() => chromium.close())
    const page = await chromium.newPage()
    await page.goto(`${gateway.url}/bff/login?returnUrl=/welcome`)
    await page.fill('input[name=login]', 'carol')
    await page.click('button')
    await page.waitForURL(`${gateway.url}/welcome`)

    const own = `localhost:${gateway.port}`
    const values = hostile(own, evilHost).flatMap(value => [
      value,
      value.replace('/', '/\t'),
      value.replace('//', '/\n/'),
    ])
    const rule = { origin: gateway.url, corsOrigins: [], excludedPaths: ['/bff', '/api'] }
    const targets = values.flatMap(value => safeReturnUrl(value, rule) ?? [])
    const astray = await page.evaluate<string[]>(`${JSON.stringify(targets)}.filter(target => {
      const link = Object.assign(document.createElement('a'), { href: target })
      return link.origin !== location.origin || new URL(target, location).origin !== location.origin
    })`)
    t.ok(targets.length > 150, `${targets.length} targets`)
    t.strictSame(astray, [], "by the browser's own parser none leads away")

    const tricks = [
      '//',
      '///',
      '/\\',
      '\\\\',
      '/\t/',
      '/\n/',
      '/.//',
      '/a/..//',
      '/%2e/%2e%2e//',
      '/%2f',
      '/%5c',
      '/%09/',
      '/;//',
      '/?//',
      'http:',
      'http:///',
      'javascript:location="//',
    ]
    const payloads = tricks.flatMap(trick => [
      trick + evilHost,
      `${trick}${own}@${evilHost}`,
      `${trick}${evilHost}/%2f..`,
    ])
    let ended = 0
    for (const payload of payloads) {
      const tokenCalls = provider.tokenCalls().length
      await page.goto(`${gateway.url}/bff/login?returnUrl=${encodeURIComponent(payload)}`)
      t.equal(new URL(page.url()).origin, gateway.url, `${JSON.stringify(payload)} ends at ${page.url()}`)
      ended += provider.tokenCalls().length - tokenCalls
    }
    t.ok(ended > 0 && ended < payloads.length, `${ended} of ${payloads.length} went through a login`)
    t.equal(evil.connections, 0)
  })
})
