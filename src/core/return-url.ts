/** What a return URL is held against. */
export interface ReturnUrlRules {
  /** The gateway's own origin, e.g. `https://app.example`. */
  origin: string
  /** Path prefixes that answer scripts, not people: the gateway's endpoints and the upstreams. */
  excludedPaths: readonly string[]
}

const maximumLength = 2048

/**
 * The local path, query and fragment to which a browser may be sent after a login, or null.
 *
 * Checked before and after normalisation, because a parser takes `/.//evil.test` for a path on this origin whose
 * pathname, sent as `Location`, is the scheme-relative URL `//evil.test` (RFC 9700 §4.11).
 */
export function safeReturnUrl(value: string, rules: ReturnUrlRules): string | null {
  if (value.length > maximumLength) return null
  // Browsers drop tabs and line ends from URLs and read a backslash as a slash.
  if (hasControlCharacter(value) || value.includes('\\')) return null
  if (!value.startsWith('/') || value.startsWith('//')) return null
  const url = parse(value, rules.origin)
  if (url === null || url.origin !== new URL(rules.origin).origin || url.pathname.startsWith('//')) return null
  const path = decode(url.pathname)
  if (path === null || rules.excludedPaths.some(excluded => isBelow(path, excluded))) return null
  return url.pathname + url.search + url.hash
}

/** Whether a path is the prefix itself or lies below it, on a segment boundary. The prefix `/` holds nothing back. */
export function isBelow(path: string, prefix: string): boolean {
  return prefix !== '/' && (path === prefix || path.startsWith(`${prefix}/`))
}

function hasControlCharacter(value: string): boolean {
  for (let index = 0; index < value.length; index += 1) {
    const code = value.charCodeAt(index)
    if (code < 0x20 || (code >= 0x7f && code < 0xa0)) return true
  }
  return false
}

function parse(value: string, base: string): URL | null {
  return URL.canParse(value, base) ? new URL(value, base) : null
}

function decode(path: string): string | null {
  try {
    return decodeURIComponent(path)
  } catch {
    return null
  }
}
