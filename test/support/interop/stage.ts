import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Browser, Page } from 'playwright-core'
import type { Test } from 'tap'
import { launchChromium } from '../chromium.ts'
import { freePort } from '../free-port.ts'
import { startGateway, type TestGateway } from '../gateway.ts'
import { startRedis, type TestRedis } from '../redis.ts'
import { linked } from '../stage.ts'
import { startUpstream, type TestUpstream } from '../upstream.ts'
import type { ForeignProvider, Registration } from './provider.ts'
import type { Exchange } from './wiretap.ts'

/** What a token endpoint answered. */
export interface Tokens {
  access_token?: string
  refresh_token?: string
  id_token?: string
}

/** An answer to a script of the page. */
export interface Answer {
  status: number
  body: Record<string, unknown>
}

/** A person's browser, at the application. */
export interface Visitor {
  readonly page: Page
  /** Opens the login endpoint and signs in at the provider; ends wherever that leads. */
  signIn(): Promise<void>
  /** A fetch by the page. */
  call(path: string): Promise<Answer>
}

/** A provider that is not ours, a real browser, Redis and an API; gateways come and go on one address. */
export interface InteropStage {
  readonly provider: ForeignProvider
  readonly redis: TestRedis
  readonly upstream: TestUpstream
  readonly url: string
  /** The gateway registered for ID tokens of this algorithm, until the subtest is over. */
  gateway(t: Test, algorithm: string, env?: Record<string, string>): Promise<TestGateway>
  visitor(t: Test): Promise<Visitor>
  /** What the token endpoint was asked and answered, of one grant type if named. */
  tokenCalls(grantType?: string): { exchange: Exchange; tokens: Tokens }[]
  /** Sends a form to the token endpoint past the gateway, as this client. */
  askForTokens(algorithm: string, form: Record<string, string>): Promise<{ status: number; text: string }>
  /** The access tokens that the API got, in order. */
  seenByApi(): string[]
}

/** Starts a stage that ends with the test. */
export async function startInterop(
  t: Test,
  start: (registration: Registration) => Promise<ForeignProvider>,
  algorithms: readonly string[],
): Promise<InteropStage> {
  const port = await freePort()
  const url = `http://localhost:${port}`
  const spa = mkdtempSync(join(tmpdir(), 'coatcheck-spa-'))
  writeFileSync(join(spa, 'index.html'), '<!doctype html><title>The application</title>')
  t.teardown(() => rmSync(spa, { recursive: true, force: true }))
  const redis = await startRedis()
  t.teardown(() => redis.stop())
  const upstream = await startUpstream()
  t.teardown(() => upstream.close())
  const provider = await start({
    redirectUri: `${url}/bff/callback`,
    postLogoutUri: `${url}/`,
    backchannelUri: `${upstream.url}/backchannel`,
    algorithms,
  })
  t.teardown(() => provider.stop())
  const browser: Browser = await launchChromium()
  t.teardown(() => browser.close())
  upstream.respond = (_request, res) => {
    res.writeHead(200, { 'content-type': 'application/json' }).end('{"items":[]}')
  }

  return {
    provider,
    redis,
    upstream,
    url,
    gateway: async (t, algorithm, env = {}) => {
      const gateway = await startGateway({
        provider: { env: () => provider.env(algorithm) },
        upstreams: { '/api': upstream.url },
        port,
        env: { REDIS_URL: redis.url, SPA_DIR: spa, ...env },
      })
      t.teardown(() => gateway.close())
      await linked(gateway)
      return gateway
    },
    visitor: async t => {
      const context = await browser.newContext()
      t.teardown(() => context.close())
      context.setDefaultTimeout(15_000)
      const page = await context.newPage()
      return {
        page,
        signIn: async () => {
          await page.goto(`${url}/bff/login?returnUrl=/welcome`)
          await provider.signIn(page)
          await page.waitForURL(`${url}/**`)
          // A failed login goes on by itself, by a page that fetches the next one.
          await page.waitForLoadState('networkidle')
        },
        call: async path => {
          // The gateway's own pages have a policy that lets no script of theirs out.
          if (new URL(page.url()).pathname.startsWith('/bff/')) await page.goto(`${url}/welcome`)
          return page.evaluate<Answer>(`fetch(${JSON.stringify(path)}, { headers: { 'X-CSRF': '1' } })
            .then(async answer => ({ status: answer.status, body: await answer.json() }))`)
        },
      }
    },
    tokenCalls: grantType =>
      provider.wire
        .at(provider.paths.token)
        .filter(({ form }) => grantType === undefined || form.get('grant_type') === grantType)
        .map(exchange => ({ exchange, tokens: (exchange.text === '' ? {} : JSON.parse(exchange.text)) as Tokens })),
    askForTokens: async (algorithm, form) => {
      const { OIDC_CLIENT_ID = '', OIDC_CLIENT_SECRET = '' } = provider.env(algorithm)
      const answer = await fetch(new URL(provider.paths.token, provider.wire.url), {
        method: 'POST',
        body: new URLSearchParams({ ...form, client_id: OIDC_CLIENT_ID, client_secret: OIDC_CLIENT_SECRET }),
      })
      return { status: answer.status, text: await answer.text() }
    },
    seenByApi: () =>
      upstream.requests
        .filter(request => request.url === '/items')
        .map(({ headers }) => (headers.authorization ?? '').replace(/^Bearer /, '')),
  }
}

/** A part of a JWT, unverified. */
export function partOf(jwt: string, part: 'header' | 'payload'): Record<string, unknown> {
  return JSON.parse(Buffer.from(jwt.split('.')[part === 'header' ? 0 : 1] ?? '', 'base64url').toString())
}
