import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freePort } from '../support/free-port.ts'
import { guard, startRedis, type TestRedis } from '../support/redis.ts'
import type { Cores } from './machine.ts'
import type { Planting } from './plant.ts'
import { cpuMs, type Running, start } from './process.ts'
import type { Programs } from './programs.ts'
import { tokenLength, type World } from './world.ts'

/** What every section stands on. */
export interface Ground {
  quick: boolean
  cores: Cores
  programs: Programs
  world: World
  /** Goes with this process. */
  folder: string
  /** `SESSION_KEYS` of all gateways, in base64. */
  sessionKey: string
  /** Tells whoever waits how far it is. */
  say(text: string): void
  /** What is to be stopped when the section is over. */
  toStop: (() => Promise<void>)[]
}

/** A Redis of which CPU and commands are counted. */
export interface CountedRedis extends TestRedis {
  readonly pid: number
  cpuMs(): number
  /** Commands so far: what gateways have sent, and all that was run, those inside scripts included. */
  commands(): Promise<{ sent: number; run: number }>
  usedBytes(): Promise<number>
}

export async function startCountedRedis(ground: Ground): Promise<CountedRedis> {
  const redis = await startRedis()
  ground.toStop.push(redis.stop)
  const info = async (part: string, field: RegExp) => Number(field.exec(await redis.client.info(part))?.[1])
  const pid = await info('server', /^process_id:(\d+)/m)
  return {
    ...redis,
    pid,
    cpuMs: () => cpuMs(pid),
    async commands() {
      const calls = [...(await redis.client.info('commandstats')).matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)]
      const sum = (counts: (name: string) => boolean) =>
        calls.reduce((total, [, name = '', count]) => total + (counts(name) ? Number(count) : 0), 0)
      // Other commands are sent by logins and logouts alone, or by this process.
      return {
        sent: sum(name => name === 'evalsha' || name === 'eval' || name === 'ping'),
        run: sum(name => name !== 'info'),
      }
    },
    usedBytes: () => info('memory', /^used_memory:(\d+)/m),
  }
}

/** A gateway of which is measured. */
export interface Gateway extends Running {
  port: number
}

const main = fileURLToPath(new URL('../../src/main.js', import.meta.url))

/** Starts a gateway alone on its core, set up as in production. */
export async function startCoatcheck(
  ground: Ground,
  redis: { url: string },
  {
    env = {},
    execArgv = [],
    port,
    cores = ground.cores.subject,
  }: { env?: Record<string, string>; execArgv?: string[]; port?: number; cores?: string } = {},
): Promise<Gateway> {
  const [ownPort, adminPort] = await Promise.all([port ?? freePort(), freePort()])
  const running = await start({
    command: process.execPath,
    args: [...execArgv, main],
    cores,
    env: {
      NODE_ENV: 'production',
      HOST: '127.0.0.1',
      PORT: String(ownPort),
      ADMIN_PORT: String(adminPort),
      PUBLIC_URL: `http://localhost:${ownPort}`,
      REDIS_URL: redis.url,
      SESSION_KEYS: ground.sessionKey,
      UPSTREAM_API_PATH: '/api',
      UPSTREAM_API_URL: ground.world.upstream,
      ...ground.world.env,
      ...env,
    },
    ready: `http://127.0.0.1:${adminPort}/readyz`,
  })
  ground.toStop.push(running.stop)
  return { ...running, port: ownPort }
}

/** Plants sessions by a process on the core of what is measured, which rests meanwhile. Returns the `Cookie` headers of their browsers. */
export async function plantSessions(
  ground: Ground,
  redis: { url: string },
  plan: Partial<Planting> & { count: number },
): Promise<string[]> {
  const { issuer, clientId } = ground.world
  const { sessionKey, folder, cores } = ground
  const file = join(folder, `plan-${plan.count}-${performance.now()}.json`)
  const usual = { redisUrl: redis.url, issuer, clientId, sessionKey, tokenLength, slots: [], tokensLiveMs: 86_400_000 }
  writeFileSync(file, JSON.stringify({ ...usual, ...plan }))
  const script = fileURLToPath(new URL('plant-process.js', import.meta.url))
  const child = spawn('taskset', ['-c', cores.subject, process.execPath, script, file], {
    stdio: ['ignore', 'ignore', 'inherit'],
    detached: true,
  })
  guard(child)
  const [code] = await once(child, 'exit')
  if (code !== 0) throw new Error('sessions could not be planted')
  const cookies = JSON.parse(readFileSync(file, 'utf8')) as string[]
  rmSync(file)
  return cookies.map(value => `__Host-coatcheck=${value}`)
}
