import { percentDecoded } from './percent.ts'

/** What a return URL is held against. */
export interface ReturnUrlRules {
  /** The gateway's own origin, e.g. `https://app.example`. */
  origin: string
  /** Other origins that the application is served from, to which an absolute URL may lead. */
  corsOrigins: readonly string[]
  /** Path prefixes that answer scripts, not people: the gateway's endpoints and the upstreams. */
  excludedPaths: readonly string[]
}

const maximumLength = 2048

/**
 * Where a browser may be sent after a login: a local path with query and fragment, or an absolute URL on an origin of the
 * list; or null.
 *
 * Checked before and after normalisation, because a parser takes `/.//evil.test` for a path on this origin whose
 * pathname, sent as `Location`, is the scheme-relative URL `//evil.test` (RFC 9700 §4.11).
 */
export function safeReturnUrl(value: string, rules: ReturnUrlRules): string | null {
  if (value.length > maximumLength) return null
  // Browsers drop tabs and line ends from URLs and read a backslash as a slash.
  if (hasControlCharacter(value) || value.includes('\\')) return null
  const other = rules.corsOrigins.find(origin => isOn(value, origin))
  if (other !== undefined) return absolute(value, other)
  if (!value.startsWith('/') || value.startsWith('//')) return null
  const url = parse(value, rules.origin)
  if (url === null || url.origin !== new URL(rules.origin).origin || url.pathname.startsWith('//')) return null
  // Whoever decodes it, as a static server does, may go on by what comes of that: `/%2f/evil.test` and `/.%2f/evil.test` lead away.
  const path = percentDecoded(url.pathname)
  const decoded = path === null || hasControlCharacter(path) ? null : parse(path, rules.origin)
  if (path === null || decoded?.origin !== url.origin || decoded.pathname.startsWith('//')) return null
  const readings = [path, decoded.pathname]
  if (rules.excludedPaths.some(excluded => readings.some(reading => isBelow(reading, excluded)))) return null
  return url.pathname + url.search + url.hash
}

/** Whether a path is the prefix itself or lies below it, on a segment boundary. The prefix `/` holds nothing back. */
export function isBelow(path: string, prefix: string): boolean {
  return prefix !== '/' && (path === prefix || path.startsWith(`${prefix}/`))
}

/** By text, before any parser is asked: no other spelling of the origin, and nothing that could hold another host. */
function isOn(value: string, origin: string): boolean {
  return value.startsWith(origin) && ['', '/', '?', '#'].includes(value.charAt(origin.length))
}

/** As it was parsed, so that the browser reads what was checked. */
function absolute(value: string, origin: string): string | null {
  const url = parse(value, origin)
  return url !== null && url.origin === origin && url.username === '' && url.password === '' ? url.href : null
}

/** Whether a text holds a control character (C0, DEL or C1). */
export function hasControlCharacter(value: string): boolean {
  for (let index = 0; index < value.length; index += 1) {
    const code = value.charCodeAt(index)
    if (code < 0x20 || (code >= 0x7f && code < 0xa0)) return true
  }
  return false
}

function parse(value: string, base: string): URL | null {
  return URL.canParse(value, base) ? new URL(value, base) : null
}
