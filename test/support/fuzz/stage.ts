import type { Test } from 'tap'
import { createBrowser } from '../browser.ts'
import { createClock } from '../clock.ts'
import { startGateway, type TestGateway } from '../gateway.ts'
import { login } from '../login.ts'
import { startProvider, type TestProvider } from '../provider.ts'
import { startEvil, startUpstream, type TestUpstream, type UpstreamRequest } from '../upstream.ts'
import { type Answer, answersIn, exchange } from './wire.ts'

/** Who asks: nobody, a user, or one whom the policy of `/api/admin` lets in. */
export type Who = 'nobody' | 'user' | 'admin'

/** The upstreams, by path; each has a token of its own, but for `/open`, which gets none. */
export const routes = {
  '/api': { base: '/v1', session: 'required' },
  '/api/admin': { base: '/root', session: 'required' },
  '/open': { base: '', session: 'none' },
  '/maybe': { base: '/m', session: 'optional' },
} as const
export type Prefix = keyof typeof routes
export const prefixes = Object.keys(routes) as Prefix[]

/** A request that came out behind the gateway. */
export interface Arrival {
  prefix: Prefix
  request: UpstreamRequest
}

/** A gateway to throw things at. */
export interface FuzzStage {
  readonly gateway: TestGateway
  readonly provider: TestProvider
  readonly evil: { port: number; readonly connections: number }
  /** The cookie pair of each. */
  readonly cookies: Record<Who, string>
  /** `Host`, what keeps CSRF rules content, and the cookie, as lines with their ends. */
  lines(who: Who): string
  /** Sends bytes with one request, which asks to close, and looks at what must hold of any. */
  ask(bytes: string, who: Who): Promise<{ answer: Answer | undefined; arrivals: Arrival[] }>
  /**
   * What arrived since the last look; each held against what must hold of any that `who` caused.
   *
   * @param brokenOff whether requests may end before their time
   */
  arrivals(who: Who, brokenOff?: boolean): Arrival[]
}

/** Part of every value that no upstream may see. */
export const forged = 'forged'

/** Starts a stage that ends with the test file, with two users logged in. */
export async function startFuzzStage(t: Test): Promise<FuzzStage> {
  const clock = createClock()
  const provider = await startProvider({ clock })
  const upstreams = Object.fromEntries(
    await Promise.all(prefixes.map(async prefix => [prefix, await startUpstream()] as const)),
  ) as Record<Prefix, TestUpstream>
  const evil = await startEvil()
  const gateway = await startGateway({
    provider,
    clock,
    upstreams: Object.fromEntries(prefixes.map(prefix => [prefix, upstreams[prefix].url + routes[prefix].base])),
    env: {
      LOG_LEVEL: 'warn',
      ACCESS_LOG: 'false',
      USER_CLAIMS: 'sub,roles',
      UPSTREAM_U1_SCOPE: 'api:read',
      UPSTREAM_U1_REQUIRE: 'roles=admin',
      UPSTREAM_U1_CLAIMS_HEADERS: 'X-Gw-User=sub',
      UPSTREAM_U2_AUTH: 'none',
      UPSTREAM_U2_WEBSOCKET: 'true',
      UPSTREAM_U3_AUTH: 'optional',
      UPSTREAM_U3_SCOPE: 'api:write',
    },
  })
  for (const upstream of Object.values(upstreams)) upstream.respond = (_request, response) => void response.end('ok')
  t.teardown(async () => {
    await gateway.close()
    await Promise.all([provider.close(), evil.close(), ...Object.values(upstreams).map(upstream => upstream.close())])
  })

  const cookies: Record<Who, string> = { nobody: '', user: '', admin: '' }
  provider.users.set('root', { roles: ['admin'] })
  for (const [who, user] of [['user', 'alice'] as const, ['admin', 'root'] as const]) {
    const browser = createBrowser({ origin: gateway.url })
    await login(browser, gateway.url, provider, { user })
    cookies[who] = `__Host-coatcheck=${browser.jar.get('__Host-coatcheck')}`
  }
  const lines = (who: Who) =>
    `Host: localhost:${gateway.port}\r\nX-CSRF: 1\r\n${who === 'nobody' ? '' : `Cookie: ${cookies[who]}\r\n`}`

  const tokens: Record<Who, Partial<Record<Prefix, string>>> = { nobody: {}, user: {}, admin: {} }
  for (const who of ['user', 'admin'] as const) {
    for (const prefix of prefixes) {
      await exchange(gateway.port, `GET ${prefix}/first HTTP/1.1\r\n${lines(who)}Connection: close\r\n\r\n`)
      const [seen] = upstreams[prefix].requests.splice(0)
      const token = seen?.headers.authorization
      if (token !== undefined) tokens[who][prefix] = token
    }
  }
  const expected = { nobody: 0, user: 2, admin: 3 }
  for (const who of ['user', 'admin'] as const)
    if (new Set(Object.values(tokens[who])).size !== expected[who] || tokens[who]['/open'] !== undefined)
      throw new Error(`${who} has no token for each upstream: ${Object.keys(tokens[who])}`)

  const secrets = [...Object.values(cookies).filter(cookie => cookie !== ''), '__Host-', forged]
  let linesRead = 0
  const judge = (who: Who, { prefix, request }: Arrival) => {
    const values = (wanted: string) =>
      request.rawHeaders.filter(
        (_, index) => request.rawHeaders[index - 1]?.toLowerCase() === wanted && index % 2 === 1,
      )
    const must = (holds: boolean, what: string) => {
      if (!holds) throw new Error(`${prefix} saw ${what}: ${request.method} ${request.url} ${request.rawHeaders}`)
    }
    const one = (wanted: string, value: string | undefined) =>
      must(values(wanted).join('|') === (value ?? '') && values(wanted).length < 2, `another ${wanted} than ${value}`)
    must(prefix !== '/api' || who !== 'nobody', 'a request without a session')
    must(prefix !== '/api/admin' || who === 'admin', 'a request that its policy refuses')
    one('authorization', tokens[who][prefix])
    one('x-forwarded-for', '127.0.0.1')
    one('x-forwarded-host', `localhost:${gateway.port}`)
    one('x-forwarded-proto', 'http')
    one('x-gw-user', prefix === '/api/admin' ? 'root' : undefined)
    one('host', new URL(upstreams[prefix].url).host)
    must(values('cookie').length === 0, 'a cookie')
    const seen = request.rawHeaders.join('\n')
    for (const secret of secrets) must(!seen.includes(secret), secret)
    must(!/[\r\0]/.test(seen), 'a line end')
  }

  const stage: FuzzStage = {
    gateway,
    provider,
    evil,
    cookies,
    lines,
    arrivals(who, brokenOff = false) {
      const arrivals = prefixes.flatMap(prefix =>
        upstreams[prefix].requests.splice(0).map(request => ({ prefix, request })),
      )
      for (const arrival of arrivals) judge(who, arrival)
      const errors = Object.values(upstreams).flatMap(({ parseErrors }) => parseErrors.splice(0))
      if (errors.length > 0 && !brokenOff) throw new Error(`an upstream could not read what came: ${errors}`)
      if (evil.connections > 0) throw new Error('the attacker was called')
      const failures = gateway.log.slice(linesRead).filter(line => /"level":(?:"(?:error|fatal)"|[56]0)/.test(line))
      linesRead = gateway.log.length
      if (failures.length > 0) throw new Error(`the gateway failed: ${failures}`)
      return arrivals
    },
    async ask(bytes, who) {
      const { text } = await exchange(gateway.port, bytes)
      // What cannot be read has no method that is known.
      const unread = text.includes('The request is not valid HTTP/1.1')
      const answers = answersIn(text, unread ? [] : [bytes.split(' ', 1)[0] ?? ''])
      const arrivals = stage.arrivals(who)
      if (answers.length > 1) throw new Error(`one request had ${answers.length} answers: ${text}`)
      if (answers.some(({ status }) => status >= 500)) throw new Error(`an answer is ${text}`)
      if (arrivals.length > 1) throw new Error(`one request became ${arrivals.length}`)
      return { answer: answers[0], arrivals }
    },
  }
  t.afterEach(async () => {
    const bytes = `GET /open/alive HTTP/1.1\r\n${lines('nobody')}Connection: close\r\n\r\n`
    const [answer] = answersIn((await exchange(gateway.port, bytes)).text, ['GET'])
    if (answer?.status !== 200) throw new Error(`the gateway does not serve any more: ${answer?.status}`)
    for (const { requests } of Object.values(upstreams)) requests.length = 0
  })
  return stage
}
