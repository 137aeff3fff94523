import { test } from 'tap'
import { ConfigError, type Fault, loadConfig } from '../../src/config/load.ts'

const clientId = '11111111-2222-4333-8444-555555555555'
const tenant = '8d0f3f4e-1111-2222-3333-444455556666'
const entra = {
  OIDC_ISSUER: `https://login.microsoftonline.com/${tenant}/v2.0`,
  OIDC_CLIENT_ID: clientId,
  OIDC_CLIENT_SECRET: 'canary-secret',
}
const upstream = (name: string, scope?: string) => ({
  [`UPSTREAM_${name}_PATH`]: `/${name.toLowerCase()}`,
  [`UPSTREAM_${name}_URL`]: 'http://api:3000',
  ...(scope !== undefined && { [`UPSTREAM_${name}_SCOPE`]: scope }),
})

function faultsOf(environment: Record<string, string>): readonly Fault[] {
  try {
    loadConfig(environment)
    return []
  } catch (error) {
    if (error instanceof ConfigError) return error.faults
    throw error
  }
}

// Without an API's address Entra ID takes a scope for Graph's. A token for Graph reads the user's mail: an API that gets
// it by mistake, or whoever breaks into that API, holds more than the application ever wanted to give.
test('at Entra ID no API is given a token for Graph by mistake', async t => {
  const graph = /Microsoft Graph/
  const cases: [scope: string | undefined, problem: RegExp][] = [
    [undefined, graph],
    ['openid', graph],
    ['openid profile email offline_access', graph],
    ['read', graph],
    ['User.Read', graph],
    ['api://a/read write', graph],
    ['api://a/read api://b/read', /names more than one API/],
    ['api://a/read https://graph.microsoft.com/User.Read', /names more than one API/],
  ]
  for (const [scope, problem] of cases)
    t.match(faultsOf({ ...entra, ...upstream('A', scope) }), [{ variable: 'UPSTREAM_A_SCOPE', problem }], String(scope))
  const good = [
    'api://a/read',
    'api://a/read api://a/write offline_access',
    'api://a/.default',
    'https://api.example.com//.default',
    `${clientId}/.default`,
    clientId,
    'https://graph.microsoft.com/User.Read',
  ]
  for (const scope of good) t.same(faultsOf({ ...entra, ...upstream('A', scope) }), [], scope)
  t.same(faultsOf({ ...entra, ...upstream('A'), UPSTREAM_A_AUTH: 'none' }), [], 'one without a token needs no scope')
  const optional = { ...entra, ...upstream('A'), UPSTREAM_A_AUTH: 'optional' }
  t.match(faultsOf(optional), [{ variable: 'UPSTREAM_A_SCOPE' }])
})

test('what Entra ID would refuse at the login is told at the start', async t => {
  const login = 'OIDC_SCOPE'
  t.match(faultsOf({ ...entra, OIDC_SCOPE: 'openid api://a/x api://b/x' }), [
    { variable: login, problem: /more than one/ },
  ])
  t.same(faultsOf({ ...entra, OIDC_SCOPE: 'openid User.Read https://graph.microsoft.com/Mail.Read' }), [])
  t.match(faultsOf({ ...entra, ...upstream('A', 'api://a/.default'), ...upstream('B', 'api://a/read') }), [
    { variable: 'UPSTREAM_A_SCOPE', problem: /\.default/ },
  ])
  t.match(faultsOf({ ...entra, OIDC_SCOPE: 'openid api://a/x', ...upstream('A', 'api://a/.default') }), [
    { variable: 'UPSTREAM_A_SCOPE', problem: /\.default/ },
  ])
  t.same(faultsOf({ ...entra, ...upstream('A', 'api://a/.default'), ...upstream('B', 'api://b/read') }), [])
  t.match(faultsOf({ ...entra, ...upstream('A', 'api://a/x'), UPSTREAM_A_RESOURCE: 'api://a' }), [
    { variable: 'UPSTREAM_A_RESOURCE', problem: /UPSTREAM_A_SCOPE/ },
  ])
})

test('who may come in is said where an authority serves several tenants', async t => {
  const at = (authority: string) => ({ ...entra, OIDC_ISSUER: `https://login.microsoftonline.com/${authority}/v2.0` })
  for (const authority of ['common', 'organizations', '{tenantid}'])
    t.match(faultsOf(at(authority)), [{ variable: 'OIDC_ALLOWED_TENANTS', problem: /^is required/ }], authority)
  for (const authority of [tenant, 'contoso.com', 'consumers', '%zz']) t.same(faultsOf(at(authority)), [], authority)
  for (const tenants of ['*', tenant, `${tenant.toUpperCase()}, ${clientId}`])
    t.same(faultsOf({ ...at('common'), OIDC_ALLOWED_TENANTS: tenants }), [], tenants)
  const other = { ...entra, OIDC_ISSUER: 'https://idp.example', OIDC_ALLOWED_TENANTS: tenant }
  t.match(faultsOf(other), [{ variable: 'OIDC_ALLOWED_TENANTS', problem: /is for Entra ID/ }])
})

test('other providers are as free with scopes as their standards', async t => {
  const other = { ...entra, OIDC_ISSUER: 'https://idp.example' }
  for (const scope of [undefined, 'read', 'openid']) t.same(faultsOf({ ...other, ...upstream('A', scope) }), [])
  t.same(faultsOf({ ...other, ...upstream('A'), UPSTREAM_A_RESOURCE: 'https://a.example' }), [])
  for (const provider of ['keycloak', 'google'])
    t.match(
      faultsOf({ ...other, OIDC_PROVIDER: provider, ...upstream('A'), UPSTREAM_A_RESOURCE: 'https://a.example' }),
      [{ variable: 'UPSTREAM_A_RESOURCE', problem: /is not known to this provider/ }],
    )
})
