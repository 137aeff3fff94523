import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { guard } from './redis.ts'

/** A server of somebody else's that runs for the test. */
export interface Program {
  /** All that it printed. */
  output(): string
  /** Ends it, and this one alone. */
  stop(): Promise<void>
}

/**
 * Starts a server and waits until an address of it answers 200. It dies with the test process, however that ends.
 * @throws when it ends before, or takes longer than 20 seconds; the message has what it printed
 */
export async function startProgram(options: {
  command: string
  args: string[]
  env: Record<string, string>
  ready: string
}): Promise<Program> {
  const child = spawn(options.command, options.args, {
    env: { PATH: process.env.PATH, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', text => {
      output += text
    })
  child.once('error', error => {
    output += error.message
  })
  guard(child)
  const running = () => child.pid !== undefined && child.exitCode === null && child.signalCode === null
  const program: Program = {
    output: () => output,
    stop: async () => {
      if (!running()) return
      const ended = once(child, 'exit')
      child.kill('SIGTERM')
      const late = setTimeout(() => child.kill('SIGKILL'), 3000)
      await ended
      clearTimeout(late)
    },
  }
  const limit = Date.now() + 20_000
  while (running() && Date.now() < limit) {
    const status = await fetch(options.ready).then(
      answer => answer.status,
      () => 0,
    )
    if (status === 200) return program
    await pause(100)
  }
  await program.stop()
  throw new Error(`${options.command} did not start:\n${output.slice(0, 4000)}`)
}
