import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { guard } from '../support/redis.ts'
import type { Programs } from './programs.ts'

/** What came of a while of load. */
export interface LoadResult {
  requests: number
  seconds: number
  p50Ms: number
  p99Ms: number
}

/** A way of asking a server: connections, each with its next request when the last is answered. */
export interface Load {
  /** How many of the cookies are walked through, at most all. */
  walks(count: number): void
  /** @throws when any answer is not a whole 200 */
  run(seconds: number): Promise<LoadResult>
}

/** Of every load. */
export const connections = 64
/** Body of every answer, in bytes. */
export const bodyLength = 512

/**
 * Makes a load that walks through `Cookie` headers, one after the other and over again, asking for another path in each lap;
 * it goes on where it stopped.
 */
export function createLoad(deps: {
  programs: Programs
  folder: string
  port: number
  cookies: readonly string[]
  paths?: readonly string[]
  connections?: number
}): Load {
  const { programs, folder, port, cookies, paths = ['/api/items'], connections: wanted = connections } = deps
  const file = join(folder, `cookies-${randomUUID()}`)
  writeFileSync(file, cookies.join('\n'))
  let [count, offset] = [cookies.length, 0]

  return {
    walks(most) {
      count = Math.max(1, Math.min(Math.round(most), cookies.length))
    },
    async run(seconds) {
      const script = resolve('test/bench/walk.lua')
      const options = ['-t1', `-c${wanted}`, `-d${seconds}s`, '--timeout', '10s', '--latency', '-s', script]
      const url = `http://127.0.0.1:${port}`
      const walk = [file, String(count), String(offset), `localhost:${port}`, paths.join(',')]
      const said = await outputOf(programs.wrk, [...options, url, '--', ...walk], programs.env)
      const result = JSON.parse(/^RESULT (.*)$/m.exec(said)?.[1] ?? 'null')
      if (result === null) throw new Error(`wrk said nothing of use:\n${said}`)
      offset += result.requests
      // wrk counts only statuses from 400 on: an answer of another size tells of a redirect, say.
      const short = result.bytes < result.requests * bodyLength
      if (result.refused > 0 || result.broken > 0 || short || result.requests === 0)
        throw new Error(`answers at ${url}${paths[0]} that are not 200 as they should be: ${JSON.stringify(result)}`)
      return result
    },
  }
}

/** Loads of several servers, run at once; the latencies are those of the slowest. */
export function together(loads: readonly Load[]): Load {
  return {
    walks(count) {
      for (const load of loads) load.walks(count)
    },
    async run(seconds) {
      const results = await Promise.all(loads.map(load => load.run(seconds)))
      const most = (field: keyof LoadResult) => Math.max(...results.map(result => result[field]))
      const requests = results.reduce((sum, result) => sum + result.requests, 0)
      return { requests, seconds: most('seconds'), p50Ms: most('p50Ms'), p99Ms: most('p99Ms') }
    },
  }
}

async function outputOf(command: string, args: string[], env: Record<string, string>): Promise<string> {
  const child = spawn(command, args, {
    env: { PATH: process.env.PATH, ...env },
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  guard(child)
  let output = ''
  child.stdout.setEncoding('utf8').on('data', text => {
    output += text
  })
  await once(child, 'close')
  return output
}
