import fc from 'fast-check'
import { type Prefix, prefixes, routes } from './stage.ts'

/** What servers and proxies are known to make of a path, each step without regard to how the gateway judges it. */
const steps: ((path: string) => string)[] = [
  // Percent-decoding, of single bytes and of UTF-8, overlong forms of ASCII included.
  path =>
    Buffer.from(
      path
        .replace(/%c0%([89ab][0-9a-f])/gi, (_, low: string) => String.fromCharCode(Number.parseInt(low, 16) & 0x3f))
        .replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
      'latin1',
    ).toString(),
  path => path.replaceAll(/;[^/]*/g, ''),
  path => path.replaceAll(/\/{2,}/g, '/'),
  path => path.replaceAll('\\', '/'),
  path => path.toLowerCase(),
  path => path.replaceAll(/[. ]+(?=\/|$)/g, ''),
  path => path.split(/[?#\0]/, 1)[0] ?? '',
  path => {
    const kept: string[] = []
    for (const segment of path.split('/').slice(1)) {
      if (segment === '..') kept.pop()
      else if (segment !== '.') kept.push(segment)
    }
    return `/${kept.join('/')}`
  },
]

/** Every reading of a path that some servers, one behind the other, come to. */
export function readingsOf(path: string): Set<string> {
  const readings = new Set([path])
  let fresh = [path]
  for (let depth = 0; depth < 5 && fresh.length > 0 && readings.size < 500; depth += 1) {
    const found = fresh.flatMap(reading => steps.map(step => step(reading))).filter(reading => !readings.has(reading))
    fresh = [...new Set(found)]
    for (const reading of fresh) readings.add(reading)
  }
  return readings
}

/** Whose a path is, as it stands: the longest prefix that ends where a segment does. */
export function routeOf(path: string): Prefix | '/bff' | undefined {
  return [...prefixes, '/bff' as const]
    .filter(prefix => path === prefix || path.startsWith(`${prefix}/`))
    .sort((one, other) => other.length - one.length)[0]
}

/** The target that an upstream must see for a client's. */
export function targetAt(prefix: Prefix, target: string): string {
  const { base } = routes[prefix]
  const rest = target.slice(prefix.length)
  return rest.startsWith('/') ? base + rest : `${base || '/'}${rest}`
}

const segment = fc.constantFrom(
  ...['a', 'x', 'items', '.', '..', '..;', '...', '', 'api', 'admin', 'Admin', 'ADMIN', 'bff', 'open', 'maybe', 'v1'],
  ...[';v=1', 'a;b', '?q', '#f', '%2e%2e', '%00', '%0d%0aX-Injected:y', '%c0%ae%c0%ae', '%ff', '%u002e', 'ü', ' ', '"'],
)
const joint = fc.constantFrom('/', '/', '/', '/', '//', '\\', '%2f', '%2F', '%5c', '%252f', ';', '?', '%3f', '%23', '.')

const overlong = (character: string) => {
  const code = character.charCodeAt(0)
  return `%${(0xc0 | (code >> 6)).toString(16)}%${(0x80 | (code & 0x3f)).toString(16)}`
}

/** A character as it is, encoded, encoded twice, or overlong; mostly as it is, or next to nothing would be accepted. */
function spell(character: string, how: number): string {
  const hex = `%${character.charCodeAt(0).toString(16).padStart(2, '0').slice(0, 2)}`
  if (how < 90) return character
  if (how < 95) return hex
  return how < 98 ? hex.replace('%', '%25') : overlong(character)
}

const wild = fc
  .tuple(
    fc.constantFrom('', ...prefixes, ...prefixes, '/bff'),
    fc.array(fc.tuple(joint, segment), { maxLength: 5 }),
    fc.array(fc.nat(99), { minLength: 40, maxLength: 40 }),
  )
  .map(
    ([prefix, parts, dice]) =>
      prefix + [...parts.flat().join('')].map((c, at) => spell(c, dice[at % 40] ?? 0)).join(''),
  )

const tame = fc
  .tuple(
    fc.constantFrom(...prefixes),
    fc.array(fc.constantFrom('a', 'admin1', 'x.y', 'a%2Fb', '%C3%BC', 'v;w=1', '100%25', '@me', 'administrators'), {
      minLength: 1,
      maxLength: 4,
    }),
    fc.constantFrom('', '', '?', '?x=1&x=2&q=a+b%20c;d', '?u=//evil/../x', '?%00\\'),
  )
  .map(([prefix, parts, query]) => `${prefix}/${parts.join('/')}${query}`)

/** Request targets, about half of them sound; `evil` is an authority that must not be asked. */
export function targets(evil: string): fc.Arbitrary<string> {
  const foreign = fc
    .tuple(
      fc.constantFrom('', 'http:', 'https:', '/api/', '/api', '/open', '/open/', 'file:', '/', '/maybe/@', '/api/..'),
      fc.constantFrom('//', '/\\', '\\\\', '///', '@', '/@', 'http://', '/http://', ':', '/%2f', '/%5c', ''),
      fc.constantFrom('', 'user@', 'localhost@', 'localhost:80@', 'localhost#@', 'localhost\\@'),
      fc.constantFrom('', '/', '/api/x', '/api/admin', '?/api', '#/api'),
    )
    .map(([start, slashes, user, end]) => start + slashes + user + evil + end)
  return fc.oneof({ weight: 5, arbitrary: wild }, { weight: 4, arbitrary: tame }, { weight: 2, arbitrary: foreign })
}
