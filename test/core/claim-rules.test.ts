import fc from 'fast-check'
import { test } from 'tap'
import {
  type ClaimRule,
  claimHeaderValues,
  claimsNamed,
  parseClaimHeaders,
  parseClaimRules,
  satisfies,
} from '../../src/core/claim-rules.ts'
import type { Claims } from '../../src/core/session.ts'

function rules(text: string): readonly ClaimRule[] {
  const parsed = parseClaimRules(text)
  if (typeof parsed === 'string') throw new Error(parsed)
  return parsed
}

function told(text: string, claims: Claims): Record<string, string> {
  const parsed = parseClaimHeaders(text)
  if (typeof parsed === 'string') throw new Error(parsed)
  return claimHeaderValues(claims, parsed)
}

test('rules are read as they are documented', async t => {
  const cases: [text: string, rules: [path: string[], values: string[]][]][] = [
    ['', []],
    ['  ', []],
    ['roles=admin', [[['roles'], ['admin']]]],
    [
      'roles=admin,editor; acr=urn:mfa; realm_access.roles=ops',
      [
        [['roles'], ['admin', 'editor']],
        [['acr'], ['urn:mfa']],
        [['realm_access', 'roles'], ['ops']],
      ],
    ],
    [' roles = admin , Domain Admins ', [[['roles'], ['admin', 'Domain Admins']]]],
    ['"https://app.example/roles"=admin', [[['https://app.example/roles'], ['admin']]]],
    ['realm_access."my.role"=x', [[['realm_access', 'my.role'], ['x']]]],
    [
      ' "a;b" . c = "x,y" , "say \\"hi\\" \\\\" ; d=1.5',
      [
        [
          ['a;b', 'c'],
          ['x,y', 'say "hi" \\'],
        ],
        [['d'], ['1.5']],
      ],
    ],
    ['group=DOMAIN\\users', [[['group'], ['DOMAIN\\users']]]],
    ['nick=""', [[['nick'], ['']]]],
  ]
  for (const [text, expected] of cases)
    t.same(
      parseClaimRules(text),
      expected.map(([path, values]) => ({ path, values })),
      text,
    )
})

// A rule that is read as less than was meant lets in who should stay out.
test('what is no rule is a fault that tells where, and not what', async t => {
  const cases: [string, RegExp][] = [
    ['roles', /character 6: = is missing/],
    ['=admin', /character 1: the name of a claim/],
    ['roles=', /character 7: a value/],
    ['roles=admin,', /character 13: a value/],
    ['roles=,admin', /a value/],
    ['roles=admin;', /character 13: the name of a claim/],
    ['roles=admin;;acr=x', /the name of a claim/],
    [';', /the name of a claim/],
    ['.roles=x', /the name of a claim/],
    ['a..b=x', /the name of a claim/],
    ['a.=x', /the name of a claim/],
    ['a=b=c', /something else/],
    ['a=b"c"', /something else/],
    ['a="b" c', /something else/],
    ['a="b', /a value/],
    ['a="b\\n"', /a value/],
    ['"a" b=c', /= is missing/],
    ['a,b=c', /= is missing/],
  ]
  for (const [text, fault] of cases) {
    const parsed = parseClaimRules(text)
    t.match(parsed, fault, text)
  }
  t.notMatch(parseClaimRules('canary=a=b'), 'canary')
})

test('a rule holds for the claim itself or an element of a list', async t => {
  const claims: Claims = {
    roles: ['reader', 'editor'],
    acr: 'urn:mfa',
    level: 2,
    staff: true,
    scope: 'openid admin',
    realm_access: { roles: ['ops'], 'my.role': 'x' },
    mixed: [null, { admin: 'admin' }, ['admin'], 7],
    nothing: null,
  }
  const holds = [
    '',
    'roles=admin,editor',
    'roles=reader; roles=editor',
    'acr=urn:mfa; realm_access.roles=ops',
    'realm_access."my.role"=x',
    'level=2',
    'staff=true',
    'mixed=7',
    'scope="openid admin"',
  ]
  for (const text of holds) t.equal(satisfies(claims, rules(text)), true, text)
  const fails = [
    'roles=admin',
    'roles=Editor',
    'roles="reader,editor"',
    'roles=editor; acr=urn:none',
    'scope=admin',
    'realm_access=ops',
    'realm_access.roles.0=ops',
    'roles.length=2',
    'acr.length=7',
    'mixed=admin',
    'mixed=null',
    'nothing=null',
    'missing=undefined',
    'level=2.0',
  ]
  for (const text of fails) t.equal(satisfies(claims, rules(text)), false, text)
})

// JSON may carry members named as those that every object inherits.
test('nothing that an object inherits counts as a claim', async t => {
  Object.defineProperty(Object.prototype, 'planted', { value: 'admin', configurable: true })
  t.teardown(() => Reflect.deleteProperty(Object.prototype, 'planted'))
  t.equal(satisfies({}, rules('planted=admin')), false)
  t.equal(satisfies({ a: {} }, rules('a.planted=admin')), false)
  t.equal(satisfies({}, rules('constructor.name=Object')), false)
  t.equal(satisfies({}, rules('__proto__.planted=admin')), false)
  t.equal(satisfies(JSON.parse('{"__proto__":{"planted":"admin"}}'), rules('__proto__.planted=admin')), true, 'its own')
})

test('claim headers are read as they are documented', async t => {
  t.same(parseClaimHeaders(''), [])
  t.same(parseClaimHeaders(' X-User = sub , X-Roles=realm_access.roles,x-app="https://a/b,c"."d"'), [
    { name: 'x-user', path: ['sub'] },
    { name: 'x-roles', path: ['realm_access', 'roles'] },
    { name: 'x-app', path: ['https://a/b,c', 'd'] },
  ])
  const faults: [string, RegExp][] = [
    ['X-User', /= is missing/],
    ['X-User=', /the name of a claim/],
    ['=sub', /the name of a header/],
    ['X User=sub', /the name of a header/],
    ['"X:User"=sub', /the name of a header/],
    ['X-Üser=sub', /the name of a header/],
    ['X-User=sub,', /the name of a header/],
    ['X-User=sub;X-Name=name', /something else/],
    ['X-User=sub, x-user=name', /named before/],
    ['X-User=sub, X_User=name', /named before/],
  ]
  for (const [text, fault] of faults) t.match(parseClaimHeaders(text), fault, text)
})

// A name in a claim is the user's to choose at many providers: it must not become the length of a body or a token.
test('no claim speaks for a header that has a meaning of its own', async t => {
  const names = [
    'Connection',
    'Keep-Alive',
    'Proxy-Connection',
    'TE',
    'Trailer',
    'Transfer-Encoding',
    'Transfer_Encoding',
    'Upgrade',
    'Expect',
    'Host',
    'Content-Length',
    'Content-Type',
    'Cookie',
    'Cookie2',
    'Set-Cookie',
    'Authorization',
    'Proxy-Authorization',
    'DPoP',
    'Forwarded',
    'Via',
    'X-Forwarded-For',
    'X-Forwarded-User',
    'X_Forwarded_Host',
    'X-Real-IP',
    'X-Original-URL',
    'X-HTTP-Method-Override',
    'X-CSRF',
    'X-Activity',
    'Origin',
    'Sec-Fetch-Site',
    '__proto__',
  ]
  for (const name of names) t.match(parseClaimHeaders(`${name}=sub`), /a meaning of its own/, name)
  for (const name of ['X-User', 'Remote-User', 'X-Auth-Request-Email', 'Tenant'])
    t.type(parseClaimHeaders(`${name}=sub`), Array)
})

test('a header tells a claim of any kind, and nothing where there is none', async t => {
  const claims: Claims = {
    sub: 'a1',
    level: 2,
    staff: false,
    roles: ['reader', 'a,b', 'ü', ' c '],
    none: [],
    empty: '',
    nothing: null,
    address: { city: 'Zürich', zip: 8000 },
    many: [{ a: 1 }, 2],
    name: ' Jürgen 100% ',
    long: 'x'.repeat(4097),
    longest: 'x'.repeat(4096),
  }
  const text = [...Object.keys(claims), 'missing'].map(name => `h-${name}=${name}`).join(',')
  t.same(told(text, claims), {
    'h-sub': 'a1',
    'h-level': '2',
    'h-staff': 'false',
    'h-roles': 'reader,a%2Cb,%C3%BC,%20c%20',
    'h-address': '{"city":"Z%C3%BCrich","zip":8000}',
    'h-many': '[{"a":1},2]',
    'h-name': '%20J%C3%BCrgen 100%25%20',
    'h-longest': 'x'.repeat(4096),
  })
  t.same(told('h=address.city, i=address.constructor', claims), { h: 'Z%C3%BCrich' })
})

// A display name with a line end in it would begin a header of its own: X-Roles: admin.
test('no claim leaves its header, and each can be had back', async t => {
  t.same(told('h=a', { a: 'x\r\nX-Roles: admin\u2028\u0000\u007f\t' }), {
    h: 'x%0D%0AX-Roles: admin%E2%80%A8%00%7F%09',
  })
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 60 }), value => {
      const header = told('h=a', { a: value }).h ?? ''
      return /^([!-~]([ -~]*[!-~])?)?$/.test(header) && decodeURIComponent(header) === value
    }),
  )
  fc.assert(
    fc.property(fc.array(fc.string({ unit: 'binary', minLength: 1, maxLength: 9 }), { minLength: 1 }), values => {
      const header = told('h=a', { a: values }).h ?? ''
      t.same(header.split(',').map(decodeURIComponent), values)
    }),
  )
  t.same(told('h=a', { a: '\ud800' }), { h: '%EF%BF%BD' }, 'half a character is replaced')
})

test('the claims that are needed are named once, by their outermost name', async t => {
  const headers = parseClaimHeaders('X-User=sub, X-Ops=realm_access.ops')
  t.same(claimsNamed(rules('realm_access.roles=a; "a.b".c=d'), headers as []), ['realm_access', 'a.b', 'sub'])
  t.same(claimsNamed([], []), [])
})
