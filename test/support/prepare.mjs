// Runs before the tests are compiled (`pretest`), so that `npm ci && npm test` is enough on a bare machine.
// Plain JavaScript without a dependency: nothing is built at that point.
import { spawnSync } from 'node:child_process'
import { accessSync, constants, readFileSync, rmSync } from 'node:fs'
import { delimiter, join } from 'node:path'

const isExecutable = path => {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

const onPath = name => (process.env.PATH ?? '').split(delimiter).some(folder => isExecutable(join(folder, name)))

// Debian's package, the variable that may name the program, and its names: as in redis.ts and chromium.ts beside this.
const programs = [
  { name: 'redis-server', variable: 'REDIS_SERVER', found: ['redis-server'] },
  { name: 'chromium', variable: 'CHROMIUM', found: ['chromium', 'chromium-browser', 'google-chrome'] },
]

const missing = () =>
  programs
    .filter(
      ({ variable, found }) => !(process.env[variable] ? isExecutable(process.env[variable]) : found.some(onPath)),
    )
    .map(({ name }) => name)

const run = (command, args, env = {}) =>
  spawnSync(command, args, { stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, ...env } }).status === 0

const say = text => console.error(`prepare: ${text}`)

const aptInstall = packages => {
  // The wait is for an unattended upgrade that holds the lock, as on a machine just booted.
  const apt = (...args) =>
    run('apt-get', ['-q', '-o', 'DPkg::Lock::Timeout=300', '-o', 'Acquire::Retries=3', ...args], {
      DEBIAN_FRONTEND: 'noninteractive',
    })
  say(`installing ${packages.join(' and ')} from the system's packages; this happens once and may take some minutes`)
  // A failed update is no reason to stop: the index of an earlier one may do.
  if (!apt('update')) say('the package index could not be brought up to date, going on with what is there')
  return apt('install', '--yes', '--no-install-recommends', ...packages)
}

if (missing().length > 0 && process.getuid?.() === 0 && onPath('apt-get')) aptInstall(missing())

if (missing().length > 0) {
  say(`the tests need ${missing().join(' and ')}: install and run again`)
  say(`on Debian: sudo apt-get update && sudo apt-get install --no-install-recommends ${missing().join(' ')}`)
  say(
    `elsewhere: put them on the PATH, or give their paths in ${programs.map(({ variable }) => variable).join(' and ')}`,
  )
  process.exit(1)
}

// A test whose source was renamed or deleted would otherwise go on running from its last compilation.
rmSync('build', { recursive: true, force: true })

// tap compiles its plugins in, and comes from the registry with one that breaks on TypeScript 7 (see .taprc).
const tapAsBuilt = readFileSync(new URL(import.meta.resolve('@tapjs/test/test-built')), 'utf8')
if (tapAsBuilt.includes('@tapjs/typescript')) {
  say('building tap without its TypeScript plugin')
  if (!run('tap', ['build'])) process.exit(1)
}
