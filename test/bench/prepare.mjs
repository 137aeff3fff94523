// Fetches what `npm run bench` measures with and against, from Debian's packages, into .bench/ and no further: nothing is
// installed. What cannot be had is left out; the benchmark says what it cannot do without.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { aptUpdate, onPath, unpack } from '../support/debian.mjs'

const folder = resolve('.bench')
const wanted = ['wrk', 'nginx', 'apache2-bin', 'libapache2-mod-auth-openidc']

const say = text => console.error(`bench: ${text}`)

/** These packages and all that they need and this machine has not. */
const missing = names => {
  const args = ['--simulate', 'install', '--no-install-recommends', ...names]
  const { status, stdout } = spawnSync('apt-get', args, { encoding: 'utf8' })
  return status === 0 ? [...stdout.matchAll(/^Inst (\S+)/gm)].map(([, name]) => name) : null
}

if (!existsSync(folder) && onPath('apt-get') && onPath('dpkg-deb')) {
  try {
    aptUpdate(say)
    // Those of which one is not to be had must not take the others along.
    const packages = missing(wanted) ?? [...new Set(wanted.flatMap(name => missing([name]) ?? []))]
    if (packages.length > 0) unpack({ folder, packages, unneeded: /./ }, say)
  } catch (error) {
    say(error.message)
  }
}
