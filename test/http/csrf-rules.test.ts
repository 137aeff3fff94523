import { test } from 'tap'
import { type CsrfRule, createCsrf } from '../../src/http/csrf.ts'

const own = 'https://app.example'
const spa = 'https://spa.example'
const { refusal } = createCsrf({ origin: own, corsOrigins: [spa] })
const passes = (rule: CsrfRule, origin?: string, site?: string) =>
  refusal(rule, {
    'x-csrf': '1',
    ...(origin !== undefined && { origin }),
    ...(site !== undefined && { 'sec-fetch-site': site }),
  }) === null

test('an origin of the list may ask from the same site, and from nowhere else', async t => {
  for (const rule of ['header', 'fetch-metadata', 'websocket'] as const) {
    for (const site of [undefined, 'same-origin', 'same-site']) t.ok(passes(rule, spa, site), `${rule} ${site}`)
    for (const site of ['cross-site', 'none', '', 'same-site, same-site'])
      t.notOk(passes(rule, spa, site), `${rule} ${site}`)
  }
})

// The cookie goes along from every sibling of the site, and only the Origin tells which of them asks.
test('same-site alone, or with the own origin, is not enough', async t => {
  for (const rule of ['header', 'fetch-metadata', 'websocket'] as const) {
    for (const origin of [undefined, own, 'https://evil.example', 'null'])
      t.notOk(passes(rule, origin, 'same-site'), `${rule} ${origin}`)
  }
})

// No preflight and no CORS holds a websocket back: any page may open one, with the user's cookie (CSWSH).
test('a websocket needs an exact Origin, always', async t => {
  for (const origin of [own, spa]) t.ok(passes('websocket', origin), origin)
  for (const site of [undefined, 'same-origin', 'none']) {
    t.notOk(passes('websocket', undefined, site), `no Origin, ${site}`)
    t.notOk(passes('websocket', 'null', site), `null, ${site}`)
  }
  for (const origin of [
    '',
    'https://app.example.evil.test',
    'http://app.example',
    `${own}/`,
    `${own}:443`,
    'wss://app.example',
  ])
    t.notOk(passes('websocket', origin), origin)
  t.equal(refusal('websocket', { origin: own }), null, 'and no header that it cannot send')
})
