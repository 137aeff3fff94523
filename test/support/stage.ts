import type { Test } from 'tap'
import { type CookieJar, createJar } from './browser/jar.ts'
import { type BrowserResponse, createBrowser, type Navigation, type TestBrowser } from './browser.ts'
import { createClock, type ManualClock } from './clock.ts'
import { eventually } from './eventually.ts'
import { type GatewayOptions, startGateway, type TestGateway } from './gateway.ts'
import { login, throughProvider } from './login.ts'
import { withoutHint } from './logout-hint.ts'
import { type ProviderOptions, type ProviderRequest, startProvider, type TestProvider } from './provider.ts'
import { startRedis, type TestRedis } from './redis.ts'
import { type Evil, startEvil, startUpstream, type TestUpstream } from './upstream.ts'

/** The gateway's cookies under their default names. */
export const sessionCookie = '__Host-coatcheck'
export const bindingPrefix = '__Host-coatcheck-login-'

/** How a stage is set up. */
export interface StageOptions {
  /** Further environment of the gateway. */
  env?: Record<string, string>
  provider?: ProviderOptions
  /** Sessions live in the gateway's memory and go by the stage's clock. Redis runs all the same, empty. */
  memory?: boolean
  /** Bounds of the gateway's calls to the provider. */
  providerLimits?: GatewayOptions['providerLimits']
  /** Folder in which Redis keeps its data through a restart. */
  redisDir?: string
}

/** What a stage needs of a provider. */
export type StageProvider = Pick<
  TestProvider,
  'issuer' | 'clientSecret' | 'issued' | 'errors' | 'autoLogin' | 'env' | 'close'
> & { tokenCalls(): ProviderRequest[] }

/** A gateway with everything around it, and an eye on what must never happen. */
export interface Stage<P extends StageProvider = TestProvider> {
  readonly clock: ManualClock
  readonly provider: P
  readonly redis: TestRedis
  /** Behind `/api`. */
  readonly upstream: TestUpstream
  readonly evil: Evil
  readonly gateway: TestGateway
  /** A browser of its own; every answer that it gets from the gateway is looked at when the subtest is over. */
  browser(jar?: CookieJar): TestBrowser
  /** A browser in which this user has logged in. */
  loggedIn(user: string): Promise<TestBrowser>
  /** Logs in at the provider and stops at its redirect: the callback, valid and not yet opened. */
  pendingCallback(browser: TestBrowser, user: string, params?: Record<string, string>): Promise<URL>
  /** Opens a callback as the provider's redirect does, and goes no further. */
  open(browser: TestBrowser, callback: URL | string, headers?: Record<string, string>): Promise<Navigation>
  /** Names of the session records in Redis. */
  sessions(): Promise<string[]>
}

/**
 * Starts a stage that ends with the test. After each subtest it is an error when a secret showed up in an answer, a log
 * line or Redis, a key would live for ever, an upstream saw a cookie, an answer was a 5xx other than 503, or anything
 * talked to the attacker's listener.
 */
export function startStage(t: Test, options: StageOptions = {}): Promise<Stage> {
  return startStageAround(t, clock => startProvider({ clock, ...options.provider }), options)
}

/** A stage like any other, with a provider of the test's choice, e.g. `clock => startEntra({ clock })`. */
export async function startStageAround<P extends StageProvider>(
  t: Test,
  start: (clock: ManualClock) => Promise<P>,
  options: Omit<StageOptions, 'provider'> = {},
): Promise<Stage<P>> {
  const clock = createClock()
  const provider = await start(clock)
  const redis = await startRedis(options.redisDir === undefined ? {} : { dir: options.redisDir })
  const upstream = await startUpstream()
  // No echo: it would repeat the access token, which is the upstream's to know and not the browser's.
  upstream.respond = ({ method, url }, res) => {
    res.writeHead(200, { 'content-type': 'application/json' })
    res.end(JSON.stringify({ method, url }))
  }
  const evil = await startEvil()
  const gateway = await startGateway({
    provider,
    clock,
    upstreams: { '/api': upstream.url },
    ...(options.providerLimits && { providerLimits: options.providerLimits }),
    env: {
      ...(options.memory ? {} : { REDIS_URL: redis.url }),
      ...options.env,
    },
  })
  t.teardown(async () => {
    await gateway.close()
    await Promise.all([provider.close(), upstream.close(), evil.close(), redis.stop()])
  })
  await linked(gateway)

  const answers: BrowserResponse[] = []
  const jars: CookieJar[] = []
  let linesRead = 0
  t.afterEach(async () => {
    const lines = gateway.log.slice(linesRead)
    linesRead = gateway.log.length
    const secrets = secretsOf(provider, jars)
    const faults = [
      ...answers.splice(0).flatMap(answer => faultsOfAnswer(answer, secrets)),
      ...faultsOfText('the log', lines.join(''), secrets),
      ...(await faultsOfRedis(redis, secrets)),
      ...(upstream.rawText().includes('__Host-') ? ['an upstream saw a cookie of the gateway'] : []),
      ...(evil.connections > 0 ? [`the attacker was called: ${evil.rawText()}`] : []),
      ...provider.errors.map(error => `the provider failed: ${error.message}`),
    ]
    if (faults.length > 0) throw new Error(faults.slice(0, 10).join('\n'))
  })

  const watched = (response: BrowserResponse) => {
    if (new URL(response.url).port === String(gateway.port)) answers.push(response)
  }
  const stage: Stage<P> = {
    clock,
    provider,
    redis,
    upstream,
    evil,
    gateway,
    browser: (jar = createJar(clock)) => {
      jars.push(jar)
      return watch(createBrowser({ origin: gateway.url, jar }), watched)
    },
    loggedIn: async user => {
      const browser = stage.browser()
      const end = await login(browser, gateway.url, provider, { user, returnUrl: '/welcome' })
      if (browser.jar.get(sessionCookie) === undefined)
        throw new Error(`${user} could not log in: ${end.status} ${end.url} ${gateway.log.slice(-3).join('')}`)
      return browser
    },
    pendingCallback: async (browser, user, params = {}) => {
      const target = new URL('/bff/login', gateway.url)
      for (const [name, value] of Object.entries(params)) target.searchParams.set(name, value)
      const atCallback = (url: URL) => url.origin === gateway.url && url.pathname === '/bff/callback'
      let page = await browser.navigate(target.href, { stopBefore: atCallback })
      // The form has to be answered by hand, since submitting would open the callback.
      if (page.status === 200) {
        provider.autoLogin = user
        page = await browser.navigate(page.url, { stopBefore: atCallback })
        provider.autoLogin = undefined
      }
      if (page.headers.location === undefined) throw new Error(`no callback: ${page.status} ${page.url} ${page.text}`)
      return new URL(page.headers.location)
    },
    open: (browser, callback, headers = {}) =>
      browser.navigate(String(callback), { from: new URL(provider.issuer).origin, stopBefore: () => true, headers }),
    sessions: async () => (await redis.keys()).filter(key => key.includes(':session:')),
  }
  return stage
}

/** Logs in through the provider's form, wherever the navigation stands. */
export { login, throughProvider }

/** The session cookies with a value, set by these answers. */
export function sessionCookiesSet(...responses: Pick<BrowserResponse, 'rawSetCookie'>[]): string[] {
  return responses.flatMap(({ rawSetCookie }) =>
    rawSetCookie.filter(line => line.startsWith(`${sessionCookie}=`) && !line.startsWith(`${sessionCookie}=;`)),
  )
}

/** Where a page goes by itself. */
export function hopOf(page: BrowserResponse): string | undefined {
  return /<meta http-equiv="refresh" content="0; url=([^"]*)">/.exec(page.text)?.[1]?.replaceAll('&#38;', '&')
}

/** Waits until a gateway has reached its store; before that it answers 503. */
export async function linked(gateway: TestGateway): Promise<void> {
  const isLinked = async () => {
    const answer = await createBrowser().get(`${gateway.internalUrl}/readyz`)
    return answer.json<{ checks: { store: string } }>().checks.store === 'ok'
  }
  if (!(await eventually(isLinked))) throw new Error('the gateway cannot reach its store')
}

function watch(browser: TestBrowser, see: (response: BrowserResponse) => void): TestBrowser {
  const seen = (response: BrowserResponse) => {
    see(response)
    return response
  }
  const seenAll = (navigation: Navigation) => {
    navigation.chain.forEach(see)
    return navigation
  }
  return {
    ...browser,
    request: async (...args) => seen(await browser.request(...args)),
    get: async (...args) => seen(await browser.get(...args)),
    post: async (...args) => seen(await browser.post(...args)),
    api: async (...args) => seen(await browser.api(...args)),
    navigate: async (...args) => seenAll(await browser.navigate(...args)),
    submit: async (...args) => seenAll(await browser.submit(...args)),
  }
}

function secretsOf(provider: StageProvider, jars: CookieJar[]): string[] {
  const { accessTokens, refreshTokens, idTokens, codes } = provider.issued
  const verifiers = provider.tokenCalls().map(({ form }) => form.get('code_verifier') ?? '')
  return [
    provider.clientSecret,
    ...[accessTokens, refreshTokens, idTokens, codes].flatMap(set => [...set]),
    ...verifiers,
    ...cookieValues(jars),
  ].filter(secret => secret.length >= 16)
}

function cookieValues(jars: CookieJar[]): string[] {
  const values = jars.flatMap(jar => jar.seen).filter(({ name }) => name.startsWith(sessionCookie))
  return [...new Set(values.map(({ value }) => value))].filter(value => value !== '')
}

function faultsOfAnswer(answer: BrowserResponse, secrets: string[]): string[] {
  const faults: string[] = []
  const where = `the answer ${answer.status} of ${answer.url.split('?')[0]}`
  const headers: string[] = []
  for (let index = 0; index < answer.rawHeaders.length; index += 2) {
    const [name, value] = [answer.rawHeaders[index]?.toLowerCase(), String(answer.rawHeaders[index + 1])]
    if (name !== 'set-cookie') headers.push(name === 'location' ? withoutHint(value) : value)
  }
  faults.push(...faultsOfText(where, `${headers.join('\n')}\n${answer.text}`, secrets))
  if (answer.status >= 500 && answer.status !== 503) faults.push(`${where} is an internal error: ${answer.text}`)
  if (/^(\/\/|\/\\)/.test(answer.headers.location ?? '')) faults.push(`${where} leads away: ${answer.headers.location}`)
  const own = new URL(answer.url).pathname.startsWith('/bff/') || answer.rawSetCookie.length > 0
  if (own && answer.headers['cache-control'] !== 'no-store') faults.push(`${where} may be stored`)
  if (own && answer.headers['referrer-policy'] !== 'no-referrer')
    faults.push(`${where} tells the next site its address`)
  if (own && answer.headers['x-content-type-options'] !== 'nosniff') faults.push(`${where} may be sniffed`)
  return faults
}

function faultsOfText(where: string, text: string, secrets: string[]): string[] {
  return secrets
    .filter(secret => text.includes(secret))
    .map(secret => `${where} holds a secret: ${secret.slice(0, 8)}…`)
}

async function faultsOfRedis(redis: TestRedis, secrets: string[]): Promise<string[]> {
  const keys = await redis.keys()
  const lives = await Promise.all(keys.map(key => redis.client.pttl(key)))
  const immortal = keys.filter((_key, index) => lives[index] === -1)
  const dump = (await redis.dump()).toString('latin1')
  return [
    ...immortal.map(key => `the key ${key} lives for ever`),
    ...faultsOfText('Redis', dump, [...secrets, '@example.test']),
    ...(/eyJ[\w-]{10,}\./.test(dump) ? ['Redis holds a JWT'] : []),
  ]
}
