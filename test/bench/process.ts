import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { guard } from '../support/redis.ts'
import { tickMs } from './machine.ts'

/** A process of the benchmark's. */
export interface Running {
  readonly pid: number
  /** What it wrote to stderr. */
  errors(): string
  /** Asks it to end, and ends it when it does not. */
  stop(): Promise<void>
}

export interface Start {
  command: string
  args: string[]
  env?: Record<string, string>
  /** Where it runs, as a list for taskset; where this process does, if absent. */
  cores?: string
  /** Answers 200 once the process is up. */
  ready: string
  readyHeaders?: Record<string, string>
}

/**
 * Starts a server and waits for it. It dies with this process, however that ends.
 * @throws when it ends before, or takes longer than 30 seconds
 */
export async function start({ command, args, env, cores, ready, readyHeaders }: Start): Promise<Running> {
  const [program, ...rest] = cores === undefined ? [command, ...args] : ['taskset', '-c', cores, command, ...args]
  const child = spawn(program ?? command, rest, {
    env: { PATH: process.env.PATH, ...env },
    // A group of its own: a Ctrl-C reaches this process alone, and the guard ends the others.
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  guard(child)
  let errors = ''
  child.once('error', error => {
    errors += error.message
  })
  child.stderr.setEncoding('utf8').on('data', text => {
    errors = (errors + text).slice(-4000)
  })
  const running: Running = { pid: child.pid ?? 0, errors: () => errors, stop: () => stop(child) }
  for (let waitedMs = 0; waitedMs < 30_000 && lives(child); waitedMs += 50) {
    const answer = await fetch(ready, { redirect: 'manual', ...(readyHeaders && { headers: readyHeaders }) }).catch(
      () => null,
    )
    await answer?.arrayBuffer()
    if (answer?.status === 200) return running
    await sleep(50)
  }
  await stop(child)
  throw new Error(`${command} ${args.join(' ')} did not start:\n${errors}`)
}

const lives = (child: ChildProcess) => child.pid !== undefined && child.exitCode === null && child.signalCode === null

async function stop(child: ChildProcess): Promise<void> {
  if (!lives(child)) return
  const ended = once(child, 'exit')
  child.kill('SIGTERM')
  const late = setTimeout(() => child.kill('SIGKILL'), 10_000)
  await ended
  clearTimeout(late)
}

/** Milliseconds of CPU that processes have used so far, with all of their threads and children. */
export function cpuMs(...pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + ownCpuMs(pid) + cpuMs(...childrenOf(pid)), 0)
}

function ownCpuMs(pid: number): number {
  // The name, in brackets, may have blanks in it.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ')
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) * tickMs
}

/** Processes that a process has started and that have not ended. */
export function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
}
