import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Ground } from './ground.ts'
import { describeMachine, divideCores } from './machine.ts'
import { type Options, readOptions, type SectionName, usage } from './options.ts'
import { writeProfile } from './profile.ts'
import { findPrograms, versions } from './programs.ts'
import { type Section, written } from './report.ts'
import { growthSection } from './sections/growth.ts'
import { loginsSection } from './sections/logins.ts'
import { memorySection } from './sections/memory.ts'
import { proxySection } from './sections/proxy.ts'
import { refreshesSection } from './sections/refreshes.ts'
import { sweepSection } from './sections/sweep.ts'
import { workersSection } from './sections/workers.ts'
import { startWorld } from './world.ts'

const sections: Record<SectionName, (ground: Ground) => Promise<Section>> = {
  proxy: proxySection,
  logins: loginsSection,
  refreshes: refreshesSection,
  sweep: sweepSection,
  memory: memorySection,
  growth: growthSection,
  workers: workersSection,
}

const startedAt = performance.now()
const say = (text: string) =>
  void process.stderr.write(`${((performance.now() - startedAt) / 1000).toFixed(0).padStart(5)} s  ${text}\n`)

// Processes go with this one, by their guards; this makes sure that the folder does, too.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(130))

try {
  const options = readOptions(process.argv.slice(2))
  if (options.help) process.stdout.write(usage)
  else await run(options)
  process.exit(0)
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`)
  process.exit(1)
}

async function run(options: Options): Promise<void> {
  const programs = findPrograms()
  const cores = divideCores()
  const folder = mkdtempSync(join(tmpdir(), 'coatcheck-bench-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  const world = await startWorld({ programs, folder })
  const sessionKey = randomBytes(32).toString('base64')
  const ground: Ground = { quick: options.quick, cores, programs, world, folder, sessionKey, say, toStop: [] }
  if (options.profile !== undefined) return writeProfile(ground, options.profile)

  const about = { ...describeMachine(), ...versions(programs), quick: options.quick }
  process.stdout.write(
    `${Object.entries(about)
      .map(([name, value]) => `${name}: ${value}`)
      .join('\n')}\n\n`,
  )
  const found: Record<string, Section> = {}
  for (const name of options.sections) {
    say(`section ${name}`)
    const section = await sections[name](ground).finally(() => stopAll(ground))
    found[name] = section
    process.stdout.write(`${written(section)}\n`)
    if (options.json !== undefined)
      writeFileSync(options.json, `${JSON.stringify({ about, sections: found }, null, 2)}\n`)
  }
}

async function stopAll({ toStop }: Ground): Promise<void> {
  await Promise.all(
    toStop
      .splice(0)
      .reverse()
      .map(stop => stop()),
  )
}
