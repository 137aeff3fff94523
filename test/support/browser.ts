import { sameSite } from './browser/cookies.ts'
import { type CookieJar, createJar } from './browser/jar.ts'
import { type BrowserResponse, type LiveResponse, send, sendLive } from './browser/wire.ts'
import { formOf } from './page-form.ts'

export { type JarCookie, type ParsedSetCookie, parseSetCookie, type SeenSetCookie } from './browser/cookies.ts'
export { type CookieJar, createJar } from './browser/jar.ts'
export { type BrowserResponse, type LiveResponse, type RawRequestOptions, rawRequest } from './browser/wire.ts'

/** Headers by name, or as pairs where spelling, order or repetition matters. */
export type HeaderInput = Record<string, string> | [string, string][]

/** One request. */
export interface RequestOptions {
  method?: string
  headers?: HeaderInput
  /** A form is sent urlencoded, an object as JSON. */
  body?: string | Uint8Array | URLSearchParams | object
  /** `manual` (default) returns the redirect; `follow` goes on like a script's fetch. */
  redirect?: 'manual' | 'follow'
  /** Exact `Cookie` lines instead of the jar's; an empty list sends none. */
  cookies?: string[]
}

/** The end of a navigation and all the answers on the way, the last included. */
export interface Navigation extends BrowserResponse {
  chain: BrowserResponse[]
}

/** How a navigation began. */
export interface NavigateOptions {
  method?: string
  body?: URLSearchParams
  headers?: HeaderInput
  /** URL of the page whose link or form it was; absent: typed into the address bar. */
  from?: string
  /** Stops before the redirect to a URL for which this holds; the answer with that redirect is then the last. */
  stopBefore?: (url: URL) => boolean
}

/** A browser without a screen: cookies, redirects and the headers that browsers add. */
export interface TestBrowser {
  readonly jar: CookieJar
  /** Sends what it is told and the jar's cookies, nothing else. Relative URLs go to the origin. */
  request(url: string, options?: RequestOptions): Promise<BrowserResponse>
  get(url: string, options?: Omit<RequestOptions, 'method'>): Promise<BrowserResponse>
  post(url: string, options?: Omit<RequestOptions, 'method'>): Promise<BrowserResponse>
  /** A fetch as the SPA at the origin makes it: `X-CSRF: 1`, `Origin` and `Sec-Fetch-*` like a browser's, then `options`. */
  api(url: string, options?: RequestOptions): Promise<BrowserResponse>
  /** An `api` GET whose answer is read while it comes, for event streams. */
  stream(url: string, options?: Pick<RequestOptions, 'headers' | 'cookies'>): Promise<LiveResponse>
  /** Opens a URL in the address bar and follows every redirect. */
  navigate(url: string, options?: NavigateOptions): Promise<Navigation>
  /** Submits the first form of a page with some fields filled in; it counts as coming from that page. */
  submit(page: BrowserResponse, fields?: Record<string, string>): Promise<Navigation>
}

/** A browser with an empty jar, for the SPA at this origin; expiry of cookies goes by the clock given. */
export function createBrowser(
  options: { origin?: string; jar?: CookieJar; clock?: { now(): number } } = {},
): TestBrowser {
  const { origin = 'http://localhost' } = options
  const jar = options.jar ?? createJar(options.clock)

  const exchange = async (
    url: URL,
    context: { method: string; crossSite: boolean; topLevel: boolean },
    { headers, body, cookies }: RequestOptions,
  ): Promise<BrowserResponse> => {
    const own = pairs(headers)
    const fromJar = jar.header(url, context)
    const lines = cookies ?? (fromJar === undefined ? [] : [fromJar])
    const [bytes, type] = encode(body)
    const typed: [string, string][] = type && !hasHeader(own, 'content-type') ? [['Content-Type', type]] : []
    const cookieHeaders = lines.map((line): [string, string] => ['Cookie', line])
    const response = await send(url, context.method, [...own, ...typed, ...cookieHeaders], bytes)
    jar.take(url, response.rawSetCookie)
    return response
  }

  const request: TestBrowser['request'] = async (target, init = {}) => {
    let url = new URL(target, origin)
    let { method = 'GET', body } = init
    for (let hop = 0; ; hop += 1) {
      const crossSite = !sameSite(new URL(origin), url)
      const { body: _, ...rest } = init
      const response = await exchange(
        url,
        { method, crossSite, topLevel: false },
        { ...rest, ...(body === undefined ? {} : { body }) },
      )
      const next = locationOf(response)
      if (init.redirect !== 'follow' || !next) return response
      if (hop === maxHops) throw new Error(`more than ${maxHops} redirects, the last to ${next.href}`)
      url = next
      if (!keepsMethod(response.status)) [method, body] = ['GET', undefined]
    }
  }

  const navigate: TestBrowser['navigate'] = async (target, init = {}) => {
    const chain: BrowserResponse[] = []
    let url = new URL(target, origin)
    let { method = 'GET', body } = init
    for (;;) {
      // By the page that began it: redirects on the way do not make a navigation cross-site, as in Chromium.
      const crossSite = init.from !== undefined && !sameSite(new URL(init.from), url)
      const headers = overridden(navigationHeaders(url, init.from, method), init.headers)
      const response = await exchange(
        url,
        { method, crossSite, topLevel: true },
        { headers, ...(body ? { body } : {}) },
      )
      chain.push(response)
      const next = locationOf(response)
      if (!next || init.stopBefore?.(next)) return { ...response, chain }
      if (chain.length > maxHops) throw new Error(`redirect loop: ${chain.map(hop => hop.url).join(' → ')}`)
      if (!keepsMethod(response.status)) [method, body] = ['GET', undefined]
      url = next
    }
  }

  return {
    jar,
    request,
    get: (url, init) => request(url, { ...init, method: 'GET' }),
    post: (url, init) => request(url, { ...init, method: 'POST' }),
    api: (url, init = {}) => {
      const defaults = fetchHeaders(new URL(url, origin), origin, init.method ?? 'GET')
      return request(url, { ...init, headers: overridden(defaults, init.headers) })
    },
    stream: async (url, { headers, cookies } = {}) => {
      const target = new URL(url, origin)
      const crossSite = !sameSite(new URL(origin), target)
      const fromJar = jar.header(target, { method: 'GET', crossSite, topLevel: false })
      const lines = cookies ?? (fromJar === undefined ? [] : [fromJar])
      const live = await sendLive(target, 'GET', [
        ...overridden(fetchHeaders(target, origin, 'GET'), headers),
        ...lines.map((line): [string, string] => ['Cookie', line]),
      ])
      jar.take(target, live.rawSetCookie)
      return live
    },
    navigate,
    submit: (page, fields = {}) => {
      const form = formOf(page.text)
      if (!form)
        throw new Error(`no form in the page of ${page.url} (status ${page.status}): ${page.text.slice(0, 300)}`)
      const action = new URL(form.action, page.url)
      for (const [name, value] of Object.entries(fields)) form.fields.set(name, value)
      if (form.method === 'POST') return navigate(action.href, { method: 'POST', body: form.fields, from: page.url })
      action.search = form.fields.toString()
      return navigate(action.href, { from: page.url })
    },
  }
}

const maxHops = 20

const keepsMethod = (status: number) => status === 307 || status === 308

const pairs = (headers: HeaderInput = {}): [string, string][] =>
  Array.isArray(headers) ? headers : Object.entries(headers)

/** The defaults without those that are given, then the given ones. */
function overridden(defaults: Record<string, string>, given?: HeaderInput): [string, string][] {
  const own = pairs(given)
  return [...Object.entries(defaults).filter(([name]) => !hasHeader(own, name.toLowerCase())), ...own]
}

const hasHeader = (headers: [string, string][], name: string) => headers.some(([key]) => key.toLowerCase() === name)

function locationOf({ status, headers, url }: BrowserResponse): URL | null {
  return [301, 302, 303, 307, 308].includes(status) && headers.location ? new URL(headers.location, url) : null
}

function encode(body: RequestOptions['body']): [string | Uint8Array | undefined, string | undefined] {
  if (body === undefined || typeof body === 'string' || body instanceof Uint8Array) return [body, undefined]
  if (body instanceof URLSearchParams) return [body.toString(), 'application/x-www-form-urlencoded']
  return [JSON.stringify(body), 'application/json']
}

function relation(from: URL, to: URL): string {
  if (from.origin === to.origin) return 'same-origin'
  return sameSite(from, to) ? 'same-site' : 'cross-site'
}

/** What the SPA's own fetch sends. Chromium leaves `Origin` out of same-origin GETs. */
function fetchHeaders(url: URL, origin: string, method: string): Record<string, string> {
  const site = relation(new URL(origin), url)
  const withOrigin = site !== 'same-origin' || (method !== 'GET' && method !== 'HEAD')
  return {
    Accept: 'application/json',
    'X-CSRF': '1',
    ...(withOrigin ? { Origin: origin } : {}),
    'Sec-Fetch-Site': site,
    'Sec-Fetch-Mode': 'cors',
    'Sec-Fetch-Dest': 'empty',
  }
}

function navigationHeaders(url: URL, from: string | undefined, method: string): Record<string, string> {
  const site = from === undefined ? 'none' : relation(new URL(from), url)
  return {
    Accept: 'text/html,application/xhtml+xml,*/*;q=0.8',
    'Sec-Fetch-Site': site,
    'Sec-Fetch-Mode': 'navigate',
    'Sec-Fetch-Dest': 'document',
    ...(from !== undefined && method === 'POST' ? { Origin: new URL(from).origin } : {}),
  }
}
