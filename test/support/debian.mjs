// Programs that tests run, from Debian's packages. Plain JavaScript without a dependency: nothing is built at that point.
import { spawnSync } from 'node:child_process'
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { delimiter, join } from 'node:path'

export const isExecutable = path => {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

export const onPath = name => (process.env.PATH ?? '').split(delimiter).some(folder => isExecutable(join(folder, name)))

export const isRoot = () => process.getuid?.() === 0

/** What a command printed. @throws when it fails */
export const run = (command, args, options = {}) => {
  const { status, stdout } = spawnSync(command, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    ...options,
  })
  if (status !== 0) throw new Error(`${command} ${args[0]} failed`)
  return stdout
}

const aptGet = (args, options = {}) =>
  // The wait is for an unattended upgrade that holds the lock, as on a machine just booted.
  run('apt-get', ['-q', '-o', 'DPkg::Lock::Timeout=300', '-o', 'Acquire::Retries=3', ...args], {
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    ...options,
  })

let updated = false

/** Brings the package index up to date, as root and once. A failure is no reason to stop: the index of an earlier time may do. */
export const aptUpdate = say => {
  if (updated || !isRoot()) return
  updated = true
  try {
    aptGet(['update'])
  } catch {
    say('the package index could not be brought up to date, going on with what is there')
  }
}

/** Installs packages. @throws when that fails, and unless root, saying what to install */
export const aptInstall = names => {
  if (!isRoot())
    throw new Error(`install these and run again: sudo apt-get install --no-install-recommends ${names.join(' ')}`)
  aptGet(['install', '--yes', '--no-install-recommends', ...names])
}

const isInstalled = name =>
  /^Status: install ok installed$/m.test(spawnSync('dpkg-query', ['--status', name], { encoding: 'utf8' }).stdout)

export const notInstalled = names => names.filter(name => !isInstalled(name))

/** Names of the packages that these archives depend on, the first of each choice. */
const dependenciesOf = archives => {
  const lines = archives.flatMap(archive => run('dpkg-deb', ['--field', archive, 'Depends']).split(','))
  const names = lines.map(line => /^\s*([^\s:(|]+)/.exec(line)?.[1]).filter(name => name !== undefined)
  return [...new Set(names)]
}

/**
 * Unpacks packages into `folder`/root and no more, so that no service is set up; once. Returns the names of the packages
 * that they depend on, without `unneeded`, which are there to set up a service and not to run the program.
 */
export const unpack = ({ folder, packages, unneeded, finish = () => {} }, say) => {
  if (existsSync(join(folder, 'needs.json'))) return JSON.parse(readFileSync(join(folder, 'needs.json'), 'utf8'))
  // Made elsewhere and then moved, so that half of it is never taken for the whole.
  const making = `${folder}.${process.pid}`
  rmSync(making, { recursive: true, force: true })
  const cwd = join(making, 'archives')
  mkdirSync(cwd, { recursive: true })
  try {
    aptUpdate(say)
    say(`fetching ${packages.join(', ')}`)
    aptGet(['download', ...packages], { cwd })
    const archives = readdirSync(cwd).map(name => join(cwd, name))
    for (const archive of archives) run('dpkg-deb', ['--extract', archive, join(making, 'root')])
    finish(join(making, 'root'))
    const needs = dependenciesOf(archives).filter(name => !unneeded.test(name) && !packages.includes(name))
    writeFileSync(join(making, 'needs.json'), JSON.stringify(needs))
    const versions = archives.map(archive => run('dpkg-deb', ['--field', archive, 'Package', 'Version']))
    writeFileSync(
      join(making, 'versions.json'),
      JSON.stringify(
        Object.fromEntries(versions.map(text => [/Package: (.*)/.exec(text)?.[1], /Version: (.*)/.exec(text)?.[1]])),
      ),
    )
    rmSync(folder, { recursive: true, force: true })
    renameSync(making, folder)
    return needs
  } finally {
    rmSync(making, { recursive: true, force: true })
  }
}
