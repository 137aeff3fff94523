import fc from 'fast-check'
import tap, { test } from 'tap'
import { createBrowser } from '../support/browser.ts'
import { holds } from '../support/fuzz/runs.ts'
import { prefixes, startFuzzStage } from '../support/fuzz/stage.ts'

const stage = await startFuzzStage(tap)
const { url: own, port } = stage.gateway
const evil = `127.0.0.1:${stage.evil.port}`

const scheme = fc.constantFrom(
  '',
  '',
  '',
  'http:',
  'https:',
  'javascript:',
  'data:',
  'HTTP:',
  'ftp:',
  `${own}`,
  'blob:',
)
const slashes = fc.constantFrom(
  ...['/', '/', '/', '//', '///', '/\\', '\\/', '\\\\', '/./', '/.//', '/a/..//', '/%2e/%2e%2e//', '/%2f/', '/%5c', ''],
  ...['/a/%2e%2e//', '/;/', '/?', '/#', '/@', '/ /', '/..//', '/bff/', '/api/', '/open', '/API/', '/%61pi/'],
)
const target = fc.constantFrom(
  ...[
    evil,
    'welcome',
    `localhost@${evil}`,
    `localhost:${port}@${evil}`,
    `localhost:${port}.${evil}`,
    'localhost%2eevil.test',
  ],
  ...[
    '2130706433',
    '0x7f.1',
    '0177.0.0.1',
    '[::1]',
    'evil。test',
    'a?b=c#d',
    'x/%2e%2e/y',
    'ü',
    '',
    '%00',
    '%0d%0aX: y',
  ],
)
const inserted = fc.constantFrom(
  '',
  '',
  '',
  '',
  '\t',
  '\n',
  '\r',
  '\0',
  '\u2028',
  '\\',
  ' ',
  '\x7f',
  '\u0085',
  '%09',
  '@',
  ':',
)

const returnUrls = fc.tuple(scheme, slashes, target, inserted, fc.nat(12)).map(([start, between, end, more, at]) => {
  const whole = start + between + end
  const place = Math.min(at, whole.length)
  return whole.slice(0, place) + more + whole.slice(place)
})

// A link to the application's own login that ends on the attacker's page, which asks for the password "once more".
test('a login ends on the application, whatever return URL it began with', async t => {
  stage.provider.autoLogin = 'alice'
  const issuer = new URL(stage.provider.issuer).origin
  let [accepted, finished] = [0, 0]
  const runs = await holds(t, 'every return URL', {
    runs: 500,
    cases: returnUrls,
    async check(returnUrl) {
      const browser = createBrowser({ origin: own })
      const login = `${own}/bff/login?returnUrl=${encodeURIComponent(returnUrl)}`
      const start = await browser.request(login)
      if (start.status === 400) return
      const location = start.headers.location ?? ''
      if (start.status !== 302 || new URL(location).origin !== issuer) throw new Error(`${start.status} to ${location}`)
      if (location.includes(evil)) throw new Error(`the provider is told of ${location}`)
      accepted += 1
      // The whole way takes long, and one in three says as much as all.
      if (accepted % 3 !== 1) return
      const leaves = (url: URL) =>
        ![own, issuer].includes(url.origin) || (url.origin === own && !url.pathname.startsWith('/bff/'))
      const end = await browser.navigate(login, { stopBefore: leaves })
      const last = end.headers.location ?? ''
      if (end.status !== 303) throw new Error(`the callback answers ${end.status}`)
      const url = new URL(last, own)
      const path = decodeURIComponent(url.pathname)
      if (url.origin !== own || /^[/\\]{2}/.test(last) || path.startsWith('//')) throw new Error(`it leads to ${last}`)
      for (const prefix of ['/bff', ...prefixes])
        if (path === prefix || path.startsWith(`${prefix}/`)) throw new Error(`it leads to ${last}`)
      finished += 1
    },
  })
  if (stage.evil.connections > 0) t.fail('the attacker was called')
  t.ok(
    finished > runs / 100,
    `of ${runs} return URLs ${accepted} were accepted, ${finished} of them followed to the end`,
  )
})
