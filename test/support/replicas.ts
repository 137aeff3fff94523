import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { freePort } from './free-port.ts'

const main = fileURLToPath(new URL('../../src/main.js', import.meta.url))

/** One gateway process. */
export interface Replica {
  readonly url: string
  readonly internalUrl: string
  readonly process: ChildProcess
  /** Log lines so far. */
  readonly log: Record<string, unknown>[]
  /** Audit events so far, in order. */
  events(name?: string): Record<string, unknown>[]
  /** Ends it as an orchestrator would, or with SIGKILL as a crash would; resolves when it is gone. */
  stop(signal?: 'SIGTERM' | 'SIGKILL'): Promise<void>
}

/** Several gateway processes that share a Redis, and one public origin: that of the first. */
export interface Replicas {
  /** The origin of the application; the provider returns here, so the first replica must be up for logins. */
  readonly url: string
  readonly all: Replica[]
  /** Starts the replica of an index again, on the same port. */
  restart(index: number): Promise<Replica>
  /** Audit events of all replicas that run now. */
  events(name?: string): Record<string, unknown>[]
  stop(): Promise<void>
}

/** Starts so many replicas, configured alike. */
export async function startReplicas(
  count: number,
  options: { provider: { env(): Record<string, string> }; redis: { url: string }; env?: Record<string, string> },
): Promise<Replicas> {
  const ports = await Promise.all(Array.from({ length: count }, freePort))
  const url = `http://localhost:${ports[0]}`
  const shared = {
    ...options.provider.env(),
    PUBLIC_URL: url,
    HOST: 'localhost',
    RATE_LIMIT_INVALID: '999999/s',
    RATE_LIMIT_LOGIN: '999999/s',
    REDIS_URL: options.redis.url,
    SESSION_KEYS: randomBytes(32).toString('base64'),
    ...options.env,
  }
  const start = (port: number) => startReplica(port, shared)
  const all = await Promise.all(ports.map(start))
  return {
    url,
    all,
    async restart(index) {
      const replica = await start(ports[index] ?? 0)
      all[index] = replica
      return replica
    },
    events: name => all.flatMap(replica => replica.events(name)),
    async stop() {
      await Promise.all(all.map(replica => replica.stop()))
    },
  }
}

async function startReplica(port: number, environment: Record<string, string>): Promise<Replica> {
  const adminPort = await freePort()
  const env = { PATH: process.env.PATH, ...environment, PORT: String(port), ADMIN_PORT: String(adminPort) }
  const child = spawn(process.execPath, [main], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  // A test that is ended by its time limit takes its replicas along.
  const kill = () => void child.kill('SIGKILL')
  process.once('exit', kill)
  child.once('exit', () => process.off('exit', kill))
  const log: Record<string, unknown>[] = []
  createInterface({ input: child.stdout }).on('line', line => log.push(JSON.parse(line)))
  const internalUrl = `http://127.0.0.1:${adminPort}`
  for (;;) {
    const ready = await fetch(`${internalUrl}/readyz`).catch(() => null)
    if (ready?.ok) break
    if (child.exitCode !== null) throw new Error(`a replica ended with code ${child.exitCode}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  return {
    url: `http://localhost:${port}`,
    internalUrl,
    process: child,
    log,
    events: name => log.filter(line => line.msg === 'audit' && (name === undefined || line.event === name)),
    async stop(signal = 'SIGTERM') {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill(signal)
      await once(child, 'exit')
    },
  }
}
