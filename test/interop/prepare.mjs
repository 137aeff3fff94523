// Fetches the OpenID Providers that `npm run test:interop` runs against, from Debian's packages. What they need is
// installed; the providers themselves are unpacked into .interop/ and no more, so that no service is set up here.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

const folder = resolve('.interop')

/** Packages to unpack, and what has to be installed beside what they depend on. */
const unpacked = [
  'glewlwyd',
  'glewlwyd-common',
  'liblemonldap-ng-portal-perl',
  'liblemonldap-ng-handler-perl',
  'liblemonldap-ng-common-perl',
]
const beside = ['sqlite3', 'libplack-perl', 'libstring-random-perl', 'libcrypt-openssl-bignum-perl']

/** Needed to set up a service, not to run the program. */
const forService = /^(debconf|ucf|dbconfig-.*|adduser|lsb-base|lemonldap-ng-.*|init-system-helpers)$/

const say = text => console.error(`interop: ${text}`)

const run = (command, args, options = {}) => {
  const { status, stdout } = spawnSync(command, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    ...options,
  })
  if (status !== 0) throw new Error(`${command} ${args[0]} failed`)
  return stdout
}
const aptGet = (...args) => run('apt-get', ['-q', '-o', 'DPkg::Lock::Timeout=300', '-o', 'Acquire::Retries=3', ...args])

/** Names of the packages that these archives depend on, the first of each choice. */
const dependenciesOf = archives => {
  const lines = archives.flatMap(archive => run('dpkg-deb', ['--field', archive, 'Depends']).split(','))
  const names = lines.map(line => /^\s*([^\s:(|]+)/.exec(line)?.[1]).filter(name => name !== undefined)
  return [...new Set(names)].filter(name => !forService.test(name) && !unpacked.includes(name))
}

const isInstalled = name =>
  /^Status: install ok installed$/m.test(spawnSync('dpkg-query', ['--status', name], { encoding: 'utf8' }).stdout)

const missing = names => names.filter(name => !isInstalled(name))

const install = names => {
  if (names.length === 0) return
  if (process.getuid?.() !== 0)
    throw new Error(`install these and run again: sudo apt-get install --no-install-recommends ${names.join(' ')}`)
  say(`installing ${names.length} packages that the providers need; this happens once`)
  aptGet('install', '--yes', '--no-install-recommends', ...names)
}

const fetchProviders = () => {
  // Made elsewhere and then moved, so that half of it is never taken for the whole.
  const making = `${folder}.${process.pid}`
  rmSync(making, { recursive: true, force: true })
  mkdirSync(join(making, 'archives'), { recursive: true })
  try {
    if (process.getuid?.() === 0) aptGet('update')
    say(`fetching ${unpacked.join(', ')}`)
    run('apt-get', ['-q', 'download', ...unpacked], { cwd: join(making, 'archives') })
    const archives = readdirSync(join(making, 'archives')).map(name => join(making, 'archives', name))
    for (const archive of archives) run('dpkg-deb', ['--extract', archive, join(making, 'root')])
    // Links between packages are relative.
    const shared = name => join(making, 'root/usr/share', name)
    for (const name of ['javascript', 'nodejs', 'fonts', 'fonts-fork-awesome'])
      if (!existsSync(shared(name))) symlinkSync(join('/usr/share', name), shared(name))
    const needs = dependenciesOf(archives)
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

try {
  if (!existsSync('/usr/bin/dpkg-deb'))
    throw new Error('this test takes its providers from Debian 12, and needs apt-get')
  const known = join(folder, 'needs.json')
  const needs = existsSync(known) ? JSON.parse(run('cat', [known])) : fetchProviders()
  install(missing([...beside, ...needs]))
} catch (error) {
  say(error.message)
  process.exit(1)
}
