import { test } from 'tap'
import { ConfigError, type Environment, type Fault, loadConfig } from '../../src/config/load.ts'
import { selfSigned } from '../support/self-signed.ts'

const minimal = { OIDC_ISSUER: 'https://idp.example', OIDC_CLIENT_ID: 'client', OIDC_CLIENT_SECRET: 'canary-secret' }
const api = { ...minimal, UPSTREAM_A_PATH: '/a', UPSTREAM_A_URL: 'https://a.internal' }
const production = {
  ...api,
  NODE_ENV: 'production',
  PUBLIC_URL: 'https://app.example',
  REDIS_URL: 'redis://redis:6379',
  SESSION_KEYS: 'MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3BxcnN0dXY=',
}

function faultsOf(environment: Environment): readonly Fault[] {
  try {
    loadConfig(environment)
    return []
  } catch (error) {
    if (error instanceof ConfigError) return error.faults
    throw error
  }
}

const variables = (environment: Environment) => faultsOf(environment).map(fault => fault.variable)

test('rules and headers of claims are read with the configuration, and none is the default', async t => {
  const [plain] = loadConfig(api).upstreams
  t.same([plain?.auth, plain?.require, plain?.claimsHeaders], ['required', [], []])
  const [told] = loadConfig({
    ...api,
    UPSTREAM_A_REQUIRE: 'roles=admin,editor; "https://app.example/level"=2',
    UPSTREAM_A_CLAIMS_HEADERS: 'X-User=sub, X-Roles=realm_access.roles',
  }).upstreams
  t.same(told?.require, [
    { path: ['roles'], values: ['admin', 'editor'] },
    { path: ['https://app.example/level'], values: ['2'] },
  ])
  t.same(told?.claimsHeaders, [
    { name: 'x-user', path: ['sub'] },
    { name: 'x-roles', path: ['realm_access', 'roles'] },
  ])
  const wrong = faultsOf({ ...api, UPSTREAM_A_REQUIRE: 'canary', UPSTREAM_A_CLAIMS_HEADERS: 'Host=canary' })
  t.match(wrong, [
    { variable: 'UPSTREAM_A_REQUIRE', problem: /= is missing/ },
    { variable: 'UPSTREAM_A_CLAIMS_HEADERS', problem: /a meaning of its own/ },
  ])
  t.notMatch(wrong.map(fault => fault.problem).join(), 'canary')
})

// A rule on claims that lets everybody through who has none looks like protection and is the opposite.
test('a policy that could not hold is a fault', async t => {
  const cases: [Environment, string[]][] = [
    [{ UPSTREAM_A_REQUIRE: 'roles=x' }, []],
    [{ UPSTREAM_A_REQUIRE: 'roles=x', UPSTREAM_A_AUTH: 'optional' }, ['UPSTREAM_A_REQUIRE']],
    [{ UPSTREAM_A_REQUIRE: 'roles=x', UPSTREAM_A_AUTH: 'none' }, ['UPSTREAM_A_REQUIRE']],
    [{ UPSTREAM_A_CLAIMS_HEADERS: 'X-User=sub', UPSTREAM_A_AUTH: 'optional' }, []],
    [{ UPSTREAM_A_CLAIMS_HEADERS: 'X-User=sub', UPSTREAM_A_AUTH: 'none' }, ['UPSTREAM_A_CLAIMS_HEADERS']],
    [{ UPSTREAM_A_SCOPE: 'read', UPSTREAM_A_AUTH: 'none' }, ['UPSTREAM_A_SCOPE']],
    [{ UPSTREAM_A_RESOURCE: 'https://a', UPSTREAM_A_AUTH: 'none' }, ['UPSTREAM_A_RESOURCE']],
    [{ UPSTREAM_A_SCOPE: 'read', UPSTREAM_A_AUTH: 'optional' }, []],
    [{ UPSTREAM_A_CSRF: 'header', UPSTREAM_A_AUTH: 'none' }, []],
    [{ OIDC_DPOP: 'true', UPSTREAM_A_AUTH: 'none' }, []],
    [{ OIDC_DPOP: 'true', UPSTREAM_A_DPOP: 'true', UPSTREAM_A_AUTH: 'none' }, ['UPSTREAM_A_DPOP']],
  ]
  for (const [change, expected] of cases) t.same(variables({ ...api, ...change }), expected, JSON.stringify(change))
})

// To an upstream that knows no case, or to a proxy before it, /Admin and /admin are one place with two policies.
test('paths that differ by case alone are one path, and none ends in a dot', async t => {
  const second = (path: string) => ({ ...api, UPSTREAM_B_PATH: path, UPSTREAM_B_URL: 'http://b' })
  t.match(faultsOf(second('/A')), [{ variable: 'UPSTREAM_B_PATH', problem: /also the path of upstream a/ }])
  t.match(faultsOf(second('/BFF')), [{ variable: 'UPSTREAM_B_PATH', problem: /under BFF_PATH/ }])
  t.match(faultsOf(second('/Bff/x')), [{ variable: 'UPSTREAM_B_PATH', problem: /under BFF_PATH/ }])
  for (const path of ['/b.', '/b./c', '/b/..', '/...']) t.same(variables(second(path)), ['UPSTREAM_B_PATH'], path)
  for (const path of ['/a/b', '/a/A', '/.well-known', '/v1.2']) t.same(variables(second(path)), [], path)
})

test('the SPA comes from one place, and an upstream at the root leaves room for none', async t => {
  const [directory, server] = [{ SPA_DIR: 'src/demo/spa' }, { SPA_URL: 'http://localhost:5173' }]
  const root = { ...api, UPSTREAM_A_PATH: '/' }
  t.same(variables({ ...api, ...directory }), [])
  t.same(variables({ ...api, ...server }), [])
  t.same(variables({ ...api, ...directory, ...server }), ['SPA_URL'])
  t.same(variables(root), [])
  t.match(faultsOf({ ...root, ...directory }), [{ variable: 'UPSTREAM_A_PATH', problem: /SPA_DIR/ }])
  t.match(faultsOf({ ...root, ...server }), [{ variable: 'UPSTREAM_A_PATH', problem: /SPA_URL/ }])
})

test('a certificate authority is for https', async t => {
  const { cert, key } = selfSigned('ec')
  const folder = t.testdir({
    'one.pem': cert,
    'two.pem': `# ours\n${cert}\n# theirs\n${cert}`,
    'key.pem': key,
    'cut.pem': cert.slice(0, -60),
    'odd.pem': cert.replace(/\n.{20}/, '\nAAAAAAAAAAAAAAAAAAAA'),
    empty: '',
  })
  const authority = (name: string) => ({ UPSTREAM_A_CA_FILE: `${folder}/${name}` })
  for (const name of ['one.pem', 'two.pem']) t.same(variables({ ...api, ...authority(name) }), [], name)
  for (const name of ['key.pem', 'cut.pem', 'odd.pem', 'empty', 'none'])
    t.same(variables({ ...api, ...authority(name) }), ['UPSTREAM_A_CA_FILE'], name)
  t.same(variables({ ...api, ...authority('one.pem'), UPSTREAM_A_URL: 'http://a' }), ['UPSTREAM_A_CA_FILE'])
})

test('other origins are others', async t => {
  t.same(variables({ ...api, PUBLIC_URL: 'https://app.example', CORS_ORIGINS: 'https://spa.example' }), [])
  const own = { PUBLIC_URL: 'https://app.example', CORS_ORIGINS: 'https://spa.example, https://APP.example:443' }
  t.same(variables({ ...api, ...own }), ['CORS_ORIGINS'])
})

test('forward-auth has a secret of its own, and no bound tokens', async t => {
  const [token, other] = ['0123456789abcdef', 'fedcba9876543210']
  t.same(variables({ ...api, FORWARD_AUTH_TOKEN: token, ADMIN_TOKEN: other }), [])
  const same = faultsOf({ ...api, FORWARD_AUTH_TOKEN: token, ADMIN_TOKEN: token })
  t.match(same, [{ variable: 'FORWARD_AUTH_TOKEN', problem: /ADMIN_TOKEN/ }])
  t.notMatch(same[0]?.problem, token)
  t.same(variables({ ...api, FORWARD_AUTH_TOKEN: token, OIDC_DPOP: 'true', UPSTREAM_A_DPOP: 'true' }), [
    'FORWARD_AUTH_TOKEN',
  ])
})

test('production asks for https where users come from, and for certificates that are checked', async t => {
  t.same(variables(production), [])
  t.same(variables({ ...production, CORS_ORIGINS: 'https://spa.example,http://localhost:5173' }), [])
  t.same(variables({ ...production, CORS_ORIGINS: 'https://spa.example,http://other.example' }), ['CORS_ORIGINS'])
  t.same(variables({ ...api, CORS_ORIGINS: 'http://other.example' }), [], 'elsewhere it may be')
  t.same(variables({ ...production, NODE_TLS_REJECT_UNAUTHORIZED: '0' }), ['NODE_TLS_REJECT_UNAUTHORIZED'])
  t.same(variables({ ...production, NODE_TLS_REJECT_UNAUTHORIZED: '1' }), [])
  t.same(variables({ ...api, NODE_TLS_REJECT_UNAUTHORIZED: '0' }), [], 'elsewhere it may be')
  const { UPSTREAM_A_PATH: _path, UPSTREAM_A_URL: _url, ...alone } = production
  t.same(variables(alone), ['UPSTREAM_<NAME>_PATH'])
  t.same(variables({ ...alone, SPA_URL: 'http://localhost:5173' }), [], 'an SPA is something to serve')
})
