/** One `Set-Cookie` line, taken apart. */
export interface ParsedSetCookie {
  name: string
  value: string
  path: string | undefined
  domain: string | undefined
  maxAge: number | undefined
  expires: Date | undefined
  secure: boolean
  httpOnly: boolean
  sameSite: 'strict' | 'lax' | 'none' | undefined
  /** The line as it came. */
  raw: string
}

/** A `Set-Cookie` line that some answer held, and what became of it. */
export interface SeenSetCookie extends ParsedSetCookie {
  /** The URL whose answer held it. */
  url: string
  /** Why a browser would ignore it; undefined when it was taken. */
  refused: string | undefined
}

/** A cookie in the jar. */
export interface JarCookie extends ParsedSetCookie {
  host: string
  /** The path it is sent to, by default from the URL that set it. */
  path: string
}

/** Takes a `Set-Cookie` line apart as a browser does (RFC 6265bis §5.6). */
export function parseSetCookie(raw: string): ParsedSetCookie {
  const [pair = '', ...rest] = raw.split(';')
  const [name, value] = splitPair(pair)
  const attributes = new Map(rest.map(part => splitPair(part)).map(([key, text]) => [key.toLowerCase(), text]))
  const maxAge = attributes.get('max-age')
  const expires = new Date(attributes.get('expires') ?? '')
  const sameSite = attributes.get('samesite')?.toLowerCase()
  return {
    name,
    value,
    path: attributes.get('path')?.startsWith('/') ? attributes.get('path') : undefined,
    domain: attributes.get('domain')?.replace(/^\./, '').toLowerCase() || undefined,
    maxAge: maxAge !== undefined && /^-?\d+$/.test(maxAge) ? Number(maxAge) : undefined,
    expires: Number.isNaN(expires.getTime()) ? undefined : expires,
    secure: attributes.has('secure'),
    httpOnly: attributes.has('httponly'),
    sameSite: sameSite === 'strict' || sameSite === 'lax' || sameSite === 'none' ? sameSite : undefined,
    raw,
  }
}

function splitPair(text: string): [string, string] {
  const at = text.indexOf('=')
  return at < 0 ? [text.trim(), ''] : [text.slice(0, at).trim(), text.slice(at + 1).trim()]
}

/** Why a browser would not take this cookie from this URL; undefined when it would. Loopback counts as secure. */
export function refusal(cookie: ParsedSetCookie, url: URL): string | undefined {
  const prefix = /^__(?:host-http|host|secure|http)-/i.exec(cookie.name)?.[0].toLowerCase()
  if (cookie.name === '' && cookie.value === '') return 'empty'
  if (cookie.name.length + cookie.value.length > 4096) return 'longer than 4096 bytes'
  if (cookie.secure && !isSecure(url)) return 'Secure from an insecure origin'
  if (cookie.sameSite === 'none' && !cookie.secure) return 'SameSite=None without Secure'
  // On hosts without a registrable domain (localhost, addresses) Domain may only name the host itself.
  if (cookie.domain !== undefined && cookie.domain !== url.hostname) return 'a Domain that is not this host'
  if (prefix && !cookie.secure) return `${prefix} without Secure`
  if (prefix?.includes('http') && !cookie.httpOnly) return `${prefix} without HttpOnly`
  if (prefix?.includes('host') && (cookie.domain !== undefined || cookie.path !== '/')) {
    return `${prefix} with a Domain or another Path than /`
  }
  return undefined
}

/** Whether cookies marked Secure go there: https, or the loopback hosts that browsers trust. */
export function isSecure(url: URL): boolean {
  return url.protocol === 'https:' || isLoopback(url.hostname)
}

/** Whether a host is this machine by its name alone. */
export function isLoopback(hostname: string): boolean {
  return /^(?:(?:.+\.)?localhost|127(?:\.\d+){3}|\[::1\])$/.test(hostname)
}

/** Whether two URLs are of one site as Chromium sees it: ports do not matter, `x.localhost` is apart from `localhost`. */
export function sameSite(a: URL, b: URL): boolean {
  return a.protocol === b.protocol && siteOf(a.hostname) === siteOf(b.hostname)
}

const siteOf = (host: string) => (/^[\d.]+$|^\[/.test(host) ? host : host.split('.').slice(-2).join('.'))
