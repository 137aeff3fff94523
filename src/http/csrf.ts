import type { IncomingHttpHeaders } from 'node:http'

/** How a route makes sure that a request comes from the application itself, or from a person who navigates. */
export type CsrfRule = 'none' | 'header' | 'fetch-metadata' | 'navigation' | 'no-prefetch' | 'websocket'

/** The rules, judged on headers alone: no side effect and no store command comes before them. */
export interface Csrf {
  /** Why a request fails a rule, or null. */
  refusal(rule: CsrfRule, headers: IncomingHttpHeaders): string | null
}

/** `origin` is the application's own; `corsOrigins` are others of the same site that it is served from, too. */
export function createCsrf({ origin: own, corsOrigins }: { origin: string; corsOrigins: readonly string[] }): Csrf {
  /** What the browser says of itself, when it does, must agree (OAuth 2.0 for Browser-Based Applications §6.1.3.3). */
  const stranger = ({ origin, 'sec-fetch-site': site }: IncomingHttpHeaders): string | null => {
    const other = origin !== undefined && corsOrigins.includes(origin)
    if (origin !== undefined && origin !== own && !other) return 'the Origin is not that of the application'
    if (site === undefined || site === 'same-origin' || (site === 'same-site' && other)) return null
    return 'the request does not come from the same origin'
  }

  const rules: Record<CsrfRule, (headers: IncomingHttpHeaders) => string | null> = {
    none: () => null,
    /** A custom header makes the browser ask first (preflight), and only origins that are the application's get a yes. */
    header: headers => (headers['x-csrf'] === '1' ? stranger(headers) : 'the header X-CSRF: 1 is missing'),
    /** For what cannot send a header (event streams, images): the browser's own word that the request is the application's. */
    'fetch-metadata': headers =>
      headers.origin === undefined && headers['sec-fetch-site'] === undefined
        ? 'neither Origin nor Sec-Fetch-Site says who asks'
        : stranger(headers),
    navigation,
    'no-prefetch': prefetch,
    /** No preflight comes before an upgrade, and it carries the cookie: the Origin is all there is (RFC 6455 §10.2). */
    websocket: headers =>
      headers.origin === undefined ? 'a websocket needs the Origin of the application' : stranger(headers),
  }
  return { refusal: (rule, headers) => rules[rule](headers) }
}

/** A link that is only looked at ahead must not act. */
function prefetch(headers: IncomingHttpHeaders): string | null {
  const prefetched = headers['sec-purpose'] !== undefined || headers.purpose === 'prefetch'
  return prefetched ? 'the page is only being prefetched' : null
}

/** Only a person who goes there: no frame, no image, no prefetch (OWASP ASVS 3.5.1, 7.6.2). */
function navigation(headers: IncomingHttpHeaders): string | null {
  const prefetched = prefetch(headers)
  if (prefetched !== null) return prefetched
  const { 'sec-fetch-mode': mode, 'sec-fetch-dest': destination } = headers
  if (mode !== undefined && mode !== 'navigate') return 'the request is not a navigation'
  if (destination !== undefined && destination !== 'document') return 'the request is not a top-level navigation'
  return null
}
