import { readFile, stat } from 'node:fs/promises'
import type { Clock } from '../core/clock.ts'
import { ProviderUnavailable } from '../core/errors.ts'

/** A value made of files, which follows them without a restart. */
export interface Watched<T> {
  /**
   * The value of the newest sound content; the files are looked at once a second at most, and only when asked.
   *
   * @throws {ProviderUnavailable} when they have never been sound
   */
  get(): Promise<T>
  /** Looks at once, so that {@link get} gives what is there now: the same value as before if nothing has changed. */
  look(): Promise<void>
}

/** Tells the operator; fields and a sentence. */
export interface Warn {
  warn(fields: object, message: string): void
}

export interface WatchedFilesOptions<T> {
  /** Read together, because they belong together. */
  files: readonly string[]
  /** What they hold, or what is wrong with it. */
  parse(texts: readonly string[]): { value: T } | { fault: string }
  log: Warn
  clock: Clock
}

const intervalMs = 1000
const maximumBytes = 65_536

/**
 * Files that hold a credential. They are compared by content: watch handles are lost when Kubernetes swaps the link above a
 * file, times and sizes may stay as they were, and a small file read once a second costs nothing. What is missing, empty or
 * broken, say because it is just being written, changes nothing but the log.
 */
export function createWatchedFiles<T>({ files, parse, log, clock }: WatchedFilesOptions<T>): Watched<T> {
  let held: { texts: readonly string[]; value: T } | undefined
  let lookedAt = Number.NEGATIVE_INFINITY
  let complained = false
  let looking: Promise<void> | undefined

  const complain = (problem: string) => {
    if (!complained) log.warn({ files, problem }, 'a credential cannot be read; the last good one stays in use')
    complained = true
  }

  const lookNow = async () => {
    lookedAt = clock.now()
    const texts = await Promise.all(files.map(readText))
    const sound = texts.filter(text => text !== null)
    if (sound.length < files.length) return complain('is not a file that can be read, of at most 64 kB and not empty')
    const same = held !== undefined && sound.every((text, index) => text === held?.texts[index])
    const parsed = same ? null : parse(sound)
    if (parsed !== null && 'fault' in parsed) return complain(parsed.fault)
    complained = false
    if (parsed !== null) held = { texts: sound, value: parsed.value }
  }

  const look = () => {
    looking ??= lookNow().finally(() => {
      looking = undefined
    })
    return looking
  }

  // So that there is a last good value from the start.
  void look()
  return {
    look,
    async get() {
      // A clock that was set back must not stop the looking.
      if (looking !== undefined || Math.abs(clock.now() - lookedAt) >= intervalMs) await look()
      if (held === undefined) throw new ProviderUnavailable({ detail: 'the client has no credential that can be read' })
      return held.value
    },
  }
}

/** The text of a file without its final newline; null when there is nothing to be had. */
async function readText(path: string): Promise<string | null> {
  try {
    const status = await stat(path)
    if (!status.isFile() || status.size > maximumBytes) return null
    return (await readFile(path, 'utf8')).replace(/\r?\n$/, '') || null
  } catch {
    return null
  }
}
