import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus } from 'node:os'

/** Who runs where. */
export interface Cores {
  /** What is measured runs on this one, alone. */
  subject: string
  /** The load, Redis, the upstream, the provider and this process, as a list for taskset. */
  rest: string
  count: number
}

/**
 * Divides the cores that this process may use, and moves it to those of the rest; what it starts follows, unless it is
 * started elsewhere on purpose.
 * @throws when there are not two of them, or no taskset
 */
export function divideCores(): Cores {
  const allowed = /^Cpus_allowed_list:\s*(.+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? ''
  const cores = coresOf(allowed)
  const subject = cores.at(-1)
  if (subject === undefined || cores.length < 2)
    throw new Error('the benchmark needs two cores: one is for what it measures')
  const rest = cores.slice(0, -1).join(',')
  const { status } = spawnSync('taskset', ['--all-tasks', '--cpu-list', '--pid', rest, String(process.pid)])
  if (status !== 0) throw new Error('the benchmark needs taskset, of util-linux, to keep processes on their cores')
  return { subject: String(subject), rest, count: cores.length }
}

/** `0-2,5` → 0, 1, 2, 5. */
export function coresOf(list: string): number[] {
  return list.split(',').flatMap(range => {
    const [first = Number.NaN, last = first] = range.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, index) => first + index)
  })
}

/** What the figures depend on; no names. */
export function describeMachine() {
  return { node: process.version, cpu: cpus()[0]?.model ?? 'unknown', cores: cpus().length }
}

/** What a program says of its version; undefined when it is not there. */
export function versionOf(command: string, args: string[], env: Record<string, string> = {}): string | undefined {
  const { stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', env: { ...process.env, ...env } })
  return /\d+\.\d+[\w.-]*/.exec(`${stdout}${stderr}`)?.[0]
}
