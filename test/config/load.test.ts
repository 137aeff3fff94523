import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'tap'
import { ConfigError, type Environment, loadConfig } from '../../src/config/load.ts'
import { settings, upstreamSettings } from '../../src/config/settings.ts'
import { renderReadme } from '../support/docs.ts'

const minimal = { OIDC_ISSUER: 'https://idp.example', OIDC_CLIENT_ID: 'client', OIDC_CLIENT_SECRET: 'canary-secret' }
const key = () => randomBytes(32).toString('base64')
const production = {
  ...minimal,
  NODE_ENV: 'production',
  PUBLIC_URL: 'https://app.example',
  REDIS_URL: 'redis://redis:6379',
  SESSION_KEYS: key(),
  UPSTREAM_API_PATH: '/api',
  UPSTREAM_API_URL: 'http://api:3000',
}

function faultsOf(environment: Environment): ConfigError {
  try {
    loadConfig(environment)
  } catch (error) {
    if (error instanceof ConfigError) return error
    throw error
  }
  return new ConfigError([])
}

test('three variables are enough to start, and the defaults are those that are documented', async t => {
  const config = loadConfig(minimal)
  t.match(config, {
    publicUrl: 'http://localhost:8080',
    port: 8080,
    adminHost: '127.0.0.1',
    adminPort: 9090,
    bffPath: '/bff',
    oidcIdTokenAlgs: ['RS256', 'PS256', 'ES256', 'EdDSA'],
    sessionIdleTimeout: 1800,
    sessionAbsoluteTimeout: 43_200,
    sessionCookieName: '__Host-coatcheck',
    redisUrl: undefined,
    upstreams: [],
    production: false,
  })
})

test('workers are counted, bounded, and share nothing but Redis', async t => {
  const redis = { ...minimal, REDIS_URL: 'redis://redis:6379' }
  t.equal(loadConfig(minimal).workers, 1)
  t.equal(loadConfig({ ...redis, WORKERS: '64' }).workers, 64)
  t.equal(loadConfig({ ...redis, WORKERS: 'auto' }).workers, Math.min(availableParallelism(), 64))
  for (const value of ['0', '-1', '65', '1000', '2.5', '1e1', ' 2', 'two', 'AUTO'])
    t.match(faultsOf({ ...redis, WORKERS: value }).faults, [{ variable: 'WORKERS', problem: /from 1 to 64/ }], value)
  t.match(faultsOf({ ...minimal, WORKERS: '2' }).faults, [{ variable: 'WORKERS', problem: /needs REDIS_URL/ }])
  t.equal(loadConfig({ ...minimal, WORKERS: '1' }).workers, 1)
})

test('the README shows what is declared', async t => {
  const readme = readFileSync('README.md', 'utf8')
  t.equal(renderReadme(readme), readme, 'npm run docs writes it anew')
  for (const name of Object.keys(settings)) t.match(readme, `\`${name}\``, name)
  for (const name of Object.keys(upstreamSettings)) t.match(readme, `UPSTREAM_<NAME>_${name}`, name)
})

test('every example in the declaration would be accepted', async t => {
  for (const [name, setting] of [...Object.entries(settings), ...Object.entries(upstreamSettings)]) {
    // These examples say where a value comes from.
    if (['SESSION_KEYS', 'ADMIN_TOKEN', 'FORWARD_AUTH_TOKEN', 'SPA_DIR'].includes(name) || name.endsWith('_FILE'))
      continue
    t.ok(setting.type.safeParse(setting.example).success, `${name}=${setting.example}`)
  }
})

test('all faults are told together, each with its variable and an example', async t => {
  const { faults, message } = faultsOf({
    OIDC_ISSUER: 'not a url',
    OIDC_CLIENT_ID: 'client',
    PORT: '99999',
    SESSION_IDLE_TIMEOUT: 'soon',
    UPSTREAM_API_PATH: 'api',
  })
  const variables = faults.map(fault => fault.variable).sort()
  t.same(variables, [
    'OIDC_CLIENT_SECRET',
    'OIDC_ISSUER',
    'PORT',
    'SESSION_IDLE_TIMEOUT',
    'UPSTREAM_API_PATH',
    'UPSTREAM_API_URL',
  ])
  t.match(message, 'for example SESSION_IDLE_TIMEOUT=30m')
})

test('what settings make of one another is told as well, as far as they are sound', async t => {
  const variablesOf = (environment: Environment) => faultsOf(environment).faults.map(({ variable }) => variable)
  const nothing = variablesOf({ NODE_ENV: 'production', PUBLIC_URL: 'http://app.example' })
  t.same(nothing.sort(), [
    'OIDC_CLIENT_ID',
    'OIDC_CLIENT_SECRET',
    'OIDC_ISSUER',
    'PUBLIC_URL',
    'REDIS_URL',
    'SESSION_KEYS',
    'UPSTREAM_<NAME>_PATH',
  ])
  t.same(variablesOf({ ...minimal, PORT: 'x', WORKERS: '2', BFF_PATH: '/' }), ['PORT', 'BFF_PATH', 'WORKERS'])
  t.same(
    variablesOf({ ...production, REDIS_URL: 'redis', WORKERS: '2' }),
    ['REDIS_URL'],
    'there is one, it is but wrong',
  )
  const twins = { UPSTREAM_A_PATH: '/a', UPSTREAM_A_URL: 'a', UPSTREAM_A_AUTH: 'none', UPSTREAM_A_SCOPE: 'a' }
  const other = { UPSTREAM_B_PATH: '/A', UPSTREAM_B_URL: 'http://b', UPSTREAM_B_AUTH: 'no', UPSTREAM_B_SCOPE: 'b' }
  t.same(variablesOf({ ...minimal, ...twins, ...other }), ['UPSTREAM_A_URL', 'UPSTREAM_B_AUTH', 'UPSTREAM_B_PATH'])
})

test('whatever must be otherwise has an example', async t => {
  const { faults } = faultsOf({
    NODE_ENV: 'production',
    PUBLIC_URL: 'http://app.example',
    OIDC_ISSUER: 'http://idp.example',
    OIDC_DISCOVERY_URL: 'http://idp.example/.well-known',
    OIDC_AUTHORIZE_PARAMS: 'state=x',
    OIDC_CLIENT_ID: 'x',
    CORS_ORIGINS: 'http://spa.example',
    BFF_PATH: '/',
    WORKERS: '2',
    SESSION_IDLE_TIMEOUT: '13h',
    ADMIN_TOKEN: 'the-same-secret-for-both',
    FORWARD_AUTH_TOKEN: 'the-same-secret-for-both',
  })
  t.equal(faults.length, 13)
  for (const { variable, example } of faults) t.ok(example, variable)
})

// A typing error in a security setting must not quietly leave the default in force.
test('an unknown variable under a guarded prefix is a fault with a suggestion', async t => {
  const cases: [string, string][] = [
    ['SESSION_IDLE_TIMEOUTS', 'SESSION_IDLE_TIMEOUT'],
    ['OIDC_CLIENTID', 'OIDC_CLIENT_ID'],
    ['OIDC_CLIENT_SECRET_FIEL', 'OIDC_CLIENT_SECRET_FILE'],
    ['UPSTREAM_API_PTAH', 'UPSTREAM_API_PATH'],
  ]
  const sound = { ...minimal, UPSTREAM_API_PATH: '/api', UPSTREAM_API_URL: 'http://api' }
  for (const [given, meant] of cases)
    t.match(faultsOf({ ...sound, [given]: 'x' }).message, `${given} is not known; did you mean ${meant}?`)
  t.match(faultsOf({ ...minimal, OIDC_QQQQQQQQQQQQQQQQ: 'x' }).message, /OIDC_Q+ is not known$/m, 'nothing is near')
  t.equal(faultsOf({ ...minimal, PATH: '/bin', HOME: '/root', REDIS_PORT: 'tcp://x' }).faults.length, 0, 'others pass')
})

test('a secret is never repeated, whatever is wrong with it', async t => {
  const canary = 'canary-in-a-fault'
  const { message } = faultsOf({
    ...minimal,
    SESSION_KEYS: canary,
    REDIS_URL: `http://user:${canary}@redis`,
    OIDC_ISSUER: `https://user:${canary}@idp.example`,
  })
  t.match(message, 'SESSION_KEYS')
  t.match(message, 'REDIS_URL')
  t.match(message, 'OIDC_ISSUER')
  t.notMatch(message, canary)
})

test('sealing keys must be random 32-byte keys', async t => {
  const bad = {
    'one byte short': randomBytes(31).toString('base64'),
    'one byte long': randomBytes(33).toString('base64'),
    'all zeros': Buffer.alloc(32).toString('base64'),
    'a repeated letter': Buffer.alloc(32, 'k').toString('base64'),
    'not base64': '!'.repeat(44),
    'hex in the place of base64': randomBytes(32).toString('hex'),
    'one good, one bad': `${key()},${randomBytes(31).toString('base64')}`,
  }
  for (const [name, keys] of Object.entries(bad)) {
    const { faults, message } = faultsOf({ ...minimal, SESSION_KEYS: keys })
    t.equal(faults[0]?.variable, 'SESSION_KEYS', name)
    t.notMatch(message, keys, 'and is not printed')
  }
  t.equal(loadConfig({ ...minimal, SESSION_KEYS: `${key()}, ${key()}` }).sessionKeys?.length, 2)
})

test('a secret comes from a file, which is not read again unless that is said', async t => {
  const file = join(mkdtempSync(join(tmpdir(), 'coatcheck-')), 'secret')
  writeFileSync(file, '0123456789abcdef\n')
  t.equal(loadConfig({ ...minimal, ADMIN_TOKEN_FILE: file }).adminToken, '0123456789abcdef', 'less the final newline')
  const { OIDC_CLIENT_SECRET: _, ...rest } = minimal
  t.same(loadConfig({ ...rest, OIDC_CLIENT_SECRET_FILE: file }).oidcClientSecret, { file }, 'whoever uses it reads it')
  t.match(faultsOf({ ...minimal, OIDC_CLIENT_SECRET_FILE: file }).message, 'OIDC_CLIENT_SECRET is given twice')
  t.match(faultsOf({ ...rest, OIDC_CLIENT_SECRET_FILE: '/nowhere' }).message, 'OIDC_CLIENT_SECRET cannot be read')
  writeFileSync(file, '\n')
  t.match(faultsOf({ ...rest, OIDC_CLIENT_SECRET_FILE: file }).message, 'OIDC_CLIENT_SECRET is empty in the file')
})

test('lifetimes must make sense', async t => {
  for (const bad of ['0', '-5m', '1.5h', '5 m', '30min', '1e3', 'Infinity', ''.padEnd(12, '9')])
    t.equal(faultsOf({ ...minimal, SESSION_IDLE_TIMEOUT: bad }).faults[0]?.variable, 'SESSION_IDLE_TIMEOUT', bad)
  const order = faultsOf({ ...minimal, SESSION_IDLE_TIMEOUT: '13h' })
  t.match(order.message, 'must not be longer than SESSION_ABSOLUTE_TIMEOUT')
  t.equal(loadConfig({ ...minimal, SESSION_IDLE_TIMEOUT: '90' }).sessionIdleTimeout, 90)
  t.equal(loadConfig({ ...minimal, SESSION_ABSOLUTE_TIMEOUT: '7d' }).sessionAbsoluteTimeout, 604_800)
  t.equal(loadConfig({ ...minimal, SESSION_ABSOLUTE_TIMEOUT: '5m' }).sessionAbsoluteTimeout, 300, 'a default gives way')
})

test('upstreams are named by their variables, underscores included', async t => {
  const config = loadConfig({
    ...minimal,
    UPSTREAM_API_PATH: '/api',
    UPSTREAM_API_URL: 'http://api:3000/v1',
    UPSTREAM_ORDER_ITEMS_PATH: '/orders',
    UPSTREAM_ORDER_ITEMS_URL: 'https://orders.internal',
  })
  t.same(
    config.upstreams.map(({ name, path, url }) => [name, path, url.href]),
    [
      ['api', '/api', 'http://api:3000/v1'],
      ['order_items', '/orders', 'https://orders.internal/'],
    ],
  )
})

test('routes that overlap the gateway or each other are refused', async t => {
  const upstream = (path: string, other = '/other') => ({
    ...minimal,
    UPSTREAM_A_PATH: path,
    UPSTREAM_A_URL: 'http://a',
    UPSTREAM_B_PATH: other,
    UPSTREAM_B_URL: 'http://b',
  })
  t.match(faultsOf(upstream('/same', '/same')).message, 'is also the path of upstream a')
  t.match(faultsOf(upstream('/bff/api')).message, 'lies under BFF_PATH')
  t.match(faultsOf({ ...upstream('/x'), BFF_PATH: '/x/bff' }).message, 'covers BFF_PATH')
  for (const path of ['api', '/api/', '/a//b', '/../api', '/a/./b', '/a%2fb', '/a?b', '/a b'])
    t.equal(faultsOf(upstream(path)).faults[0]?.variable, 'UPSTREAM_A_PATH', path)
  for (const url of ['api:3000', 'ftp://api', 'http://user:pw@api', 'http://api?x=1', 'http://api#x'])
    t.equal(faultsOf({ ...upstream('/a'), UPSTREAM_A_URL: url }).faults[0]?.variable, 'UPSTREAM_A_URL', url)
  t.equal(faultsOf(upstream('/api', '/api/admin')).faults.length, 0, 'one below another is fine')
})

test('production takes no shortcuts', async t => {
  t.equal(faultsOf(production).faults.length, 0)
  const cases: [Environment, string][] = [
    [{ REDIS_URL: '' }, 'REDIS_URL'],
    [{ SESSION_KEYS: '' }, 'SESSION_KEYS'],
    [{ PUBLIC_URL: 'http://app.example' }, 'PUBLIC_URL'],
    [{ OIDC_ISSUER: 'http://idp.example' }, 'OIDC_ISSUER'],
    [{ OIDC_DISCOVERY_URL: 'http://idp.example/x' }, 'OIDC_DISCOVERY_URL'],
    [{ UPSTREAM_API_PATH: '', UPSTREAM_API_URL: '' }, 'UPSTREAM_API_PATH'],
  ]
  for (const [change, variable] of cases) {
    const { faults } = faultsOf({ ...production, ...change })
    t.ok(
      faults.some(fault => fault.variable === variable),
      variable,
    )
  }
  const loopback = { PUBLIC_URL: 'http://localhost:8080', OIDC_ISSUER: 'http://idp.localhost:9080' }
  t.equal(faultsOf({ ...production, ...loopback }).faults.length, 0, 'plain http that stays on the machine is fine')
})

test('tokens are bound everywhere or nowhere', t => {
  const upstream = { UPSTREAM_A_PATH: '/a', UPSTREAM_A_URL: 'http://a' }
  const problems = (env: Environment) =>
    faultsOf({ ...minimal, ...upstream, ...env }).faults.map(fault => fault.variable)
  t.same(problems({}), [])
  t.same(problems({ OIDC_DPOP: 'true', UPSTREAM_A_DPOP: 'true' }), [])
  t.same(problems({ OIDC_DPOP: 'true' }), ['UPSTREAM_A_DPOP'], 'a bound token would go out without its proof')
  t.same(problems({ UPSTREAM_A_DPOP: 'true' }), ['UPSTREAM_A_DPOP'], 'there is nothing to prove')
  t.end()
})

test('the authorization request cannot be bent by fixed parameters', async t => {
  for (const name of [
    'state',
    'nonce',
    'redirect_uri',
    'code_challenge',
    'scope',
    'response_type',
    'response_mode',
    'dpop_jkt',
  ])
    t.match(faultsOf({ ...minimal, OIDC_AUTHORIZE_PARAMS: `${name}=x` }).message, `must not set ${name}`)
  const config = loadConfig({ ...minimal, OIDC_AUTHORIZE_PARAMS: 'audience=https://api?a=b, domain_hint=x' })
  t.same(
    [...config.oidcAuthorizeParams],
    [
      ['audience', 'https://api?a=b'],
      ['domain_hint', 'x'],
    ],
  )
})

test('a folder without a page is no SPA', async t => {
  const folder = t.testdir({ spa: { 'index.html': '' }, empty: {}, odd: { 'index.html': {} }, file: '' })
  const faults = (name: string) => faultsOf({ ...minimal, SPA_DIR: join(folder, name) }).message
  t.equal(faults('spa'), new ConfigError([]).message)
  for (const name of ['empty', 'odd']) t.match(faults(name), 'SPA_DIR must hold an index.html that can be read')
  for (const name of ['none', 'file']) t.match(faults(name), 'SPA_DIR must be a directory that can be read')
})

// Whoever trusts everybody, or a number of hops, lets any client write its own address (OWASP ASVS 4.1.3).
test('proxies are trusted by address alone', async t => {
  for (const value of [
    'true',
    '1',
    '2',
    '*',
    'all',
    'loopback',
    'proxy.internal',
    '10.0.0.0/33',
    '10.0.0/8',
    'fd00::/129',
    '10.0.0.1/',
    '10.0.0.1/8/9',
    '10.0.0.1 10.0.0.2',
  ])
    t.same(
      faultsOf({ ...minimal, TRUSTED_PROXIES: value }).faults.map(({ variable }) => variable),
      ['TRUSTED_PROXIES'],
      value,
    )
  t.same(loadConfig(minimal).trustedProxies, [])
  t.same(loadConfig({ ...minimal, TRUSTED_PROXIES: '10.0.0.0/8, 192.0.2.7,fd00::/8' }).trustedProxies, [
    '10.0.0.0/8',
    '192.0.2.7',
    'fd00::/8',
  ])
})
