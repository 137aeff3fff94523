import { createPublicKey, generateKeyPairSync, randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '../free-port.ts'
import { startProgram } from '../program.ts'
import { accessTokenSeconds, type ForeignProvider, type Registration, unpacked } from './provider.ts'
import { startWiretap } from './wiretap.ts'

/** Of the demonstration accounts that it brings along. */
const user = { name: 'dwho', password: 'dwho', claims: { name: 'Doctor Who', email: 'dwho@badwolf.org' } }

/** Starts LemonLDAP::NG (Perl) on loopback, with files of its own that go when it stops. */
export async function startLemonldap(registration: Registration): Promise<ForeignProvider> {
  const folder = mkdtempSync(join(tmpdir(), 'coatcheck-lemonldap-'))
  const port = await freePort()
  const wire = await startWiretap(port)
  const secret = randomBytes(24).toString('base64url')
  for (const name of ['conf', 'cache', 'sessions/lock', 'psessions/lock', 'notifications', 'captcha'])
    mkdirSync(join(folder, name), { recursive: true })
  const configuration = configure({ folder, url: wire.url, secret, registration })
  writeFileSync(join(folder, 'conf/lmConf-1.json'), JSON.stringify(configuration))
  writeFileSync(join(folder, 'lemonldap-ng.ini'), bootstrap(folder))
  writeFileSync(join(folder, 'portal.psgi'), portal)
  writeFileSync(join(folder, 'NoCaptcha.pm'), noCaptcha)
  const program = await startProgram({
    command: 'plackup',
    args: ['--host', '127.0.0.1', '--port', String(port), '--env', 'deployment', join(folder, 'portal.psgi')],
    env: {
      LLNG_DEFAULTCONFFILE: join(folder, 'lemonldap-ng.ini'),
      PERL5LIB: [join(unpacked, 'usr/share/perl5'), folder].join(':'),
      STATIC_DIR: join(unpacked, 'usr/share/lemonldap-ng/portal/htdocs'),
    },
    ready: `http://127.0.0.1:${port}/.well-known/openid-configuration`,
  }).catch(async error => {
    await wire.close()
    rmSync(folder, { recursive: true, force: true })
    throw error
  })
  return {
    issuer: wire.url,
    wire,
    paths: { token: '/oauth2/token', userinfo: '/oauth2/userinfo', endSession: '/oauth2/logout' },
    env: algorithm => ({
      OIDC_ISSUER: wire.url,
      OIDC_CLIENT_ID: clientId(algorithm),
      OIDC_CLIENT_SECRET: secret,
      OIDC_ID_TOKEN_ALGS: algorithm,
    }),
    user,
    signIn: async page => {
      await page.locator('input[name=user]').fill(user.name)
      await page.locator('input[name=password]').fill(user.password)
      await page.locator('button[type=submit]').first().click()
    },
    confirmLogout: page => page.getByRole('button', { name: 'Accept' }).click(),
    output: program.output,
    stop: async () => {
      await program.stop()
      await wire.close()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

const clientId = (algorithm: string) => `coatcheck-${algorithm}`

const portal = `
use Plack::Builder;
use Lemonldap::NG::Portal::Main;
builder {
  enable 'Static', path => qr{^/static/}, root => $ENV{STATIC_DIR};
  enable 'Static', path => qr{^/javascript/}, root => '/usr/share';
  Lemonldap::NG::Portal::Main->run({});
};
`

/** It loads one although none is shown, and its own needs a graphics library. */
const noCaptcha = `
package NoCaptcha;
use Mouse;
extends 'Lemonldap::NG::Portal::Main::Plugin';
sub init { 1 }
1;
`

const bootstrap = (folder: string) => `
[all]
logLevel = warn
[configuration]
type = File
dirName = ${folder}/conf
localStorage = Cache::FileCache
localStorageOptions = {'namespace' => 'lemonldap-ng-config', 'default_expires_in' => 600, 'cache_root' => '${folder}/cache', 'cache_depth' => 3}
[portal]
staticPrefix = /static
templateDir = ${unpacked}/usr/share/lemonldap-ng/portal/templates
languages = en
[handler]
status = 0
useRedirectOnError = 1
`

function configure(options: { folder: string; url: string; secret: string; registration: Registration }): object {
  const { folder, url, secret, registration } = options
  const shipped = JSON.parse(readFileSync(join(unpacked, 'var/lib/lemonldap-ng/conf/lmConf-1.json'), 'utf8'))
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const sessionModule = { generateModule: 'Lemonldap::NG::Common::Apache::Session::Generate::SHA256' }
  const storage = (name: string) => ({
    Directory: join(folder, name),
    LockDirectory: join(folder, name, 'lock'),
    ...sessionModule,
  })
  const clients = registration.algorithms.map(algorithm => [clientId(algorithm), algorithm] as const)
  const each = <T>(make: (algorithm: string) => T) =>
    Object.fromEntries(clients.map(([id, algorithm]) => [id, make(algorithm)]))
  return {
    ...shipped,
    domain: '127.0.0.1',
    portal: `${url}/`,
    key: randomBytes(16).toString('hex'),
    globalStorageOptions: storage('sessions'),
    persistentStorageOptions: storage('psessions'),
    localSessionStorageOptions: { ...shipped.localSessionStorageOptions, cache_root: join(folder, 'cache') },
    notification: 0,
    registerDB: 'Null',
    passwordDB: 'Null',
    portalDisplayResetPassword: 0,
    captcha: 'NoCaptcha',
    notificationStorageOptions: { dirName: join(folder, 'notifications') },
    locationRules: { [new URL(url).host]: { default: 'accept' } },
    reloadUrls: {},
    issuerDBOpenIDConnectActivation: 1,
    issuerDBOpenIDConnectPath: '^/oauth2/',
    oidcServiceMetaDataIssuer: url,
    oidcServiceAllowAuthorizationCodeFlow: 1,
    oidcServiceKeyIdSig: 'signing',
    oidcServicePrivateKeySig: privateKey.export({ type: 'pkcs8', format: 'pem' }),
    oidcServicePublicKeySig: createPublicKey(privateKey).export({ type: 'spki', format: 'pem' }),
    oidcServiceIgnoreScopeForClaims: 0,
    oidcRPMetaDataOptions: each(algorithm => ({
      oidcRPMetaDataOptionsClientID: clientId(algorithm),
      oidcRPMetaDataOptionsClientSecret: secret,
      oidcRPMetaDataOptionsRedirectUris: registration.redirectUri,
      oidcRPMetaDataOptionsPostLogoutRedirectUris: registration.postLogoutUri,
      oidcRPMetaDataOptionsIDTokenSignAlg: algorithm,
      oidcRPMetaDataOptionsIDTokenExpiration: 3600,
      oidcRPMetaDataOptionsAccessTokenExpiration: accessTokenSeconds,
      oidcRPMetaDataOptionsBypassConsent: 1,
      oidcRPMetaDataOptionsRefreshToken: 1,
      oidcRPMetaDataOptionsRequirePKCE: 1,
      oidcRPMetaDataOptionsUserIDAttr: 'uid',
    })),
    oidcRPMetaDataExportedVars: each(() => ({ name: 'cn', email: 'mail', preferred_username: 'uid' })),
  }
}
