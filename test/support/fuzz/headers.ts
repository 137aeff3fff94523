import fc from 'fast-check'
import { forged } from './stage.ts'

/** Headers that say who asks, from where, or what for; only the gateway may say so to an upstream. */
const protectedNames = [
  ...['Authorization', 'Proxy-Authorization', 'DPoP', 'X-Access-Token', 'X-Id-Token', 'X-Auth-Request-Access-Token'],
  ...['Forwarded', 'X-Forwarded-For', 'X-Forwarded-Port', 'X-Forwarded-Prefix', 'X-Forwarded-Uri', 'X-Forwarded-User'],
  ...['X-Forwarded-Email', 'X-Forwarded-Groups', 'X-Forwarded-Access-Token', 'X-Forwarded-Server', 'X-Real-IP'],
  ...['X-Client-IP', 'True-Client-IP', 'CF-Connecting-IP', 'X-Original-URL', 'X-Rewrite-URL', 'X-Original-Method'],
  ...['X-User-Id', 'X-User', 'X-Username', 'X-UserId', 'X-Email', 'X-Roles', 'X-Groups', 'X-Auth-User', 'X-Claims'],
  ...['X-JWT', 'X-Tenant-Id', 'X-Remote-User', 'Remote-User', 'X-Gw-User', 'X-HTTP-Method-Override', 'Cookie2', 'Via'],
  ...['X-Envoy-External-Address', 'X-Amzn-Oidc-Data', 'X-Goog-Iap-Jwt-Assertion', 'X-Ms-Client-Principal'],
]

/** One header line of a client, as it is written. */
export interface Line {
  name: string
  value: string
}

const spelledName = fc
  .tuple(
    fc.constantFrom(...protectedNames),
    fc.array(fc.boolean(), { minLength: 30, maxLength: 30 }),
    fc.constantFrom('none', 'none', 'all', 'some'),
  )
  .map(([name, dice, underscores]) =>
    [...name]
      .map((character, at) => {
        const flip = dice[at % 30] ?? false
        if (character === '-') return underscores === 'all' || (underscores === 'some' && flip) ? '_' : '-'
        return flip ? character.toUpperCase() : character.toLowerCase()
      })
      .join(''),
  )

const value = fc.constantFrom(
  ...[
    forged,
    `${forged}, ${forged}`,
    `for=${forged};host=${forged}`,
    `Bearer ${forged}`,
    `"${forged}"`,
    `\t${forged} `,
  ],
  ...[
    `${forged}\xff\x80`,
    `${forged}\xc3\xbc`,
    `1.2.3.4, ${forged}`,
    `http://${forged}.test/`,
    `${forged}%0d%0aX-A: b`,
  ],
)

/** Lines that no upstream may see anything of. */
export const forgedLines: fc.Arbitrary<Line[]> = fc.array(fc.record({ name: spelledName, value }), {
  minLength: 1,
  maxLength: 6,
})

/** Lines that any upstream may see; each name but once. */
export const honestLines: fc.Arbitrary<Line[]> = fc.uniqueArray(
  fc.record({
    name: fc.constantFrom('X-Keep', 'X-Trace', 'If-Match', 'Accept-Language', 'X-Ratio', 'Range'),
    value: fc.constantFrom('v', 'a, b', '"etag"', 'x=\xff', 'a\tb', 'a  b'),
  }),
  { selector: ({ name }) => name, maxLength: 3 },
)

/** What `Connection` names: what the gateway adds, what it needs, and what the client may drop. */
export const nominations = fc.array(
  fc.constantFrom(
    ...['close', 'Authorization', 'x-forwarded-for', 'X-Forwarded-Host', 'x-gw-user', 'X-User-Id', 'cookie', 'host'],
    ...['X-Keep', 'x-csrf', 'content-length', '', 'x_gw_user', '"', 'transfer-encoding', 'x-forwarded-proto'],
  ),
  { maxLength: 4 },
)

/** What no header line may have in it; after each, the line says more than it seems to. */
export const breaks = fc.constantFrom('\0', '\r', '\n', '\r\r\n', '\n\n', '\x01', '\x7f', '\x0b', '\r\n ')

/** Spellings of a name that is to be found in a `Cookie` header; about half of the time it is that. */
function cookieName(name: string): fc.Arbitrary<string> {
  return fc.oneof(
    { weight: 5, arbitrary: fc.constant(name) },
    {
      weight: 6,
      arbitrary: fc.constantFrom(
        ...[name.toLowerCase(), name.toUpperCase(), `${name} `, `"${name}"`, ` ${name}`, `\t${name}`, `\xa0${name}`],
        ...[`x${name}`, `${name}2`, name.slice(0, -1), `__proto__`, '', 'a', `%5F${name.slice(1)}`, `$${name}`],
      ),
    },
  )
}

function cookieValue(token: string): fc.Arbitrary<string> {
  const bad = [token.slice(0, -1), `${token}A`, 'x'.repeat(4000), '%00', `"${token}"`, `${token},`, `${token} `, '']
  return fc.oneof(
    { weight: 5, arbitrary: fc.constant(token) },
    {
      weight: 5,
      arbitrary: fc.constantFrom(
        ...[...bad, ` ${token}`, '\xff\xfe', '__proto__', '{}', '*', '../..', '%0d%0a', `${token};`, `${token}; x`],
        ...[token.replace(/./, '%$&'), token.toLowerCase(), `${token}=`, `${token}\t`],
      ),
    },
  )
}

/** `Cookie` lines around one cookie of this name and value. */
export function cookieLines(name: string, token: string): fc.Arbitrary<string[]> {
  const pair = fc.tuple(cookieName(name), cookieValue(token)).map(([left, right]) => `${left}=${right}`)
  const noise = fc.constantFrom('a=b', 'a', '=', ';', '=b', 'theme=dark', 'x=;', '\xe9=1', 'a==b')
  const line = fc
    .tuple(
      fc.array(fc.oneof({ weight: 2, arbitrary: pair }, { weight: 1, arbitrary: noise }), {
        minLength: 1,
        maxLength: 3,
      }),
      fc.constantFrom('; ', '; ', ';', ', ', ' ;  '),
      fc.constantFrom(0, 0, 0, 0, 150),
    )
    .map(([parts, between, more]) => [...parts, ...Array.from({ length: more }, (_, at) => `f${at}=1`)].join(between))
  return fc.array(line, { minLength: 1, maxLength: 2 })
}

/** The one value of a name, by the rule as it is documented: exactly once, to the letter; two lines are one (RFC 6265 §5.4). */
export function onlyValue(lines: readonly string[], name: string): string | null {
  const values: string[] = []
  const header = lines.map(line => line.replace(/^[\t ]+|[\t ]+$/g, '')).join('; ')
  for (const pair of header.split(';')) {
    const bare = pair.replace(/^ +/, '')
    if (bare.startsWith(`${name}=`)) values.push(bare.slice(name.length + 1))
  }
  return values.length === 1 ? (values[0] ?? null) : null
}

/** What a browser, or somebody who is none, says of where a request comes from. */
export function provenance(own: string): fc.Arbitrary<{ origins: string[]; sites: string[]; csrf: string[] }> {
  const { host, hostname, port } = new URL(own)
  const origins = [
    ...[
      own,
      own,
      own,
      'null',
      '',
      `https://${host}`,
      `http://${hostname}`,
      `http://sibling.${host}`,
      `${own}.evil.test`,
    ],
    ...[
      `http://evil${host}`,
      own.toUpperCase(),
      `http://${hostname}.:${port}`,
      `${own}/`,
      `${own} ${own}`,
      `${own}, ${own}`,
    ],
    ...[`http://user@${host}`, `http://${host}:1`, `${own}#`, `${own}\\`, `\xa0${own}`, '*', `file://${host}`],
  ]
  const sites = ['same-origin', 'same-origin', 'same-site', 'cross-site', 'none', '', 'Same-Origin', 'same-origin, x']
  const some = (values: string[]) => fc.array(fc.constantFrom(...values), { maxLength: 1 })
  const more = (values: string[]) =>
    fc.oneof(
      { weight: 9, arbitrary: some(values) },
      { weight: 1, arbitrary: fc.array(fc.constantFrom(...values), { maxLength: 3 }) },
    )
  return fc.record({
    origins: more(origins),
    sites: more(sites),
    csrf: more(['1', '1', '1', '1', '0', '', '2', '1, 1', 'true']),
  })
}
