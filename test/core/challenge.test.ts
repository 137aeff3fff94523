import { test } from 'tap'
import { challengeOf, checkedClaims, demandOf, mergeClaims } from '../../src/core/challenge.ts'
import { challenges, demands } from '../support/entra/challenges.ts'

const c1 = demands.acrs('c1')
const asClaims = (claims: object) => ({ claims: JSON.stringify(claims), acrValues: undefined, maxAge: undefined })
const encode = (claims: unknown) => Buffer.from(JSON.stringify(claims)).toString('base64')
const entra = (...values: string[]) => demandOf(values, 'entra')
const stepUp = (parameters: string) =>
  demandOf(`Bearer error="insufficient_user_authentication", ${parameters}`, 'rfc9470')

// Whoever answers in the place of an API chooses this header: it must cost no more than its length.
test('a hostile header is read in no time and means nothing', async t => {
  const long = 100_000
  const headers: Record<string, string> = {
    'nothing but quotes': '"'.repeat(long),
    'nothing but backslashes': `Bearer claims="${'\\'.repeat(long)}`,
    'a quote that never ends': `Bearer claims="${'a'.repeat(long)}`,
    'nothing but commas': ','.repeat(long),
    'nothing but blanks': `Bearer${' '.repeat(long)}`,
    'nothing but schemes': 'a '.repeat(long / 2),
    'nothing but names': 'a'.repeat(long),
    'names and blanks': `${'a'.repeat(long / 2)}${' '.repeat(long / 2)}`,
    'nothing but equals signs': `Bearer ${'='.repeat(long)}`,
    'parameters without end': `Bearer ${'a=b,'.repeat(long / 4)}`,
    'deep JSON': `Bearer error="insufficient_claims", claims="${Buffer.from('{"access_token":'.repeat(6000)).toString('base64')}"`,
    'huge claims': String(challenges.huge(long)),
  }
  const started = performance.now()
  for (const [name, header] of Object.entries(headers)) {
    for (const size of [long * 2, 16_384, 4000]) {
      t.equal(demandOf(header.slice(0, size), 'entra'), null, name)
      t.equal(demandOf([header.slice(0, size), 'Basic'], 'rfc9470'), null, name)
    }
  }
  t.ok(performance.now() - started < 500, `${Math.round(performance.now() - started)} ms`)
})

test('a claims challenge is found in every shape that Entra and its neighbours give it', async t => {
  for (const name of ['plain', 'base64url', 'shuffled', 'amongOthers', 'joined'] as const)
    t.same(entra(...challenges[name](c1)), asClaims(c1), name)
  const odd = { access_token: { acrs: { essential: true, value: 'ÿþ?>~' } } }
  t.same(entra(...challenges.base64url(odd)), asClaims(odd), 'both alphabets')
  t.same(entra(`bearer ERROR=insufficient_claims,claims=${encode(c1).replaceAll('=', '')}`), asClaims(c1), 'as tokens')
  t.same(entra('Negotiate abc==, Basic realm="a, b", Bearer', ...challenges.plain(c1)), asClaims(c1))
  t.same(entra('"', ...challenges.plain(c1)), asClaims(c1), 'another header that is broken says nothing of this one')
  const all = { access_token: {}, id_token: {}, userinfo: {} }
  t.same(entra(...challenges.plain(all)), asClaims(all))
})

test('what is no claims challenge is none', async t => {
  const header = (claims: string) => `Bearer error="insufficient_claims", claims="${claims}"`
  const none: Record<string, string[]> = {
    'another error': challenges.otherError(c1),
    'broken base64': challenges.brokenBase64(),
    'broken JSON': challenges.brokenJson(),
    'no object': challenges.notAnObject(),
    'members that are somebody else’s': challenges.foreignMembers(),
    'a member that is no object': [header(encode({ access_token: 'x' }))],
    'an empty object': [header(encode({}))],
    'a prototype': [header(Buffer.from('{"__proto__":{}}').toString('base64'))],
    'no claims': ['Bearer error="insufficient_claims"'],
    'claims twice': [`${header(encode(c1))}, claims="${encode(demands.acrs('c2'))}"`],
    'the error twice': [`Bearer error="invalid_token", error="insufficient_claims", claims="${encode(c1)}"`],
    'two alphabets at once': [header('ab+_')],
    'claims over 4 KB': challenges.huge(4096),
    'another scheme': [header(encode(c1)).replace('Bearer', 'Basic')],
    'no scheme': [header(encode(c1)).replace('Bearer ', '')],
    'no comma': [header(encode(c1)).replace(',', '')],
    nothing: [],
  }
  for (const [name, values] of Object.entries(none)) t.equal(entra(...values), null, name)
  t.equal(demandOf(undefined, 'entra'), null)
  t.equal(demandOf(challenges.plain(c1), 'rfc9470'), null, 'and other providers have no claims challenges')
})

test('a demand for another authentication is read as RFC 9470 writes it', async t => {
  const given = (acrValues: string | undefined, maxAge: number | undefined) => ({
    claims: undefined,
    acrValues,
    maxAge,
  })
  t.same(stepUp('acr_values="urn:gold urn:silver"'), given('urn:gold urn:silver', undefined))
  t.same(stepUp('max_age="5"'), given(undefined, 5))
  t.same(stepUp('max_age=0, error_description="A \\"newer\\", please"'), given(undefined, 0))
  t.same(stepUp('acr_values=gold, max_age=60'), given('gold', 60))
  t.same(demandOf('DPoP error="insufficient_user_authentication", max_age=1', 'rfc9470'), given(undefined, 1))
  for (const broken of [
    'scope="x"',
    'max_age=-1',
    'max_age=1.5',
    'max_age=99999999999',
    'acr_values=""',
    'acr_values=" a"',
    'acr_values="a  b"',
    'acr_values="a\u00e9"',
    `acr_values="${'a'.repeat(513)}"`,
  ])
    t.equal(stepUp(broken), null, broken)
  const atEntra = (parameters: string) => entra(`Bearer error="insufficient_user_authentication", ${parameters}`)
  t.same(atEntra('max_age=0'), given(undefined, 0))
  t.equal(atEntra('acr_values=c1'), null, 'Entra ID knows no acr_values')
})

test('claims are merged by name, and the first has its way', async t => {
  t.equal(mergeClaims(), undefined)
  t.equal(mergeClaims(undefined, undefined), undefined)
  const merged = mergeClaims(
    JSON.stringify(c1),
    undefined,
    '{"access_token":{"acrs":{"value":"c2"},"xms_cc":{"values":["cp1"]}},"id_token":{"acr":null}}',
  )
  t.same(JSON.parse(merged ?? ''), {
    access_token: { acrs: { essential: true, value: 'c1' }, xms_cc: { values: ['cp1'] } },
    id_token: { acr: null },
  })
  t.equal(checkedClaims('{"access_token":{}}'), '{"access_token":{}}')
  for (const text of [undefined, 7, '', '[]', 'null', '{"scope":{}}', `{"access_token":{"a":"${'a'.repeat(4096)}"}}`])
    t.equal(checkedClaims(text), null, String(text).slice(0, 20))
})

test('a challenge that returns is known again, also when it names another moment', async t => {
  const key = (claims: object, slot = 'a') =>
    challengeOf({ upstream: slot, slot, scope: 'x' }, { claims: JSON.stringify(claims) }).key
  t.equal(key(demands.newerThan(1)), key(demands.newerThan(2)))
  t.not(key(demands.acrs('c1')), key(demands.acrs('c2')))
  t.not(key(c1), key(c1, 'b'))
})
