import type { Test } from 'tap'
import { createBrowser } from './browser.ts'
import { login } from './login.ts'
import { type ProviderOptions, startProvider } from './provider.ts'
import { startRedis } from './redis.ts'
import { type Replica, startReplicas } from './replicas.ts'
import { sessionCookie } from './stage.ts'
import { startUpstream } from './upstream.ts'

/** What came of a request to an API. */
export interface Answer {
  status: number
  /** Of a problem: its code and the reason why the session ended. */
  code?: string
  reason?: string
}

/** Replicas before a provider that revokes the whole family when a replaced refresh token is presented. */
export async function startRace(t: Test, count: number, options: ProviderOptions) {
  const [provider, redis, upstream] = await Promise.all([startProvider(options), startRedis(), startUpstream()])
  const seen: { url: string; token: string | undefined }[] = []
  upstream.respond = ({ url, headers }, res) => {
    seen.push({ url, token: headers.authorization })
    res.end('{}')
  }
  const env = { UPSTREAM_API_PATH: '/api', UPSTREAM_API_URL: upstream.url, SESSION_MAX_PER_USER: '100' }
  const replicas = await startReplicas(count, { provider, redis, env })
  /** Those that were killed, too: what they said still counts. */
  const everyReplica: Replica[] = [...replicas.all]
  t.teardown(async () => {
    redis.resume()
    await Promise.all(replicas.all.map(replica => replica.stop('SIGKILL')))
    await Promise.all([provider.close(), upstream.close(), redis.stop()])
  })
  const enter = async (user: string) => {
    const browser = createBrowser({ origin: replicas.url })
    await login(browser, replicas.url, provider, { user })
    const cookie = browser.jar.get(sessionCookie)
    if (cookie === undefined) throw new Error(`${user} could not log in`)
    return cookie
  }
  const headersOf = (cookie: string) => ({
    cookie: `${sessionCookie}=${cookie}`,
    origin: replicas.url,
    'x-csrf': '1',
    'sec-fetch-site': 'same-origin',
  })
  const ask = async (index: number, cookie: string, path = '/x'): Promise<Answer> => {
    const response = await fetch(`${replicas.all[index]?.url}/api${path}`, { headers: headersOf(cookie) })
    const text = await response.text()
    return response.status === 200 ? { status: 200 } : { status: response.status, ...JSON.parse(text) }
  }
  return {
    provider,
    redis,
    replicas,
    seen,
    enter,
    ask,
    refreshes: () => provider.tokenCalls('refresh_token'),
    async restart(index: number) {
      everyReplica.push(await replicas.restart(index))
    },
    events: (name: string) => everyReplica.flatMap(replica => replica.events(name)),
  }
}
