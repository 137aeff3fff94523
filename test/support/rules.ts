import type { Test } from 'tap'
import { rawRequest, type TestBrowser } from './browser.ts'
import { sessionCookie, startStage } from './stage.ts'
import { startUpstream } from './upstream.ts'

/** Seconds that an access token of {@link startRules} lives. */
export const lifetime = 60

/** A stage with an upstream of each kind: `/api` and beside it those named here, which all are one server. */
export async function startRules(t: Test) {
  const side = await startUpstream()
  // Answers without telling what it was sent.
  side.respond = (_request, response) => void response.end('{}')
  const of = (name: string, settings: Record<string, string>) =>
    Object.entries({ PATH: `/${name}`, URL: `${side.url}/${name}`, ...settings }).map(
      ([setting, value]) => [`UPSTREAM_${name.toUpperCase()}_${setting}`, value] as const,
    )
  const stage = await startStage(t, {
    provider: {
      claims: ['note', 'grants'],
      idTokenClaims: 'full',
      accessTokens: 'jwt',
      lifetimes: { accessToken: lifetime },
    },
    env: Object.fromEntries([
      ['UPSTREAM_U0_CLAIMS_HEADERS', 'X-Staff=sub, X-Note=note, x_grants=grants'],
      ...of('optional', { AUTH: 'optional', CLAIMS_HEADERS: 'X-Member=sub' }),
      ...of('open', { AUTH: 'none' }),
      ...of('inner', { PATH: '/open/inner' }),
      ...of('staff', { REQUIRE: 'roles=staff,chief; note=ok' }),
      ...of('files', { CSRF: 'fetch-metadata' }),
      ...of('feed', { CSRF: 'none' }),
      ...of('other', { SCOPE: 'api:write' }),
    ]),
  })
  t.teardown(side.close)
  const both = [stage.upstream, side]

  return {
    ...stage,
    stage,
    /** The server of all upstreams but `/api`. */
    side,
    /** All that upstreams have been told since this was called, byte for byte. */
    listen(): () => string {
      const before = both.map(({ rawText }) => rawText().length)
      return () => both.map(({ rawText }, index) => rawText().slice(before[index])).join('')
    },
    /** A request with these lines as its head, word for word. */
    send: (method: string, path: string, headers: readonly string[]) =>
      rawRequest(
        stage.gateway.port,
        `${[`${method} ${path} HTTP/1.1`, `Host: localhost:${stage.gateway.port}`, ...headers].join('\r\n')}\r\nConnection: close\r\n\r\n`,
      ),
  }
}

/** The session cookie that a browser holds. */
export const cookieOf = (browser: TestBrowser) => browser.jar.get(sessionCookie) ?? ''
