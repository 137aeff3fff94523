import { isSecure, type JarCookie, parseSetCookie, refusal, type SeenSetCookie } from './cookies.ts'

/** How a request came about, as far as SameSite cares. */
export interface RequestContext {
  method: string
  /** The request was caused by a page of another site. */
  crossSite: boolean
  /** It goes to the address bar, not to a script. */
  topLevel: boolean
}

/** A browser's cookies, kept by host as browsers do: all ports of a host share them. */
export interface CookieJar {
  /** The value of a cookie at a host (`localhost` unless told), whatever its path; undefined when there is none. */
  get(name: string, host?: string): string | undefined
  /** Puts a cookie there, with Path=/ unless told otherwise. */
  set(name: string, value: string, attributes?: Partial<JarCookie>): void
  delete(name: string, host?: string): void
  /** An independent copy, `seen` included. */
  clone(): CookieJar
  /** All cookies not expired. */
  list(): JarCookie[]
  /** Every `Set-Cookie` line ever received, refused ones included. */
  readonly seen: SeenSetCookie[]
  /** Takes the `Set-Cookie` lines of an answer. */
  take(url: URL, lines: string[]): void
  /** The `Cookie` header for a request; undefined when it has none. */
  header(url: URL, context: RequestContext): string | undefined
}

interface Kept extends JarCookie {
  expiresAtMs: number
}

/** An empty jar; expiry goes by the clock given. */
export function createJar(clock: { now(): number } = Date, start: Kept[] = [], seen: SeenSetCookie[] = []): CookieJar {
  let cookies = start
  const at = (name: string, host: string) => cookies.filter(cookie => cookie.name === name && cookie.host === host)
  const alive = () => cookies.filter(cookie => cookie.expiresAtMs > clock.now())

  const put = (cookie: Kept) => {
    const { name, host, path } = cookie
    const place = cookies.findIndex(old => old.name === name && old.host === host && old.path === path)
    if (place < 0) cookies.push(cookie)
    else cookies.splice(place, 1, cookie)
    cookies = alive()
  }
  const expiryOf = ({ maxAge, expires }: { maxAge?: number | undefined; expires?: Date | undefined }) =>
    maxAge === undefined ? (expires?.getTime() ?? Number.POSITIVE_INFINITY) : clock.now() + maxAge * 1000

  return {
    seen,
    get: (name, host = 'localhost') => at(name, host).find(cookie => cookie.expiresAtMs > clock.now())?.value,
    set: (name, value, attributes = {}) => {
      const cookie = { ...parseSetCookie(`${name}=${value}`), value, host: 'localhost', path: '/', ...attributes }
      put({ ...cookie, expiresAtMs: expiryOf(cookie) })
    },
    delete: (name, host = 'localhost') => {
      cookies = cookies.filter(cookie => !at(name, host).includes(cookie))
    },
    clone: () => createJar(clock, structuredClone(cookies), structuredClone(seen)),
    list: () => alive().map(({ expiresAtMs: _, ...cookie }) => cookie),
    take: (url, lines) => {
      for (const line of lines) {
        const parsed = parseSetCookie(line)
        const refused = refusal(parsed, url)
        seen.push({ ...parsed, url: url.href, refused })
        if (refused) continue
        const path = parsed.path ?? defaultPath(url.pathname)
        put({ ...parsed, host: url.hostname, path, expiresAtMs: expiryOf(parsed) })
      }
    },
    header: (url, context) => {
      const sent = alive()
        .filter(cookie => cookie.host === url.hostname && pathMatches(cookie.path, url.pathname))
        .filter(cookie => (!cookie.secure || isSecure(url)) && siteAllows(cookie, context))
        .sort((a, b) => b.path.length - a.path.length)
      return sent.length === 0 ? undefined : sent.map(({ name, value }) => `${name}=${value}`).join('; ')
    },
  }
}

function siteAllows({ sameSite = 'lax' }: JarCookie, { method, crossSite, topLevel }: RequestContext): boolean {
  if (!crossSite || sameSite === 'none') return true
  return sameSite === 'lax' && topLevel && (method === 'GET' || method === 'HEAD')
}

const defaultPath = (path: string) => path.slice(0, path.lastIndexOf('/')) || '/'

function pathMatches(cookiePath: string, path: string): boolean {
  if (cookiePath === path) return true
  return path.startsWith(cookiePath) && (cookiePath.endsWith('/') || path[cookiePath.length] === '/')
}
