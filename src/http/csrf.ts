import type { IncomingHttpHeaders } from 'node:http'

/** How a route makes sure that a request comes from the application itself, or from a person who navigates. */
export type CsrfRule = 'none' | 'header' | 'fetch-metadata' | 'websocket' | 'navigation' | 'no-prefetch'

/** The rules, judged on headers alone: no side effect and no store command comes before them. */
export interface Csrf {
  /** Why a request fails a rule, or null. */
  refusal(rule: CsrfRule, headers: IncomingHttpHeaders): string | null
}

export function createCsrf(options: { origin: string }): Csrf {
  /**
   * A custom header makes the browser ask first (preflight), and the gateway never says yes to another origin; what the
   * browser says of itself, when it does, must agree (OAuth 2.0 for Browser-Based Applications §6.1.3.3).
   */
  const header = (headers: IncomingHttpHeaders): string | null => {
    if (headers['x-csrf'] !== '1') return 'the header X-CSRF: 1 is missing'
    if (headers.origin !== undefined && headers.origin !== options.origin)
      return 'the Origin is not that of the application'
    const site = headers['sec-fetch-site']
    if (site !== undefined && site !== 'same-origin') return 'the request does not come from the same origin'
    return null
  }

  /** For what cannot send a header (event streams, images): the browser's own word that the request is the application's. */
  const fetchMetadata = (headers: IncomingHttpHeaders): string | null => {
    const { origin, 'sec-fetch-site': site } = headers
    if (origin !== undefined && origin !== options.origin) return 'the Origin is not that of the application'
    if (site !== undefined && site !== 'same-origin') return 'the request does not come from the same origin'
    return origin === undefined && site === undefined ? 'neither Origin nor Sec-Fetch-Site says who asks' : null
  }

  /** A browser always names the page that opens a websocket, and no preflight comes before it (RFC 6455 §10.2). */
  const websocket = (headers: IncomingHttpHeaders): string | null =>
    headers.origin === options.origin ? fetchMetadata(headers) : 'the Origin is not that of the application'

  const rules: Record<CsrfRule, (headers: IncomingHttpHeaders) => string | null> = {
    none: () => null,
    header,
    'fetch-metadata': fetchMetadata,
    websocket,
    navigation,
    'no-prefetch': prefetch,
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
