import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Readable } from 'node:stream'
import { Redis } from 'ioredis'
import { findBinary } from './binary.ts'
import { freePort } from './free-port.ts'
import { dumpAll, keysOf } from './redis-dump.ts'
import { monitorRedis, type RedisMonitor } from './redis-monitor.ts'

/** How the server is set up. */
export interface RedisOptions {
  /** Folder for an append-only file; without one nothing is kept, and a restart is empty. */
  dir?: string
  password?: string
  /** More arguments of redis-server, e.g. `['--maxmemory', '2mb']`. */
  args?: string[]
}

/** A real Redis of the test's own. */
export interface TestRedis {
  readonly url: string
  readonly port: number
  /** A client of the test's, apart from those of the gateway; it gives up rather than wait. */
  readonly client: Redis
  /** Ends the server for good. */
  stop(): Promise<void>
  /** The server stops answering while its connections stay open. */
  pause(): void
  resume(): void
  /** Ends the server and starts it anew on the same port; `crash` kills it, as a power cut would. */
  restart(options?: { crash?: boolean }): Promise<void>
  /** Ends the server so that connections are refused, until `restart`; by default it may say goodbye to its replicas. */
  down(signal?: 'SIGTERM' | 'SIGKILL'): Promise<void>
  /** Every key and value of any type as raw bytes, to look for what must not be in there. */
  dump(): Promise<Buffer>
  keys(): Promise<string[]>
  /** Watches what is asked for requests, until stopped. */
  monitor(): Promise<RedisMonitor>
}

/**
 * Starts redis-server on a free port of 127.0.0.1. It dies with the test process, however that ends.
 * @throws when redis-server is missing; the message says what to install.
 */
export async function startRedis(options: RedisOptions = {}): Promise<TestRedis> {
  const program = redisServer()
  let { port, server } = await startOnFreePort(program, options)
  const auth = options.password ? `:${encodeURIComponent(options.password)}@` : ''
  const url = `redis://${auth}127.0.0.1:${port}`
  const client = new Redis(url, { lazyConnect: true, maxRetriesPerRequest: 2, retryStrategy: () => 50 })
  // Without a listener a refused connection would be printed; each command reports its own.
  client.on('error', () => undefined)

  const end = (signal: NodeJS.Signals) => endServer(server, signal)
  return {
    url,
    port,
    client,
    stop: async () => {
      client.disconnect()
      await end('SIGKILL')
    },
    pause: () => {
      server.kill('SIGSTOP')
    },
    resume: () => {
      server.kill('SIGCONT')
    },
    restart: async ({ crash = false } = {}) => {
      await end(crash ? 'SIGKILL' : 'SIGTERM')
      const started = await start(program, port, options)
      if (!started) throw new Error(`redis-server did not come back on port ${port}`)
      server = started
    },
    down: (signal = 'SIGTERM') => end(signal),
    dump: () => dumpAll(client),
    keys: () => keysOf(client),
    monitor: () => monitorRedis(port),
  }
}

/** The path of redis-server. */
export const redisServer = () =>
  findBinary({ variable: 'REDIS_SERVER', names: ['redis-server'], install: 'apt-get install redis-server' })

async function startOnFreePort(
  program: string,
  options: RedisOptions,
): Promise<{ port: number; server: ChildProcess }> {
  for (let attempt = 0; attempt < 5; attempt += 1) {
    const port = await freePort()
    const server = await start(program, port, options)
    if (server) return { port, server }
  }
  throw new Error('redis-server found no free port in five attempts')
}

/** The server once it takes connections; null when somebody else took the port meanwhile. */
function start(program: string, port: number, options: RedisOptions): Promise<ChildProcess | null> {
  const kept = options.dir ? ['--dir', options.dir, '--appendonly', 'yes', '--appendfsync', 'always'] : []
  const secret = options.password ? ['--requirepass', options.password] : []
  const common = ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '']
  return launch(program, [...common, ...kept, ...secret, ...(options.args ?? [])], 'Ready to accept connections')
}

/** A server once it has printed that it is ready; null when its port is somebody else's. */
export async function launch(program: string, args: string[], ready: string): Promise<ChildProcess | null> {
  // Apart from the terminal's process group: a Ctrl-C reaches the test, and the guard below does the rest.
  const server = spawn(program, args, { stdio: ['ignore', 'pipe', 'ignore'], detached: true })
  server.unref()
  guard(server)
  const said = await output(server, text => text.includes(ready))
  if (said.includes(ready)) return server
  if (said.includes('Address already in use')) return null
  throw new Error(`redis-server did not start:\n${said}`)
}

/** Ends a server, a paused one too; resolves when it is gone. */
export async function endServer(server: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null) return
  const ended = once(server, 'exit')
  server.ref()
  server.kill(signal)
  server.kill('SIGCONT')
  await ended
}

/** What the server printed until it satisfied `enough` or ended. */
function output(server: ChildProcess, enough: (text: string) => boolean): Promise<string> {
  return new Promise(resolve => {
    let text = ''
    const stream = server.stdout as Readable & { unref?(): void }
    stream.setEncoding('utf8')
    stream.on('data', chunk => {
      text += chunk
      if (!enough(text)) return
      stream.removeAllListeners('data').resume()
      stream.unref?.()
      resolve(text)
    })
    server.once('exit', () => resolve(text))
    server.once('error', error => resolve(error.message))
  })
}

/** Kills the server when this process is gone, even by SIGKILL: the guard's input ends then. */
export function guard(server: ChildProcess): void {
  const kill = `cat >/dev/null; kill -9 ${server.pid} 2>/dev/null`
  const watcher = spawn('/bin/sh', ['-c', kill], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
  watcher.unref()
  const input = watcher.stdin as unknown as { unref?(): void }
  input.unref?.()
  server.once('exit', () => watcher.kill('SIGKILL'))
}
