import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildApp } from '../app.ts'
import { ConfigError, type Environment, loadConfig } from '../config/load.ts'
import { createDemoApi } from './api.ts'
import { demoDefaults } from './defaults.ts'
import { auditingLevel, createGatewayLog } from './gateway-log.ts'
import { createNarrator } from './narrator.ts'
import { demoAccounts } from './provider/accounts.ts'
import { createDemoProvider } from './provider.ts'
import { portFrom, startOrExit, stopOnSignal } from './serving.ts'

const { env } = process
const loopback = '127.0.0.1'
const apiPath = '/api'
const sessionCookie = '__Host-coatcheck'
const port = portFrom('PORT', env.PORT, 8080)
const adminPort = portFrom('ADMIN_PORT', env.ADMIN_PORT, 9090)
const apiPort = portFrom('DEMO_API_PORT', env.DEMO_API_PORT, 3001)
const providerPort = portFrom('DEMO_PROVIDER_PORT', env.DEMO_PROVIDER_PORT, 9080)
const publicUrl = `http://localhost:${port}`
// Not localhost: cookies do not tell ports apart, and a provider is another site.
const issuer = `http://${loopback}:${providerPort}`

const provider = createDemoProvider({
  ...demoDefaults,
  issuer,
  redirectUri: `${publicUrl}/bff/callback`,
  postLogoutRedirectUri: `${publicUrl}/`,
})
const api = createDemoApi({ issuer, audience: demoDefaults.audience })

const colour = process.stdout.isTTY === true && env.NO_COLOR === undefined
const narrator = createNarrator({ print: console.log, colour, sessionCookie, apiPath })
const level = env.LOG_LEVEL || 'warn'

const gateway = await buildApp({
  logStream: createGatewayLog({ level, audit: narrator.audit, print: console.log }),
  config: configOrExit({
    PUBLIC_URL: publicUrl,
    HOST: loopback,
    PORT: String(port),
    ADMIN_PORT: String(adminPort),
    OIDC_ISSUER: issuer,
    OIDC_CLIENT_ID: demoDefaults.clientId,
    OIDC_CLIENT_SECRET: demoDefaults.clientSecret,
    UPSTREAM_API_PATH: apiPath,
    UPSTREAM_API_URL: `http://${loopback}:${apiPort}`,
    SPA_DIR: dirname(fileURLToPath(import.meta.resolve('#demo-spa/index.html'))),
    SESSION_COOKIE_NAME: sessionCookie,
    SESSION_IDLE_TIMEOUT: env.SESSION_IDLE_TIMEOUT,
    SESSION_ABSOLUTE_TIMEOUT: env.SESSION_ABSOLUTE_TIMEOUT,
    LOG_LEVEL: auditingLevel(level),
  }),
})

narrator.provider(provider)
narrator.api(api)
narrator.gateway(gateway.publicServer)

stopOnSignal(gateway, api, provider)
const on = (number: number) => ({ host: loopback, port: number })
await startOrExit('demo provider', { [providerPort]: 'DEMO_PROVIDER_PORT' }, () => provider.listen(on(providerPort)))
await startOrExit('demo API', { [apiPort]: 'DEMO_API_PORT' }, () => api.listen(on(apiPort)))
await startOrExit('gateway', { [port]: 'PORT', [adminPort]: 'ADMIN_PORT' }, () => gateway.listen())

const [{ username, password }] = demoAccounts
const idle = env.SESSION_IDLE_TIMEOUT
  ? `a session ends after ${env.SESSION_IDLE_TIMEOUT} without activity`
  : 'try SESSION_IDLE_TIMEOUT=90s npm run demo to watch a session end'
console.log(`
  Coatcheck demo

  Open      ${publicUrl}
  Sign in   user ${username}, password ${password}
  Idle      ${idle}

  The gateway on port ${port} serves the page and keeps the tokens. The demo provider (port ${providerPort}) signs
  users in, the demo API (port ${apiPort}) takes only access tokens. The browser gets one HttpOnly cookie.
  Below, each request tells its way, and each session its end. Static files, and what the page asks by itself,
  are left out. Ctrl-C ends it all.
`)

function configOrExit(environment: Environment) {
  try {
    return loadConfig(environment)
  } catch (fault) {
    if (!(fault instanceof ConfigError)) throw fault
    console.error(fault.message)
    process.exit(2)
  }
}
