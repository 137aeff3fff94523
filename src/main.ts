#!/usr/bin/env node
import { buildApp } from './app.ts'
import { type Config, ConfigError, loadConfig } from './config/load.ts'

/** How long a shutdown may take before it is cut short, in milliseconds. */
const shutdownLimitMs = 25_000

const config = readConfig()
const app = await buildApp({ config })

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void stop())

try {
  await app.listen()
} catch (error) {
  fail(`The gateway cannot listen: ${error instanceof Error ? error.message : error}`, 1)
}

function readConfig(): Config {
  try {
    return loadConfig(process.env)
  } catch (error) {
    if (error instanceof ConfigError) fail(error.message, 2)
    throw error
  }
}

async function stop(): Promise<void> {
  // What hangs must not keep an orchestrator waiting until it kills.
  setTimeout(() => process.exit(1), shutdownLimitMs).unref()
  await app.close()
  process.exit(0)
}

function fail(message: string, code: number): never {
  process.stderr.write(`${message}\n`)
  process.exit(code)
}
