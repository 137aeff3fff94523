import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createBrowser } from '../support/browser.ts'
import { freePort } from '../support/free-port.ts'
import { throughProvider } from '../support/login.ts'
import { startProvider } from '../support/provider.ts'
import { type Ground, startCountedRedis } from './ground.ts'
import { connections, createLoad } from './load.ts'
import { start } from './process.ts'
import type { Subject } from './rounds.ts'
import { startNginx } from './world.ts'

/** nginx as a proxy that does nothing else. */
export async function plainProxy(ground: Ground, name: string): Promise<Subject> {
  const port = await freePort()
  const { cores, world } = ground
  const { host } = new URL(world.upstream)
  const site = [
    `upstream api { server ${host}; keepalive ${2 * connections}; keepalive_requests 1000000000; }`,
    `server { listen 127.0.0.1:${port};`,
    'location / { proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection ""; } }',
  ]
  const ready = `http://127.0.0.1:${port}/`
  const running = await startNginx({ ...ground, cores: cores.subject }, 'plain', ready, site)
  ground.toStop.push(running.stop)
  return {
    name,
    pids: [running.pid],
    load: createLoad({ ...ground, port, cookies: ['a=b'] }),
  }
}

/**
 * Apache httpd with mod_auth_openidc as it comes, but for its sessions in Redis, sealed as is its default there; a user has
 * logged in, and his access token goes to the API. In one process of many threads, which is as good as many on one core.
 */
export async function openidcPeer(
  ground: Ground,
  name: string,
  apache: { httpd: string; modules: string },
): Promise<Subject> {
  const port = await freePort()
  const { cores, programs, world } = ground
  const redis = await startCountedRedis(ground)
  // Nothing is asked of it after the login.
  const provider = await startProvider({ accessTokens: 'jwt', lifetimes: { accessToken: 86_400 } })
  ground.toStop.push(provider.close)
  const folder = join(ground.folder, 'apache')
  mkdirSync(folder)
  const errorLog = join(folder, 'error.log')
  const modules = [
    'mpm_event',
    'authn_core',
    'authz_core',
    'authz_user',
    'proxy',
    'proxy_http',
    'headers',
    'auth_openidc',
  ]
  const config = [
    `ServerRoot ${folder}`,
    ...modules.map(module => `LoadModule ${module}_module ${apache.modules}/mod_${module}.so`),
    `PidFile ${folder}/pid`,
    `DefaultRuntimeDir ${folder}`,
    `Listen 127.0.0.1:${port}`,
    `ServerName localhost:${port}`,
    'User www-data',
    'Group www-data',
    `ErrorLog ${errorLog}`,
    'LogLevel error',
    'StartServers 1',
    'ServerLimit 1',
    // With fewer it would close connections that are kept alive whenever all of its threads are busy.
    `ThreadLimit ${2 * connections}`,
    `ThreadsPerChild ${2 * connections}`,
    `MaxRequestWorkers ${2 * connections}`,
    'KeepAlive On',
    'MaxKeepAliveRequests 0',
    'KeepAliveTimeout 600',
    `OIDCProviderMetadataURL ${provider.issuer}/.well-known/openid-configuration`,
    `OIDCClientID ${provider.clientId}`,
    `OIDCClientSecret ${provider.clientSecret}`,
    'OIDCProviderTokenEndpointAuth client_secret_post',
    `OIDCRedirectURI http://localhost:${port}/callback`,
    `OIDCCryptoPassphrase ${ground.sessionKey}`,
    'OIDCPKCEMethod S256',
    'OIDCScope "openid profile"',
    'OIDCSessionInactivityTimeout 7200',
    'OIDCCacheType redis',
    `OIDCRedisCacheServer 127.0.0.1:${redis.port}`,
    '<Location /api>',
    'AuthType openid-connect',
    'Require valid-user',
    'RequestHeader set Authorization "Bearer %{OIDC_access_token}e"',
    `ProxyPass ${world.upstream}/api`,
    '</Location>',
    '<Location /callback>',
    'AuthType openid-connect',
    'Require valid-user',
    '</Location>',
    '<Location /up>',
    `ProxyPass ${world.upstream}/up`,
    '</Location>',
  ]
  const file = join(folder, 'httpd.conf')
  writeFileSync(file, `${config.join('\n')}\n`)
  const running = await start({
    command: apache.httpd,
    args: ['-X', '-f', file],
    cores: cores.subject,
    env: programs.env,
    ready: `http://127.0.0.1:${port}/up`,
  })
  ground.toStop.push(running.stop)

  const url = `http://localhost:${port}`
  const browser = createBrowser({ origin: url })
  provider.autoLogin = 'ada'
  const end = await throughProvider(browser, await browser.navigate(`${url}/api/items`), provider, 'ada')
  const cookie = browser.jar.get('mod_auth_openidc_session')
  if (end.status !== 200 || cookie === undefined)
    throw new Error(`nobody could log in through Apache: ${end.status} ${end.url}\n${readFileSync(errorLog, 'utf8')}`)
  const cookies = [`mod_auth_openidc_session=${cookie}`]
  return { name, pids: [running.pid], redis, load: createLoad({ ...ground, port, cookies }) }
}
