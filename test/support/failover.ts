import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { createBrowser, type TestBrowser } from './browser.ts'
import { freePort } from './free-port.ts'
import { startGateway, type TestGateway } from './gateway.ts'
import { login } from './login.ts'
import { startProvider } from './provider.ts'
import { linked, sessionCookie } from './stage.ts'
import { startUpstream } from './upstream.ts'

/** One answer to a client that keeps on asking. */
export interface Heard {
  gateway: number
  status: number
  /** Of a problem: its code, and whether it said when to come again. */
  code: string | undefined
  retryAfter: string | null
  at: number
}

/** A client that keeps on asking both gateways in turn. */
export interface Client {
  readonly heard: Heard[]
  /** Whether both gateways have answered 200, and nothing else, for so many requests. */
  steady(requests?: number): boolean
  stop(): Promise<void>
}

const pauseMs = 25

/** Two gateways in this process that share a Redis, however that is run, with a provider and an API. */
export async function startPair(t: Test, env: Record<string, string>) {
  const [provider, upstream] = await Promise.all([startProvider(), startUpstream()])
  upstream.respond = (_request, response) => void response.end('{}')
  const common = {
    SESSION_KEYS: randomBytes(32).toString('base64'),
    ADMIN_TOKEN: 'a'.repeat(32),
    UPSTREAM_API_PATH: '/api',
    UPSTREAM_API_URL: upstream.url,
    ...env,
  }
  // Both are one application: that of the first one's origin.
  const port = await freePort()
  const shared = { ...common, PUBLIC_URL: `http://localhost:${port}` }
  const gateways: [TestGateway, TestGateway] = await Promise.all([
    startGateway({ provider, env: shared, port }),
    startGateway({ provider, env: shared }),
  ])
  t.teardown(async () => {
    await Promise.all(gateways.map(gateway => gateway.close()))
    await Promise.all([provider.close(), upstream.close()])
  })
  await Promise.all(gateways.map(linked))

  const enter = async (user: string): Promise<{ browser: TestBrowser; cookie: string }> => {
    const browser = createBrowser({ origin: gateways[0].url })
    const end = await login(browser, gateways[0].url, provider, { user })
    const cookie = browser.jar.get(sessionCookie)
    if (cookie === undefined) throw new Error(`${user} could not log in: ${end.status} ${end.url}`)
    return { browser, cookie }
  }

  const ask = async (gateway: number, cookie: string, method = 'GET', path = '/api/items'): Promise<Heard> => {
    const at = performance.now()
    const headers = { cookie: `${sessionCookie}=${cookie}`, 'x-csrf': '1' }
    const response = await fetch(`${gateways[gateway]?.url}${path}`, { method, headers })
    const text = await response.text()
    const { code } = text === '' ? {} : (JSON.parse(text) as { code?: string })
    return { gateway, status: response.status, code, retryAfter: response.headers.get('retry-after'), at }
  }

  const keepAsking = (cookie: string): Client => {
    const heard: Heard[] = []
    let stopped = false
    const loop = (async () => {
      for (let turn = 0; !stopped; turn += 1) {
        heard.push(await ask(turn % 2, cookie))
        await sleep(pauseMs)
      }
    })()
    return {
      heard,
      steady: (requests = 20) =>
        heard.length >= requests && heard.slice(-requests).every(({ status }) => status === 200),
      async stop() {
        stopped = true
        await loop
      },
    }
  }

  return {
    provider,
    gateways,
    enter,
    ask,
    keepAsking,
    /** Audit events of both gateways. */
    events: (name: string) => gateways.flatMap(gateway => gateway.events(name)),
    /** Where each gateway told that a link was broken. */
    linkErrors: () => gateways.map(({ log }) => log.filter(line => line.includes('link to Redis'))),
    text: () => gateways.map(({ log }) => log.join('')).join(''),
  }
}

export type Pair = Awaited<ReturnType<typeof startPair>>

/** What clients must never hear, whatever happens to Redis: anything but success and "come again". */
export function oddities(clients: readonly Client[]): Heard[] {
  const fine = ({ status, code, retryAfter }: Heard) =>
    status === 200 || (status === 503 && code === 'store_unavailable' && retryAfter !== null)
  return clients.flatMap(({ heard }) => heard.filter(answer => !fine(answer)))
}
