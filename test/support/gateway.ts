import { type App, type AppOptions, buildApp } from '../../src/app.ts'
import { loadConfig } from '../../src/config/load.ts'
import { freePort } from './free-port.ts'

/** How the gateway under test is set up. */
export interface GatewayOptions {
  /** The provider's part of the environment, from `provider.env()`. */
  provider: { env(): Record<string, string> }
  /** Upstreams by path, e.g. `{ '/api': upstream.url }`. */
  upstreams?: Record<string, string>
  /** Further environment. */
  env?: Record<string, string>
  /** A port that a provider knows already; a free one when absent. */
  port?: number
  clock?: AppOptions['clock']
  providerLimits?: AppOptions['providerLimits']
  clientLimits?: AppOptions['clientLimits']
}

/** A gateway in this process, on real sockets. */
export interface TestGateway {
  /** `http://localhost:<port>`: another site than the provider's `http://127.0.0.1:<port>`. */
  readonly url: string
  readonly port: number
  readonly internalUrl: string
  readonly app: App
  /** Every log line so far, at the most talkative level. */
  readonly log: string[]
  /** The audit events so far. */
  events(name?: string): Record<string, unknown>[]
  close(): Promise<void>
}

/** Starts a gateway on a port of its own, configured through the environment as users do. */
export async function startGateway(options: GatewayOptions): Promise<TestGateway> {
  const [port, adminPort] = await Promise.all([options.port ?? freePort(), freePort()])
  const url = `http://localhost:${port}`
  const upstreams = Object.entries(options.upstreams ?? {}).flatMap(([path, target], index) => [
    [`UPSTREAM_U${index}_PATH`, path],
    [`UPSTREAM_U${index}_URL`, target],
  ])
  const config = loadConfig({
    PUBLIC_URL: url,
    HOST: 'localhost',
    PORT: String(port),
    ADMIN_PORT: String(adminPort),
    LOG_LEVEL: 'trace',
    ACCESS_LOG: 'true',
    // All of a test comes from one address.
    RATE_LIMIT_INVALID: '999999/s',
    RATE_LIMIT_LOGIN: '999999/s',
    ...options.provider.env(),
    ...Object.fromEntries(upstreams),
    ...options.env,
  })
  const log: string[] = []
  const app = await buildApp({
    config,
    logStream: { write: line => void log.push(line) },
    ...(options.clock && { clock: options.clock }),
    ...(options.providerLimits && { providerLimits: options.providerLimits }),
    ...(options.clientLimits && { clientLimits: options.clientLimits }),
  })
  await app.listen()
  return {
    url,
    port,
    internalUrl: `http://127.0.0.1:${adminPort}`,
    app,
    log,
    events: name => {
      const events = log.map(line => JSON.parse(line) as Record<string, unknown>).filter(line => line.msg === 'audit')
      return name === undefined ? events : events.filter(event => event.event === name)
    },
    close: app.close,
  }
}
