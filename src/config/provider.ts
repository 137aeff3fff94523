import { servesSeveral } from '../core/authority.ts'
import { type Preset, presetOf, presets } from '../core/presets.ts'
import type { Config, Fault } from './load.ts'

/** What is particular about the configured provider. */
export function presetFor(config: Config): Preset {
  return presets[config.oidcProvider === 'auto' ? presetOf(config.oidcIssuer) : config.oidcProvider]
}

/** The scope of the login. */
export function loginScope(config: Config): string {
  return config.oidcScope ?? presetFor(config).scope
}

/** The parameters of every authorization request; those of the configuration count. */
export function authorizeParameters(config: Config): ReadonlyMap<string, string> {
  return new Map([...Object.entries(presetFor(config).authorizeParameters), ...config.oidcAuthorizeParams])
}

/** What the provider would refuse later, told at the start. */
export function providerFaults(config: Config): Fault[] {
  const preset = presetFor(config)
  const faults: Fault[] = []
  if (preset.issuers === 'tenants' && servesSeveral(config.oidcIssuer) && config.oidcAllowedTenants === undefined)
    faults.push({
      variable: 'OIDC_ALLOWED_TENANTS',
      problem: 'is required: OIDC_ISSUER lets users of every organisation in; name the tenants, or * for all',
      example: '8d0f3f4e-1111-2222-3333-444455556666',
    })
  if (preset.issuers === 'exact' && config.oidcAllowedTenants !== undefined)
    faults.push({ variable: 'OIDC_ALLOWED_TENANTS', problem: 'is for Entra ID, and OIDC_PROVIDER is another' })
  if (preset.oneResourcePerToken && resourcesOf(loginScope(config)).length > 1)
    faults.push({ variable: 'OIDC_SCOPE', problem: oneResource })
  for (const { name, scope, resource } of config.upstreams) {
    const variable = `UPSTREAM_${name.toUpperCase()}_`
    if (resource !== undefined && preset.resourceParameter === null)
      faults.push({
        variable: `${variable}RESOURCE`,
        problem: `is not known to this provider: name the API by ${variable}SCOPE`,
      })
    if (!preset.oneResourcePerToken) continue
    if (scope === undefined)
      faults.push({
        variable: `${variable}SCOPE`,
        problem: "is required with Entra ID: the login's own token is for Microsoft Graph, and no API must accept it",
        example: 'api://my-api/.default',
      })
    else if (resourcesOf(scope).length > 1) faults.push({ variable: `${variable}SCOPE`, problem: oneResource })
  }
  return faults
}

const oneResource = 'names more than one API: Entra ID gives a token for one'
/** Scopes that belong to no resource (OpenID Connect Core §5.4, §11). */
const ownScopes = ['openid', 'profile', 'email', 'offline_access']

/** The resources that scopes belong to, as Entra ID reads them: without an address before it, a scope is Graph's. */
function resourcesOf(scope: string): string[] {
  const names = scope.split(' ').filter(name => !ownScopes.includes(name))
  const resources = names.map(name => (name.includes('/') ? name.slice(0, name.lastIndexOf('/')) : 'Graph'))
  return [...new Set(resources)]
}
