import { test } from 'tap'
import { authenticationOf } from '../../src/config/client-auth.ts'
import { ConfigError, type Environment, loadConfig } from '../../src/config/load.ts'
import { createClientKeys, createSecretFiles } from '../support/client-keys.ts'

const client = { OIDC_ISSUER: 'https://idp.example', OIDC_CLIENT_ID: 'client' }
const files = createSecretFiles()
const [rsa, other, weak] = [createClientKeys(), createClientKeys(), createClientKeys('rsa-weak')]
const edwards = createClientKeys('ed25519')
const key = files.write('key.pem', rsa.pem)
const cert = files.write('cert.pem', rsa.certificate)
const jwt = files.write('assertion', 'aaa.bbb.ccc\n')

function faultsOf(environment: Environment): Record<string, string> {
  try {
    loadConfig({ ...client, ...environment })
    return {}
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return Object.fromEntries(error.faults.map(({ variable, problem }) => [variable, problem]))
  }
}

const chosen = (environment: Environment) => authenticationOf(loadConfig({ ...client, ...environment }))

test('each way to authenticate is chosen by what is set', async t => {
  t.same(chosen({ OIDC_CLIENT_SECRET: 'one', OIDC_CLIENT_SECRET_2: 'two' }), {
    method: 'client_secret_post',
    secrets: [{ value: 'one' }, { value: 'two' }],
  })
  const secretFile = files.write('secret', 'one\n')
  t.same(chosen({ OIDC_CLIENT_SECRET_FILE: secretFile, OIDC_CLIENT_AUTH: 'client_secret_basic' }), {
    method: 'client_secret_basic',
    secrets: [{ file: secretFile }],
  })
  t.same(chosen({ OIDC_CLIENT_KEY_FILE: key, OIDC_CLIENT_KEY_ID: 'k1', OIDC_CLIENT_CERT_FILE: cert }), {
    method: 'private_key_jwt',
    keyFile: key,
    keyId: 'k1',
    certificateFile: cert,
  })
  t.same(chosen({ OIDC_CLIENT_ASSERTION_FILE: jwt }), { method: 'federated_assertion', file: jwt })
})

test("Azure's own variable is taken when nothing else is set, and is in nobody's way", async t => {
  t.same(chosen({ AZURE_FEDERATED_TOKEN_FILE: jwt }), { method: 'federated_assertion', file: jwt })
  t.match(chosen({ AZURE_FEDERATED_TOKEN_FILE: '/nowhere', OIDC_CLIENT_SECRET: 's' }), { method: 'client_secret_post' })
  t.match(chosen({ AZURE_FEDERATED_TOKEN_FILE: '/nowhere', OIDC_CLIENT_KEY_FILE: key }), { method: 'private_key_jwt' })
  t.match(faultsOf({ AZURE_FEDERATED_TOKEN_FILE: '/nowhere' }), { AZURE_FEDERATED_TOKEN_FILE: /holds a JWT/ })
  const basic = { OIDC_CLIENT_AUTH: 'client_secret_basic', AZURE_FEDERATED_TOKEN_FILE: jwt }
  t.match(faultsOf(basic), { OIDC_CLIENT_AUTH: /AZURE_FEDERATED_TOKEN_FILE/ })
})

test('without a way to authenticate the fault lists what may be set', async t => {
  const { OIDC_CLIENT_SECRET: problem, ...rest } = faultsOf({})
  for (const variable of ['OIDC_CLIENT_KEY_FILE', 'OIDC_CLIENT_CERT_FILE', 'OIDC_CLIENT_ASSERTION_FILE'])
    t.match(problem, variable)
  t.same(rest, {})
  t.match(faultsOf({ PORT: 'x' }), { OIDC_CLIENT_SECRET: /required/, PORT: String }, 'together with other faults')
})

test('what cannot be meant together is a fault with a sentence', async t => {
  const [OIDC_CLIENT_SECRET, OIDC_CLIENT_KEY_FILE, OIDC_CLIENT_ASSERTION_FILE] = ['secret', key, jwt]
  const cases: [Environment, variable: string, problem: RegExp][] = [
    [{ OIDC_CLIENT_SECRET, OIDC_CLIENT_KEY_FILE }, 'OIDC_CLIENT_KEY_FILE', /OIDC_CLIENT_SECRET are both set/],
    [{ OIDC_CLIENT_SECRET, OIDC_CLIENT_ASSERTION_FILE }, 'OIDC_CLIENT_ASSERTION_FILE', /SECRET are both set/],
    [{ OIDC_CLIENT_KEY_FILE, OIDC_CLIENT_ASSERTION_FILE }, 'OIDC_CLIENT_ASSERTION_FILE', /KEY_FILE are both set/],
    [{ OIDC_CLIENT_SECRET_2: 'x' }, 'OIDC_CLIENT_SECRET_2', /OIDC_CLIENT_SECRET is not set/],
    [{ OIDC_CLIENT_KEY_FILE, OIDC_CLIENT_AUTH: 'client_secret_basic' }, 'OIDC_CLIENT_AUTH', /OIDC_CLIENT_KEY_FILE/],
    [{ OIDC_CLIENT_SECRET, OIDC_CLIENT_CERT_FILE: cert }, 'OIDC_CLIENT_CERT_FILE', /without its private key/],
    [{ OIDC_CLIENT_SECRET, OIDC_CLIENT_KEY_ID: 'k' }, 'OIDC_CLIENT_KEY_ID', /OIDC_CLIENT_KEY_FILE is not set/],
  ]
  for (const [environment, variable, problem] of cases)
    t.match(faultsOf(environment), { [variable]: problem }, Object.keys(environment).join(' '))
})

test('a key or certificate that cannot work is a fault, and nothing of it is printed', async t => {
  const withKey = (text: string, certificate?: string) => {
    const folder = createSecretFiles()
    const cert = certificate && { OIDC_CLIENT_CERT_FILE: folder.write('tried.crt', certificate) }
    return { OIDC_CLIENT_KEY_FILE: folder.write('tried.pem', text), ...cert }
  }
  const encrypted = rsa.privateKey.export({ format: 'pem', type: 'pkcs8', cipher: 'aes-256-cbc', passphrase: 'x' })
  const cases: [Environment, variable: string, problem: RegExp][] = [
    [{ OIDC_CLIENT_KEY_FILE: '/nowhere' }, 'OIDC_CLIENT_KEY_FILE', /can be read/],
    [{ OIDC_CLIENT_KEY_FILE: files.path('') }, 'OIDC_CLIENT_KEY_FILE', /must/],
    [withKey(' '), 'OIDC_CLIENT_KEY_FILE', /no private key/],
    [withKey('canary'), 'OIDC_CLIENT_KEY_FILE', /no private key/],
    [withKey(rsa.certificate), 'OIDC_CLIENT_KEY_FILE', /no private key/],
    [withKey(String(encrypted)), 'OIDC_CLIENT_KEY_FILE', /passphrase/],
    [withKey(weak.pem), 'OIDC_CLIENT_KEY_FILE', /less than 2048 bits/],
    [withKey(rsa.pem, 'canary'), 'OIDC_CLIENT_CERT_FILE', /no certificate/],
    [withKey(rsa.pem, rsa.pem), 'OIDC_CLIENT_CERT_FILE', /no certificate/],
    [withKey(rsa.pem, other.certificate), 'OIDC_CLIENT_CERT_FILE', /another key/],
    [withKey(edwards.pem, rsa.certificate), 'OIDC_CLIENT_CERT_FILE', /another key/],
    [{ OIDC_CLIENT_ASSERTION_FILE: key }, 'OIDC_CLIENT_ASSERTION_FILE', /holds a JWT/],
    [{ OIDC_CLIENT_ASSERTION_FILE: '/nowhere' }, 'OIDC_CLIENT_ASSERTION_FILE', /can be read/],
  ]
  for (const [environment, variable, problem] of cases) {
    const faults = faultsOf(environment)
    t.match(faults, { [variable]: problem }, String(problem))
    t.notMatch(JSON.stringify(faults), /canary|MII/)
  }
  t.same(faultsOf(withKey(rsa.pem, rsa.certificate)), {})
})
