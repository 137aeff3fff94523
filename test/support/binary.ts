import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

/** A program the tests run, and how to get it. */
export interface Binary {
  /** Environment variable that may hold its path. */
  variable: string
  /** Names or absolute paths to try, in this order. */
  names: string[]
  /** The command that installs it. */
  install: string
}

/**
 * Path of a program from its variable, else from `PATH`.
 * @throws when there is none; the message says exactly what to install.
 */
export function findBinary({ variable, names, install }: Binary): string {
  const chosen = process.env[variable]
  const folders = (process.env.PATH ?? '').split(delimiter)
  const candidates = chosen
    ? [chosen]
    : names.flatMap(name => (name.startsWith('/') ? name : folders.map(f => join(f, name))))
  const found = candidates.find(isExecutable)
  if (found) return found
  const problem = chosen ? `${variable} names ${chosen}, which cannot be run` : `${names[0]} was not found on the PATH`
  throw new Error(`${problem}. Install it with \`${install}\`, or give its path in ${variable}.`)
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
