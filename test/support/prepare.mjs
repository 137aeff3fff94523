// Runs before the tests are compiled (`pretest`), so that `npm ci && npm test` is enough on a bare machine.
// Plain JavaScript without a dependency: nothing is built at that point.
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { aptInstall, aptUpdate, isExecutable, isRoot, notInstalled, onPath, unpack } from './debian.mjs'

const run = (command, args) => spawnSync(command, args, { stdio: ['ignore', 'inherit', 'inherit'] }).status === 0

const say = text => console.error(`prepare: ${text}`)

/** nginx can be built without the part that forward-auth needs. */
const asksAuth = path => {
  const { stdout, stderr } = spawnSync(path, ['-V'], { encoding: 'utf8' })
  return `${stdout}${stderr}`.includes('--with-http_auth_request_module')
}

// Servers, which would start as services when installed: they are unpacked into here and no more.
const unpacked = {
  folder: resolve('.programs'),
  packages: ['nginx', 'caddy'],
  unneeded: /^(nginx-common|iproute2|libnss3-tools|media-types)$/,
}
const inUnpacked = path => join(unpacked.folder, 'root', path)

// Debian's package, the variable that may name the program, and its names: as in redis.ts, chromium.ts and
// reverse-proxies.ts beside this.
const programs = [
  { name: 'redis-server', variable: 'REDIS_SERVER', found: ['redis-server'] },
  { name: 'chromium', variable: 'CHROMIUM', found: ['chromium', 'chromium-browser', 'google-chrome'] },
  {
    name: 'nginx',
    variable: 'NGINX',
    found: [inUnpacked('usr/sbin/nginx'), 'nginx', '/usr/sbin/nginx'],
    fits: asksAuth,
  },
  { name: 'caddy', variable: 'CADDY', found: [inUnpacked('usr/bin/caddy'), 'caddy'] },
]

const isThere = ({ variable, found, fits = () => true }) => {
  const chosen = process.env[variable]
  if (chosen) return isExecutable(chosen) && fits(chosen)
  return found.some(name => (name.startsWith('/') ? isExecutable(name) : onPath(name)) && fits(name))
}

const missing = () => programs.filter(program => !isThere(program)).map(({ name }) => name)

const fetched = names => {
  const toUnpack = names.filter(name => unpacked.packages.includes(name))
  const toInstall = names.filter(name => !unpacked.packages.includes(name))
  if (toUnpack.length > 0) toInstall.push(...notInstalled(unpack(unpacked, say)))
  if (toInstall.length === 0 || !isRoot()) return
  say(`installing ${toInstall.join(' and ')} from the system's packages; this happens once and may take some minutes`)
  aptUpdate(say)
  aptInstall(toInstall)
}

if (missing().length > 0 && onPath('apt-get')) {
  try {
    fetched(missing())
  } catch (error) {
    say(error.message)
  }
}

if (missing().length > 0) {
  say(`the tests need ${missing().join(' and ')}: install and run again`)
  say(`on Debian: sudo apt-get update && sudo apt-get install --no-install-recommends ${missing().join(' ')}`)
  say(
    `elsewhere: put them on the PATH, or give their paths in ${programs.map(({ variable }) => variable).join(' and ')}`,
  )
  say('nginx and caddy need not run as services; nginx must have its auth_request module (nginx -V tells)')
  process.exit(1)
}

// A test whose source was renamed or deleted would otherwise go on running from its last compilation.
rmSync('build', { recursive: true, force: true })

// tap compiles its plugins in, and comes from the registry with some that are left out here (see .taprc).
const tapAsBuilt = readFileSync(new URL(import.meta.resolve('@tapjs/test/test-built')), 'utf8')
if (['@tapjs/typescript', '@tapjs/mock'].some(plugin => tapAsBuilt.includes(plugin))) {
  say('building tap without the plugins that are left out')
  if (!run('tap', ['build'])) process.exit(1)
}
