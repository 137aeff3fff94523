import type { Test } from 'tap'
import { type BrowserResponse, createBrowser, createJar, type TestBrowser } from './browser.ts'
import { createClock, type ManualClock } from './clock.ts'
import { eventually } from './eventually.ts'
import { type GatewayOptions, startGateway, type TestGateway } from './gateway.ts'
import { type ProviderOptions, startProvider, type TestProvider } from './provider.ts'
import { startRedis, type TestRedis } from './redis.ts'
import { type Evil, startEvil, startUpstream, type TestUpstream } from './upstream.ts'

/** How the house is built. */
export interface HouseOptions {
  provider?: ProviderOptions
  env?: Record<string, string>
  providerLimits?: GatewayOptions['providerLimits']
  /** A Redis to share with another house; its own when absent. */
  redis?: TestRedis
}

/** What a refused login must look like beyond what every one of them must. */
export interface Refusal {
  /** Status of the gateway's answer; 400 unless told. */
  status?: 400 | 503
  /** Which token the provider must have been asked to revoke: by default the refresh token of this login. */
  revoked?: 'refresh token' | 'access token' | 'nothing'
  /** Whether UserInfo may have been asked: never with a token whose ID token is not verified yet. */
  userInfo?: boolean
  /** What has to happen before an honest login works again, e.g. the end of a cooldown. */
  recover?: () => void
}

/** One login, as far as it got. */
export interface Attempt {
  browser: TestBrowser
  /** The gateway's answers, the last one decides. */
  answers: BrowserResponse[]
  answer: BrowserResponse
}

/** A gateway on a real Redis, between a provider that lies, an API that takes notes and an attacker who listens. */
export interface House {
  readonly provider: TestProvider
  readonly gateway: TestGateway
  readonly upstream: TestUpstream
  readonly evil: Evil
  readonly redis: TestRedis
  /** The time of gateway and provider; a day ahead of the machine, so that only the gateway's own clock decides. */
  readonly clock: ManualClock
  /** Logs in with a browser that is new to the gateway, though not to the provider; nothing is asserted. */
  attempt(): Promise<Attempt>
  /**
   * Logs in while the provider misbehaves as arranged: the login is refused and leaves no trace. An honest one then works, which
   * is seen after every few.
   */
  refuses(t: Test, name: string, arrange: (provider: TestProvider) => unknown, refusal?: Refusal): Promise<void>
  /** Logs in while the provider behaves as arranged, and the session works. */
  accepts(t: Test, name: string, arrange?: (provider: TestProvider) => unknown): Promise<Attempt>
  /** Logs in while the provider behaves as arranged: all of a refusal or all of a session, whichever it is. */
  decides(t: Test, name: string, arrange: (provider: TestProvider) => unknown, refusal?: Refusal): Promise<void>
  /** Ends tampering, forgets journals, logs and Redis. */
  reset(): Promise<void>
}

const dayMs = 86_400_000
const sessionCookie = '__Host-coatcheck'

/** Starts the house; it ends with the test. */
export async function startHouse(t: Test, options: HouseOptions = {}): Promise<House> {
  const clock = createClock(Date.now() + dayMs)
  const [provider, upstream, evil, redis] = await Promise.all([
    startProvider({ autoLogin: 'alice', clock, ...options.provider }),
    startUpstream(),
    startEvil(),
    options.redis ?? startRedis(),
  ])
  const gateway = await startGateway({
    provider,
    clock,
    upstreams: { '/api': upstream.url },
    env: { REDIS_URL: redis.url, ...options.env },
    ...(options.providerLimits && { providerLimits: options.providerLimits }),
  })
  t.teardown(async () => {
    await gateway.close()
    await Promise.all([provider.close(), upstream.close(), evil.close(), options.redis ?? redis.stop()])
  })

  const reset = async () => {
    provider.reset()
    provider.clear()
    for (const canaries of Object.values(provider.issued)) canaries.clear()
    upstream.clear()
    gateway.log.length = 0
    await redis.client.flushdb()
  }

  let atProvider = createJar()
  const attempt = async (): Promise<Attempt> => {
    const browser = createBrowser({ origin: gateway.url, jar: atProvider.clone() })
    const stopBefore = (url: URL) => url.pathname === '/welcome'
    const { chain } = await browser.navigate('/bff/login?returnUrl=/welcome', { stopBefore })
    if (atProvider.list().length === 0) {
      atProvider = browser.jar.clone()
      for (const { name, host } of atProvider.list()) if (host === 'localhost') atProvider.delete(name, host)
    }
    const answers = chain.filter(each => each.url.startsWith(`${gateway.url}/bff/`))
    return { browser, answers, answer: answers.at(-1) as BrowserResponse }
  }

  /** Sentences about what does not hold of a refused login. */
  const faultsOfRefusal = async ({ browser, answers, answer }: Attempt, refusal: Refusal): Promise<string[]> => {
    const { status = 400, revoked = 'refresh token', userInfo = false } = refusal
    const faults: string[] = []
    const hold = (what: string, holds: boolean) => void (holds || faults.push(what))
    hold(`the answer is ${status}, not ${answer.status}`, answer.status === status)
    hold('the answer is a page', answer.headers['content-type'] === 'text/html; charset=utf-8')
    hold('the answer is not stored', answer.headers['cache-control'] === 'no-store')
    hold('the answer leads nowhere by itself', answer.headers.location === undefined)
    hold('a 503 says when to try again', status !== 503 || /^\d+$/.test(answer.headers['retry-after'] ?? ''))
    hold('no session cookie is set', !answers.some(each => each.rawSetCookie.some(setsSession)))
    hold('the browser holds no session cookie', browser.jar.get(sessionCookie) === undefined)
    const call = await browser.api('/api/items')
    hold(`a call to the API is 401, not ${call.status}`, call.status === 401)
    hold('the upstream saw nothing', upstream.requests.length === 0)
    if (answer.url.includes('/callback')) {
      const events = gateway.events('login_rejected')
      hold(`one login_rejected is in the audit log, not ${events.length}`, events.length === 1)
      hold('no login under way is in Redis', !(await redis.keys()).some(key => key.includes(':transaction:')))
    }
    hold('no session is in Redis', !(await redis.keys()).some(key => key.includes(':session:')))
    hold('no login succeeded in the audit log', gateway.events('login_succeeded').length === 0)
    if (!userInfo) hold('UserInfo was not asked', provider.of('userinfo').length === 0)
    if (revoked !== 'nothing') hold(`the ${revoked} is revoked`, await isRevoked(revoked))
    return [...faults, ...(await faultsOfAll([...answers, call]))]
  }

  /** As above, of a login that opened a session. */
  const faultsOfSession = async ({ browser, answers, answer }: Attempt): Promise<string[]> => {
    if (answer.status !== 303)
      return [`the login is refused: ${answer.status} ${JSON.stringify(gateway.events('login_rejected'))}`]
    const user = await browser.api('/bff/user')
    const call = await browser.api('/api/items')
    const keys = await redis.keys()
    const ttls = await Promise.all(keys.map(key => redis.client.pttl(key)))
    const faults = await faultsOfAll([...answers, user])
    const isJson = user.status === 200 && user.headers['content-type']?.startsWith('application/json')
    if (!isJson || typeof user.json().user !== 'object') faults.push(`/bff/user answers ${user.status}`)
    const header = `Bearer ${[...provider.issued.accessTokens][0]}`
    if (call.status !== 200 || upstream.requests.at(-1)?.headers.authorization !== header)
      faults.push(`a call to the API answers ${call.status}, or went without the token`)
    if (keys.filter(key => key.includes(':session:')).length !== 1 || ttls.some(ttl => ttl <= 0))
      faults.push('Redis holds something else than one session, or what does not end by itself')
    return faults
  }

  /** What holds whatever happens: nothing leaks, nobody talks to the attacker. */
  const faultsOfAll = async (answers: BrowserResponse[]): Promise<string[]> => {
    const faults: string[] = []
    if (evil.connections > 0) faults.push(`the attacker heard: ${evil.rawText()}`)
    if (provider.errors.length > 0) faults.push(`the provider itself failed: ${provider.errors[0]?.stack}`)
    const canaries = [provider.clientSecret, ...Object.values(provider.issued).flatMap(set => [...set])]
    const places = {
      'an answer': answers.map(each => `${each.rawHeaders.join('\n')}\n${each.text}`).join('\n'),
      'the log': gateway.log.join(''),
      Redis: (await redis.dump()).toString('latin1'),
    }
    for (const [place, text] of Object.entries(places))
      if (canaries.some(canary => canary.length >= 16 && text.includes(canary))) faults.push(`a secret is in ${place}`)
    const failed = answers.find(each => each.status >= 500 && each.status !== 503)
    return failed ? [...faults, `${failed.url.split('?')[0]} answers ${failed.status}`] : faults
  }

  const isRevoked = async (which: 'refresh token' | 'access token') => {
    const { refreshTokens, accessTokens } = provider.issued
    const [token] = which === 'refresh token' ? refreshTokens : accessTokens
    const told = () =>
      provider.revocations().some(({ form, answered }) => form.get('token') === token && answered === 200)
    return token !== undefined && (await eventually(told))
  }

  let refusals = 0

  /** Nothing of a refusal may stick. To see so takes as long as the refusal: it is done after every few. */
  const honestly = async (t: Test, name: string, { recover }: Refusal) => {
    await reset()
    recover?.()
    refusals += 1
    if (refusals % 4 !== 0) return
    t.strictSame(await faultsOfSession(await attempt()), [], `an honest login works after: ${name}`)
  }

  return {
    provider,
    gateway,
    upstream,
    evil,
    redis,
    clock,
    attempt,
    reset,
    async refuses(t, name, arrange, refusal = {}) {
      await reset()
      await arrange(provider)
      t.strictSame(await faultsOfRefusal(await attempt(), refusal), [], `refused: ${name}`)
      await honestly(t, name, refusal)
    },
    async accepts(t, name, arrange = () => undefined) {
      await reset()
      await arrange(provider)
      const attempted = await attempt()
      t.strictSame(await faultsOfSession(attempted), [], `accepted: ${name}`)
      return attempted
    },
    async decides(t, name, arrange, refusal = {}) {
      await reset()
      await arrange(provider)
      const attempted = await attempt()
      const opened = attempted.answer.status === 303
      const faults = opened ? await faultsOfSession(attempted) : await faultsOfRefusal(attempted, refusal)
      t.strictSame(faults, [], `decided, one way or the other: ${name}`)
      if (!opened) await honestly(t, name, refusal)
    },
  }
}

const setsSession = (line: string) => line.startsWith(`${sessionCookie}=`) && !line.startsWith(`${sessionCookie}=;`)
