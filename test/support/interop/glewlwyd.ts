import { execFileSync } from 'node:child_process'
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { freePort } from '../free-port.ts'
import { startProgram } from '../program.ts'
import { accessTokenSeconds, type ForeignProvider, type Registration, unpacked } from './provider.ts'
import { startWiretap } from './wiretap.ts'

const user = {
  name: 'alice',
  password: 'correct horse battery staple',
  claims: { name: 'Alice Adams', email: 'alice@example.test' },
}
const scopes = ['openid', 'profile', 'email', 'offline_access']

/** Starts Glewlwyd (C) on loopback, with a database and a configuration of its own that go when it stops. */
export async function startGlewlwyd(registration: Registration): Promise<ForeignProvider> {
  const folder = mkdtempSync(join(tmpdir(), 'coatcheck-glewlwyd-'))
  const port = await freePort()
  const wire = await startWiretap(port)
  const secret = randomBytes(24).toString('base64url')
  const issuer = `${wire.url}/api/oidc`
  makeDatabase(join(folder, 'glewlwyd.db'))
  makePages(join(folder, 'webapp'))
  writeFileSync(join(folder, 'glewlwyd.conf'), configuration({ folder, port, url: wire.url }))
  const program = await startProgram({
    command: join(unpacked, 'usr/bin/glewlwyd'),
    args: ['--config-file', join(folder, 'glewlwyd.conf')],
    env: {},
    ready: `http://127.0.0.1:${port}/config`,
  }).catch(async error => {
    await wire.close()
    rmSync(folder, { recursive: true, force: true })
    throw error
  })
  const stop = async () => {
    await program.stop()
    await wire.close()
    rmSync(folder, { recursive: true, force: true })
  }
  try {
    const send = await administrator(`http://127.0.0.1:${port}/api`)
    for (const name of scopes.filter(each => each !== 'openid'))
      await send('POST', '/scope/', { name, display_name: name, password_required: true, password_max_age: 0 })
    const { name, email } = user.claims
    await send('POST', '/user/', {
      username: user.name,
      password: user.password,
      name,
      email,
      scope: scopes,
      enabled: true,
    })
    await send('POST', '/mod/plugin/', plugin(issuer, registration.algorithms))
    for (const algorithm of registration.algorithms)
      await send('POST', '/client/', client(algorithm, secret, registration))
  } catch (error) {
    await stop()
    throw new Error(`Glewlwyd could not be set up:\n${program.output().slice(-3000)}`, { cause: error })
  }
  return {
    issuer,
    wire,
    paths: {
      token: '/api/oidc/token',
      userinfo: '/api/oidc/userinfo',
      endSession: '/api/oidc/end_session',
      revocation: '/api/oidc/revoke',
    },
    env: algorithm => ({
      OIDC_ISSUER: issuer,
      OIDC_CLIENT_ID: clientId(algorithm),
      OIDC_CLIENT_SECRET: secret,
      OIDC_ID_TOKEN_ALGS: algorithm,
    }),
    user,
    signIn: async page => {
      await page.getByLabel('Login').fill(user.name)
      await page.getByLabel('Password').fill(user.password)
      await page.getByRole('button', { name: 'OK' }).click()
      // It asks which of the scopes the client may have, once for each user and client.
      const proceed = page.getByRole('button', { name: 'Continue' })
      await proceed.waitFor()
      for (const scope of await page.getByRole('checkbox', { disabled: false }).all()) await scope.check()
      const grant = page.getByRole('button', { name: 'Grant access' })
      if (await grant.isVisible()) await grant.click()
      await proceed.click()
    },
    confirmLogout: page => page.getByRole('button', { name: 'Logout' }).first().click(),
    output: program.output,
    stop,
  }
}

const clientId = (algorithm: string) => `coatcheck-${algorithm}`

function makeDatabase(file: string): void {
  const compressed = readFileSync(join(unpacked, 'usr/share/doc/glewlwyd/database/init.sqlite3.sql.gz'))
  const text = { multiple: false, read: true, write: true }
  // The only property of a client that it does not know by itself: which key signs for it.
  const known = '"data-format":{"redirect_uri"'
  const sql = gunzipSync(compressed)
    .toString()
    .replace(known, () => known.replace('{', `{"sign_kid":${JSON.stringify(text)},`))
  execFileSync('sqlite3', [file], { input: sql })
}

/** Its own pages, with the configuration that they ask for. */
function makePages(folder: string): void {
  cpSync(join(unpacked, 'usr/share/glewlwyd/webapp'), folder, {
    recursive: true,
    dereference: true,
    filter: path => !path.endsWith('config.json'),
  })
  cpSync(join(unpacked, 'etc/glewlwyd/config-2.7.json/config.json'), join(folder, 'config.json'))
}

function configuration({ folder, port, url }: { folder: string; port: number; url: string }): string {
  const types = { html: 'text/html', css: 'text/css', js: 'application/javascript', json: 'application/json' }
  const mimeTypes = Object.entries(types).map(([name, type]) => `{ extension = ".${name}" mime_type = "${type}" }`)
  const modules = join(unpacked, 'usr/lib/glewlwyd')
  return `
port = ${port}
bind_address = "127.0.0.1"
external_url = "${url}"
login_url = "login.html"
api_prefix = "api"
static_files_path = "${join(folder, 'webapp')}/"
log_mode = "console"
log_level = "WARNING"
cookie_secure = 0
cookie_same_site = "empty"
session_expiration = 86400
session_key = "GLEWLWYD2_SESSION_ID"
add_x_frame_option_header_deny = true
admin_scope = "g_admin"
profile_scope = "g_profile"
user_module_path = "${modules}/user"
client_module_path = "${modules}/client"
user_auth_scheme_module_path = "${modules}/scheme"
plugin_module_path = "${modules}/plugin"
hash_algorithm = "SHA512"
database = { type = "sqlite3" path = "${join(folder, 'glewlwyd.db')}" }
static_files_mime_types = ( ${mimeTypes.join(', ')} )
`
}

type Send = (method: string, path: string, body: object) => Promise<void>

/** Signs in with the password of a fresh database and speaks to the administration API. */
async function administrator(api: string): Promise<Send> {
  let cookie = ''
  const send = async (method: string, path: string, body: object) => {
    const answer = await fetch(api + path, {
      method,
      headers: { 'content-type': 'application/json', cookie },
      body: JSON.stringify(body),
    })
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`)
    cookie = answer.headers.getSetCookie()[0]?.split(';')[0] ?? cookie
  }
  await send('POST', '/auth/', { username: 'admin', password: 'password' })
  return send
}

const keyTypes: Record<string, () => object> = {
  RS: () => generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
  PS: () => generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }),
  ES: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }),
  Ed: () => generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' }),
}

function plugin(issuer: string, algorithms: readonly string[]): object {
  const keys = algorithms.map(alg => ({ ...keyTypes[alg.slice(0, 2)]?.(), alg, kid: alg }))
  return {
    module: 'oidc',
    name: 'oidc',
    display_name: 'OpenID Connect',
    enabled: true,
    parameters: {
      iss: issuer,
      'jwks-private': JSON.stringify({ keys }),
      'default-kid': algorithms[0],
      'client-sign_kid-parameter': 'sign_kid',
      'jwks-show': true,
      'code-duration': 60,
      'access-token-duration': accessTokenSeconds,
      'refresh-token-duration': 3600,
      'refresh-token-rolling': true,
      'refresh-token-one-use': 'always',
      'allow-non-oidc': false,
      'auth-type-code-enabled': true,
      'auth-type-code-revoke-replayed': true,
      'auth-type-refresh-enabled': true,
      'auth-type-token-enabled': false,
      'auth-type-implicit-enabled': false,
      'auth-type-password-enabled': false,
      'auth-type-client-enabled': false,
      'auth-type-device-enabled': false,
      'subject-type': 'public',
      'name-claim': 'on-demand',
      'name-claim-scope': ['profile'],
      'email-claim': 'on-demand',
      'email-claim-scope': ['email'],
      'pkce-allowed': true,
      'pkce-required': true,
      'oauth-as-iss-id': true,
      'introspection-revocation-allowed': true,
      'introspection-revocation-allow-target-client': true,
      'session-management-allowed': true,
      'session-cookie-name': 'GLEWLWYD2_OIDC_SID',
      'session-cookie-expiration': 3600,
      'back-channel-logout-allowed': true,
      // Its logout page asks for the clients of the front channel, and goes no further without an answer.
      'front-channel-logout-allowed': true,
    },
  }
}

function client(algorithm: string, secret: string, registration: Registration): object {
  return {
    client_id: clientId(algorithm),
    name: `The gateway (${algorithm})`,
    client_secret: secret,
    confidential: true,
    enabled: true,
    sign_kid: algorithm,
    redirect_uri: [registration.redirectUri],
    authorization_type: ['code', 'refresh_token'],
    token_endpoint_auth_method: ['client_secret_post', 'client_secret_basic'],
    post_logout_redirect_uri: registration.postLogoutUri,
    backchannel_logout_uri: registration.backchannelUri,
    backchannel_logout_session_required: '1',
  }
}
