import fc from 'fast-check'
import { test } from 'tap'
import { createPathCheck, ownerOf } from '../../src/core/request-path.ts'

const prefixes = ['/bff', '/api', '/api/admin', '/api/a/admin', '/files']
const check = createPathCheck(prefixes)
const twoWays = /two ways/

test('what is meant as it stands passes', async t => {
  const sound = [
    '/',
    '/?',
    '/api',
    '/api/',
    '/api?x=//y/../z',
    '/api/items/a%2Fb?x=1&x=2&q=a+b%20c;d',
    '/api/items?q=a\\b"<>|%zz%00%5c',
    '/api/100%25',
    '/api/100%25/x',
    '/api/a|b[1]{2}^',
    '/api/@me/x:y',
    "/api/!$&'()*+,=~_-",
    '/api/Items/AbC',
    '/api/x;v=1/y;w=2',
    '/api/.well-known/a.b..c',
    '/api/main...dev',
    '/api/%C3%BC/%E4%BD%A0',
    '/api/https%3A%2F%2Fother.test%2Fx',
    '/api/what%3F/why%23',
    '/api/a%252Fb',
    '/apiadmin',
    '/api.x',
    '/bff/user',
    '/assets/index-D3adBeef.js',
    '/Search',
  ]
  for (const target of sound) t.equal(check(target), null, target)
})

// The gateway takes a path for one upstream's, that upstream (or a proxy before it) decodes or cleans it up once more and
// serves something else: what is meant for administrators, with a token and under a rule that are meant for everybody.
test('what could be read in two ways is refused', async t => {
  const refused: [target: string, why: RegExp][] = [
    ['', /must be a path/],
    ['*', /must be a path/],
    ['?x', /must be a path/],
    ['api', /must be a path/],
    ['http://evil.test/', /must be a path/],
    ['//evil.test/', /empty segment/],
    ['/api//admin', /empty segment/],
    ['/api//evil.test', /empty segment/],
    ['/api/x//', /empty segment/],
    ['/api/http://evil.test/', /empty segment/],
    ['/api\\evil.test', /backslash/],
    ['/api/..\\x', /backslash/],
    ['/api/%5c..%5cx', /backslash/],
    ['/api/%5C', /backslash/],
    ['/api/%255c', /backslash/],
    ['/api/a b', /must be percent-encoded/],
    ['/private#/public', /must be percent-encoded/],
    ['/api/ü', /must be percent-encoded/],
    ['/api/a"', /must be percent-encoded/],
    ['/api/<a>', /must be percent-encoded/],
    ['/api/`', /must be percent-encoded/],
    ['/api/\u0001', /must be percent-encoded/],
    ['/api/\u007f', /must be percent-encoded/],
    ['/api/%', /encodes nothing/],
    ['/api/%2', /encodes nothing/],
    ['/api/%u002e%u002e/x', /encodes nothing/],
    ['/api/%ff', /not UTF-8/],
    ['/api/%c0%ae%c0%ae/x', /not UTF-8/],
    ['/api/%ed%a0%80', /not UTF-8/],
    ['/api/%00', /control character/],
    ['/api/%0d%0aX:y', /control character/],
    ['/api/%7f', /control character/],
    ['/api/%2500', /control character/],
    ['/api/a/../../x', /dot segment/],
    ['/api/./x', /dot segment/],
    ['/api/..', /dot segment/],
    ['/api/..?x', /dot segment/],
    ['/api/%2e%2e/x', /dot segment/],
    ['/api/.%2e/x', /dot segment/],
    ['/api/..%2fx', /dot segment/],
    ['/api/x/..%2fadmin', /dot segment/],
    ['/api/%2e%2e%2fx', /dot segment/],
    ['/api/%252e%252e%252fx', /dot segment/],
    ['/api/%25252e%25252e', /dot segment/],
    ['/api/..;/x', /dot segment/],
    ['/api/..;v=1/x', /dot segment/],
    ['/api/..%3bx', /dot segment/],
    ['/api/..%3fx', /dot segment/],
    ['/api/..%20/x', /dot segment/],
    ['/api/.../x', /dot segment/],
    ['/api/100%25/%252e%252e/x', /dot segment/],
    ['/api/%25ff/%252e%252e/x', /dot segment/],
    ['/api%2fadmin/x', twoWays],
    ['/api%2Fx', twoWays],
    ['/api%252fx', twoWays],
    ['/api/%2fadmin', twoWays],
    ['/api/%61dmin/x', twoWays],
    ['/api/%2561dmin/x', twoWays],
    ['/%61pi/x', twoWays],
    ['/api;x', twoWays],
    ['/api/admin;v=1/x', twoWays],
    ['/api/;x/admin', twoWays],
    ['/api/%61;%2fq/admin', twoWays],
    ['/api/x;v=%2F', twoWays],
    ['/API/x', twoWays],
    ['/api/Admin', twoWays],
    ['/file%C5%BF/x', twoWays],
    ['/api./x', twoWays],
    ['/api/admin./x', twoWays],
    ['/api/admin%20/x', twoWays],
    ['/api%3f/x', twoWays],
    ['/api/admin%23/x', twoWays],
    ['/files%23/public', twoWays],
    ['/api/a;x%3f/admin%3fy', twoWays],
    [`/api/%${'25'.repeat(6)}41`, /too many times/],
    ['/api?a b', /query/],
    ['/api?a#b', /query/],
    ['/api?ü', /query/],
    ['/api?\r\n', /query/],
  ]
  for (const [target, why] of refused) t.match(check(target), why, target)
})

test('an owner is the longest prefix on a segment boundary', async t => {
  const cases: [string, string | undefined][] = [
    ['/api', '/api'],
    ['/api/', '/api'],
    ['/api/administrators', '/api'],
    ['/api/admin', '/api/admin'],
    ['/apiadmin', undefined],
    ['/api.x', undefined],
    ['/', undefined],
  ]
  for (const [path, owner] of cases) t.equal(ownerOf(path, prefixes), owner, path)
  t.equal(ownerOf('/x', ['/', '/api']), '/')
  t.equal(ownerOf('/api/x', ['/api', '/']), '/api')
})

test('an upstream at the root takes the rest, and nothing of the others', async t => {
  const all = createPathCheck(['/', '/bff'])
  for (const target of ['/', '/x/Y', '/x;v=1', '/bff/user', '/bffx']) t.equal(all(target), null, target)
  for (const target of ['/BFF/user', '/%62ff', '/bff;x', '/bff%2fuser']) t.match(all(target), twoWays, target)
})

test('a prefix with capitals is meant as it is written', async t => {
  const capital = createPathCheck(['/Api', '/v1.'])
  for (const target of ['/Api/x', '/Api', '/v1./x', '/other']) t.equal(capital(target), null, target)
  for (const target of ['/api/x', '/API/x', '/v1/x']) t.match(capital(target), twoWays, target)
})

/** What servers and proxies are known to do with a path, each written without regard to how the check does it. */
const steps: Record<string, (path: string) => string> = {
  decode: path =>
    Buffer.from(
      path.replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
      'latin1',
    ).toString(),
  dropParameters: path => path.replaceAll(/;[^/]*/g, ''),
  mergeSlashes: path => path.replaceAll(/\/+/g, '/'),
  lowerCase: path => path.toLowerCase(),
  trimSegments: path => path.replaceAll(/[. ]+(?=\/|$)/g, ''),
  cutAtQuery: path => path.split(/[?#]/, 1)[0] ?? '',
  slashes: path => path.replaceAll('\\', '/'),
  dots: path => {
    const kept: string[] = []
    for (const segment of path.split('/').slice(1)) {
      if (segment === '..') kept.pop()
      else if (segment !== '.') kept.push(segment)
    }
    return `/${kept.join('/')}`
  },
}

const segment = fc.constantFrom('a', 'q', 'x', '.', '..', '..;', '', 'api', 'admin', 'Admin', 'bff', 'files', ';v', '?')
const joint = fc.constantFrom('/', '/', '/', '%2f', '%2F', '\\', '%5c', '%252f', '//', ';', '%3b', '%3f', '. ', '%20/')

/** A character as it is, encoded, or encoded twice; mostly as it is, or next to no path would be accepted. */
const spell = (character: string, how: number) => {
  const hex = `%${Buffer.from(character).toString('hex').slice(0, 2)}`
  return how < 17 ? character : how < 19 ? hex : hex.replace('%', '%25')
}
const written = fc
  .tuple(fc.array(fc.tuple(joint, segment), { minLength: 1, maxLength: 6 }), fc.infiniteStream(fc.nat(19)))
  .map(([parts, dice]) => {
    const letters = [...parts.map(([between, name]) => between + name).join('')].map(letter =>
      spell(letter, dice.next().value ?? 0),
    )
    return letters.join('')
  })
const target = fc
  .tuple(fc.constantFrom('', '/api', '/api/admin', '/api/a', '/bff'), written)
  .map(parts => parts.join(''))
const server = fc.array(fc.constantFrom(...Object.keys(steps)), { minLength: 1, maxLength: 8 })

for (const held of [prefixes, [...prefixes, '/']]) {
  test(`whatever a server makes of an accepted path, it has the same owner (${held.at(-1)})`, async t => {
    const judge = createPathCheck(held)
    let [accepted, encoded] = [0, 0]
    const property = fc.property(target, fc.array(server, { minLength: 12, maxLength: 12 }), (asked, servers) => {
      if (judge(asked) !== null) return
      const path = asked.split('?', 1)[0] ?? ''
      accepted += 1
      encoded += path.includes('%') ? 1 : 0
      const owner = ownerOf(path, held)
      for (const pipeline of servers) {
        const read = pipeline.reduce((reading, step) => steps[step]?.(reading) ?? '', path)
        const other = ownerOf(read, held)
        if (other !== owner) throw new Error(`${pipeline.join(' | ')} makes ${read} of it: ${other}, not ${owner}`)
      }
    })
    fc.assert(property, { numRuns: 20_000 })
    t.ok(accepted > 1000 && encoded > 200, `of 20000 paths ${accepted} were accepted, ${encoded} of them encoded`)
  })
}

test('any text at all is judged', async t => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 200 }), text => {
      const verdict = check(text)
      return verdict === null || verdict.length > 0
    }),
    { numRuns: 5000 },
  )
  t.pass('without an error')
})

// A target of the longest kind that is slow to judge would let anybody without a session hold up everybody else.
test('the longest targets take no time to speak of', async t => {
  const pieces = [
    '.',
    '.a',
    '/',
    '/a',
    ';',
    '/;',
    '%2f',
    '%20',
    '%2e',
    '%25',
    '%2525',
    '/%2e.',
    'a',
    'A',
    '%C3%BC',
    '?',
    '#',
    ' ',
  ]
  const started = performance.now()
  let judged = 0
  for (const piece of pieces) {
    for (const end of ['', 'x', '\\', '%', '%252e', '/..', '?', '?#']) {
      for (const start of ['/', '/api/', '/api/%2525252541/', '/API/', '/api?']) {
        check(start + piece.repeat(16_384 / piece.length) + end)
        judged += 1
      }
    }
  }
  const each = (performance.now() - started) / judged
  t.ok(each < 50, `${each.toFixed(2)} ms each of ${judged}`)
})
