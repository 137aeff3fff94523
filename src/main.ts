#!/usr/bin/env node
import { buildApp } from './app.ts'
import { type Config, ConfigError, loadConfig } from './config/load.ts'
import { joinPrimary } from './workers/primary.ts'
import { createWorkers, WorkerFailed } from './workers/workers.ts'

/** How long a shutdown may take before it is cut short, in milliseconds. */
const shutdownLimitMs = 25_000

// Three kinds of process run this program: one that does everything, or a primary and its workers.
const primary = (await joinPrimary()) ?? undefined
const config = await readConfig()
const workers =
  primary === undefined && config.workers > 1
    ? createWorkers({ count: config.workers, elapsed: () => performance.now() })
    : undefined
const app = await buildApp({ config, workers, primary })

let stopping = false
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void stop())
primary?.onStop(() => void stop())

try {
  await app.listen()
} catch (error) {
  // One that was told to stop before it listened is stopped by that.
  if (!stopping) {
    if (error instanceof WorkerFailed) await fail(error.message, error.code)
    await fail(`The gateway cannot listen: ${error instanceof Error ? error.message : error}`, 1)
  }
}

async function readConfig(): Promise<Config> {
  try {
    return loadConfig(process.env)
  } catch (error) {
    if (error instanceof ConfigError) return await fail(error.message, 2)
    throw error
  }
}

/** A terminal's Ctrl-C reaches a primary and its workers, who are also told by it: the second word changes nothing. */
async function stop(): Promise<void> {
  if (stopping) return
  stopping = true
  primary?.stopping()
  // What hangs must not keep an orchestrator waiting until it kills.
  setTimeout(cutShort, shutdownLimitMs).unref()
  await app.close()
  await primary?.done()
  process.exit(0)
}

function cutShort(): void {
  workers?.kill()
  process.exit(1)
}

/** A worker leaves it to its primary to say so: once, for all of them. */
async function fail(message: string, code: number): Promise<never> {
  if (primary === undefined) process.stderr.write(`${message}\n`)
  else await primary.failed({ message, code })
  process.exit(code)
}
