// A gateway without its listeners and its configuration: it ends sessions and revokes their tokens, and starts in half
// the time of a whole one, for tests that kill hundreds.
import type { Config } from '../../src/config/load.ts'
import { systemClock } from '../../src/core/clock.ts'
import { createParts } from '../../src/parts.ts'

const setting = (name: string) => process.env[name] ?? ''
const say = (line: object) => process.stdout.write(`${JSON.stringify(line)}\n`)

/** What sweeping needs of it; the rest is for logins. */
const config: Partial<Config> = {
  publicUrl: 'http://localhost',
  bffPath: '/bff',
  postLogoutPath: '/',
  oidcIssuer: setting('OIDC_ISSUER'),
  oidcClientId: setting('OIDC_CLIENT_ID'),
  oidcClientSecret: setting('OIDC_CLIENT_SECRET'),
  oidcClientAuth: 'client_secret_post',
  oidcScope: 'openid',
  oidcAuthorizeParams: new Map(),
  oidcIdTokenAlgs: ['RS256'],
  oidcUserinfo: 'never',
  userClaims: [],
  redisUrl: new URL(setting('REDIS_URL')),
  redisPrefix: setting('REDIS_PREFIX'),
  sessionKeys: [Buffer.from(setting('SESSION_KEYS'), 'base64')],
  sessionIdleTimeout: Number(setting('SESSION_IDLE_TIMEOUT')),
  sessionAbsoluteTimeout: Number(setting('SESSION_ABSOLUTE_TIMEOUT')),
  sessionMaxPerUser: 25,
}

const parts = createParts({
  config: config as Config,
  clock: systemClock,
  elapsed: () => performance.now(),
  audit: event => say({ msg: 'audit', ...event }),
  log: { warn: () => {} },
  providerLimits: undefined,
  scriptPaths: [],
})
await parts.start()
say({ msg: 'started' })
