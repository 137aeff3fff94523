/** Where an upstream is, and under which path of the gateway. */
export interface Place {
  path: string
  url: URL
}

/** Where the redirects of an upstream may lead. */
export interface RedirectRules {
  /** The upstream that answers. */
  upstream: Place
  /** All that the gateway stands before: where they are is nobody's business. */
  upstreams: readonly Place[]
  /** The application's own origins, and those that the operator allows. */
  origins: readonly string[]
}

/**
 * What to tell a browser of an upstream's `Location`: the gateway's path for an address of an upstream, an allowed address
 * as it is, or null for one that must not be told: it leads to where nobody said that this application leads, or is the
 * inside of the network.
 *
 * @param location the header, relative to the request (RFC 9110 §10.2.2)
 * @param target what the upstream was asked for: path and query
 */
export function redirectFor(
  location: string,
  target: string,
  { upstream, upstreams, origins }: RedirectRules,
): string | null {
  const asked = upstream.url.origin + target
  const url = URL.canParse(location, asked) ? new URL(location, asked) : null
  // The origin of `blob:https://app.test/x` is that of the application, too.
  if (url === null || !/^https?:$/.test(url.protocol) || url.username || url.password) return null
  for (const place of [upstream, ...upstreams]) {
    const path = url.origin === place.url.origin ? pathAt(place, url.pathname) : null
    // Two slashes would be the name of another host.
    if (path !== null) return path.startsWith('//') ? null : path + url.search + url.hash
  }
  return origins.includes(url.origin) ? url.href : null
}

/** The gateway's path for one of an upstream, or null when the gateway does not lead there. */
function pathAt({ path, url }: Place, at: string): string | null {
  const base = basePath(url)
  if (at !== base && !at.startsWith(`${base}/`)) return null
  return (path === '/' ? '' : path) + at.slice(base.length) || '/'
}

/** The path of an upstream's URL without a slash at its end; empty for the root. */
export function basePath(url: URL): string {
  return url.pathname.replace(/\/+$/, '')
}
