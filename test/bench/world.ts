import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { freePort } from '../support/free-port.ts'
import { createKeyRing } from '../support/provider/keys.ts'
import { bodyLength } from './load.ts'
import { type Running, start } from './process.ts'
import type { Programs } from './programs.ts'

/**
 * What stands around a gateway: an API and a provider, of constant answers by nginx, so that neither is what holds a
 * gateway up. Nobody can log in at this provider; refreshes and revocations it grants.
 */
export interface World extends Running {
  /** The API, 200 with a JSON of {@link bodyLength} at every path. */
  upstream: string
  issuer: string
  clientId: string
  /** The gateway's environment for this provider. */
  env: Record<string, string>
  /** How many requests API and provider have had so far. */
  requests(): Promise<number>
}

export async function startWorld(deps: { programs: Programs; folder: string }): Promise<World> {
  const [port, providerPort] = await Promise.all([freePort(), freePort()])
  const issuer = `http://127.0.0.1:${providerPort}`
  const upstream = `http://127.0.0.1:${port}`
  const keys = await createKeyRing()
  const metadata = {
    issuer,
    authorization_endpoint: `${issuer}/authorize`,
    token_endpoint: `${issuer}/token`,
    revocation_endpoint: `${issuer}/revoke`,
    jwks_uri: `${issuer}/jwks`,
    response_types_supported: ['code'],
    subject_types_supported: ['public'],
    id_token_signing_alg_values_supported: ['RS256'],
    code_challenge_methods_supported: ['S256'],
    scopes_supported: ['openid', 'profile', 'email', 'offline_access', ...apiScopes],
  }
  const running = await startNginx(deps, 'world', upstream, [
    server(
      port,
      `location / { default_type application/json; return 200 '${body()}'; }`,
      'location = /status { stub_status; }',
    ),
    server(
      providerPort,
      json('/.well-known/openid-configuration', metadata),
      json('/jwks', { keys: keys.published() }),
      json('/token', renewed()),
      json('/revoke', {}),
    ),
  ])
  let asked = 0
  return {
    ...running,
    upstream,
    issuer,
    clientId,
    env: { OIDC_ISSUER: issuer, OIDC_CLIENT_ID: clientId, OIDC_CLIENT_SECRET: 'a secret that nobody looks at' },
    async requests() {
      asked += 1
      const status = await (await fetch(`${upstream}/status`)).text()
      return Number(/^ \d+ \d+ (\d+)/m.exec(status)?.[1]) - asked
    },
  }
}

const clientId = 'bench'

/** Scopes of which APIs get a token of their own. */
export const apiScopes = ['api:a', 'api:b', 'api:c', 'api:d']

/** Characters of an access token: a signed one of few claims. */
export const tokenLength = 700

/** Starts nginx with these servers, in one process. */
export function startNginx(
  { programs, folder, cores }: { programs: Programs; folder: string; cores?: string },
  name: string,
  ready: string,
  http: string[],
): Promise<Running> {
  const own = join(folder, name)
  mkdirSync(own)
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    kind => `${kind}_temp_path ${own}/${kind};`,
  )
  const lines = [
    `daemon off; master_process off; pid ${own}/pid; error_log stderr crit;`,
    'events { worker_connections 4096; }',
    'http {',
    'access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; tcp_nodelay on;',
    ...temporary,
    ...http,
    '}',
  ]
  const config = join(own, 'nginx.conf')
  writeFileSync(config, lines.join('\n'))
  const args = ['-p', own, '-e', 'stderr', '-c', config]
  return start({ command: programs.nginx, args, env: programs.env, ready, ...(cores !== undefined && { cores }) })
}

const server = (port: number, ...locations: string[]) => `server { listen 127.0.0.1:${port}; ${locations.join('\n')} }`

const json = (path: string, value: object) =>
  `location = ${path} { default_type application/json; return 200 '${JSON.stringify(value)}'; }`

/** A refresh: the token is over in a second, so that the next request refreshes again. */
const renewed = () => ({
  access_token: 'r'.repeat(tokenLength),
  token_type: 'Bearer',
  expires_in: 1,
  refresh_token: 'f'.repeat(64),
})

function body(): string {
  const text = JSON.stringify({ items: [1, 2, 3], text: '' })
  return JSON.stringify({ items: [1, 2, 3], text: 'x'.repeat(bodyLength - text.length) })
}
