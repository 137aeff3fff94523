import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus } from 'node:os'

/** Who runs where. */
export interface Cores {
  /** What is measured runs on this one, alone. */
  subject: string
  /** The load, Redis, the upstream, the provider and this process, as a list for taskset. */
  rest: string
  /** Two for a subject of two processes; on fewer than four cores one of them is shared with the rest. */
  pair: string
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
  const rest = cores.slice(0, cores.length < 4 ? -1 : -2).join(',')
  const move = (...which: string[]) =>
    spawnSync('taskset', [...which, '--cpu-list', '--pid', rest, String(process.pid)], { stdio: 'ignore' }).status
  if (move() !== 0) throw new Error('the benchmark needs taskset, of util-linux, to keep processes on their cores')
  // Its helper threads, too; one of them may end meanwhile, which is no fault.
  move('--all-tasks')
  return { subject: String(subject), rest, pair: cores.slice(-2).join(','), count: cores.length }
}

/** `0-2,5` → 0, 1, 2, 5. */
export function coresOf(list: string): number[] {
  return list.split(',').flatMap(range => {
    const [first = Number.NaN, last = first] = range.split('-').map(Number)
    return Array.from({ length: last - first + 1 }, (_, index) => first + index)
  })
}

/** Milliseconds that these cores have worked so far, for whomever; what a hypervisor gave to others counts, too. */
export function workedMs(list: string): number {
  const lines = readFileSync('/proc/stat', 'utf8').split('\n')
  return coresOf(list).reduce((sum, core) => {
    const [, user = 0, nice = 0, system = 0, , , interrupts = 0, soft = 0, stolen = 0] = (
      lines.find(line => line.startsWith(`cpu${core} `)) ?? ''
    )
      .split(' ')
      .map(Number)
    return sum + (user + nice + system + interrupts + soft + stolen) * tickMs
  }, 0)
}

/** Clock ticks in /proc are hundredths of a second on every Linux that Node runs on (USER_HZ). */
export const tickMs = 10

/** What the figures depend on; no names. */
export function describeMachine() {
  return { node: process.version, cpu: cpus()[0]?.model ?? 'unknown', cores: cpus().length }
}

/** What a program says of its version; undefined when it is not there. */
export function versionOf(command: string, args: string[], env: Record<string, string> = {}): string | undefined {
  const { stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', env: { ...process.env, ...env } })
  return /\d+\.\d+[\w.-]*/.exec(`${stdout}${stderr}`)?.[0]
}
