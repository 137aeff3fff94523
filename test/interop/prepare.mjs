// Fetches the OpenID Providers that `npm run test:interop` runs against, from Debian's packages. What they need is
// installed; the providers themselves are unpacked into .interop/ and no more, so that no service is set up here.
import { existsSync, symlinkSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { aptInstall, notInstalled, unpack } from '../support/debian.mjs'

const providers = {
  folder: resolve('.interop'),
  packages: [
    'glewlwyd',
    'glewlwyd-common',
    'liblemonldap-ng-portal-perl',
    'liblemonldap-ng-handler-perl',
    'liblemonldap-ng-common-perl',
  ],
  unneeded: /^(debconf|ucf|dbconfig-.*|adduser|lsb-base|lemonldap-ng-.*|init-system-helpers)$/,
  finish: root => {
    // Links between packages are relative.
    const shared = name => join(root, 'usr/share', name)
    for (const name of ['javascript', 'nodejs', 'fonts', 'fonts-fork-awesome'])
      if (!existsSync(shared(name))) symlinkSync(join('/usr/share', name), shared(name))
  },
}
// LemonLDAP::NG's portal only recommends libio-string-perl, and gives no tokens without it.
const beside = [
  'sqlite3',
  'libplack-perl',
  'libstring-random-perl',
  'libcrypt-openssl-bignum-perl',
  'libio-string-perl',
]

const say = text => console.error(`interop: ${text}`)

try {
  if (!existsSync('/usr/bin/dpkg-deb'))
    throw new Error('this test takes its providers from Debian 12, and needs apt-get')
  const needs = unpack(providers, say)
  const names = notInstalled([...beside, ...needs])
  if (names.length > 0) {
    say(`the providers need ${names.length} packages installed; this happens once`)
    aptInstall(names)
  }
} catch (error) {
  say(error.message)
  process.exit(1)
}
