import { mkdirSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Ground } from './ground.ts'
import { gatewaySubject } from './sections/proxy.ts'

const [warmUpSeconds, seconds] = [5, 10]

/** Writes a CPU profile of a gateway under the load of warm sessions: its whole life, of which the load is nearly all. */
export async function writeProfile(ground: Ground, folder: string): Promise<void> {
  const target = resolve(folder)
  mkdirSync(target, { recursive: true })
  const flags = ['--cpu-prof', `--cpu-prof-dir=${target}`, '--cpu-prof-interval=500']
  const subject = await gatewaySubject(ground, 'profiled', 64, flags)
  await subject.load.run(warmUpSeconds)
  await subject.load.run(seconds)
  // It is written when the process ends.
  for (const stop of ground.toStop.splice(0).reverse()) await stop()
  process.stdout.write(`a profile of the gateway is in ${target}\n`)
}
