import { isTemplate, servesSeveral } from '../core/authority.ts'
import { ownScopes, type Preset, presetOf, presets } from '../core/presets.ts'
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
  if (
    preset.issuers === 'tenants' &&
    (servesSeveral(config.oidcIssuer) || isTemplate(config.oidcIssuer)) &&
    config.oidcAllowedTenants === undefined
  )
    faults.push({
      variable: 'OIDC_ALLOWED_TENANTS',
      problem: 'is required: OIDC_ISSUER lets users of every organisation in; name the tenants, or * for all',
      example: '8d0f3f4e-1111-2222-3333-444455556666',
    })
  if (preset.issuers === 'exact' && config.oidcAllowedTenants !== undefined)
    faults.push({ variable: 'OIDC_ALLOWED_TENANTS', problem: 'is for Entra ID, and OIDC_PROVIDER is another' })
  if (preset.oneResourcePerToken && resourcesOf(loginScope(config)).length > 1)
    faults.push({ variable: 'OIDC_SCOPE', problem: oneResource })
  for (const { name, scope, resource, auth } of config.upstreams) {
    if (auth === 'none') continue
    const variable = `UPSTREAM_${name.toUpperCase()}_`
    if (resource !== undefined && preset.resourceParameter === null)
      faults.push({
        variable: `${variable}RESOURCE`,
        problem: `is not known to this provider: name the API by ${variable}SCOPE`,
      })
    if (!preset.oneResourcePerToken) continue
    const problem = scopeProblem(scope, config)
    if (problem !== undefined) faults.push({ variable: `${variable}SCOPE`, problem, example: 'api://my-api/.default' })
  }
  return faults
}

/** What is wrong with an upstream's scope where every token is for one resource. */
function scopeProblem(scope: string | undefined, config: Config): string | undefined {
  if (scope === undefined)
    return "is required with Entra ID: the login's own token is for Microsoft Graph, and no API must accept it"
  const names = apiScopes(scope)
  // Graph's own address may be written out, by who means it; the client's id stands for an API of its own registration.
  if (names.length === 0 || names.some(name => !name.includes('/') && name !== config.oidcClientId))
    return 'must name the API with each scope: without it Entra ID gives a token for Microsoft Graph'
  if (resourcesOf(scope).length > 1) return oneResource
  const all = [loginScope(config), ...config.upstreams.map(upstream => upstream.scope ?? '')].flatMap(apiScopes)
  const named = (name: string) => !name.endsWith('/.default') && names.includes(`${resourceOf(name)}/.default`)
  return all.some(named)
    ? 'asks for all permissions of an API (.default), and another scope for one of them: Entra ID refuses both in one login'
    : undefined
}

const oneResource = 'names more than one API: Entra ID gives a token for one'

function apiScopes(scope: string): string[] {
  return scope.split(' ').filter(name => name !== '' && !ownScopes.includes(name))
}

/** The resource that a scope belongs to, as Entra ID reads it: without an address before it, a scope is Graph's. */
function resourceOf(name: string): string {
  return name.includes('/') ? name.slice(0, name.lastIndexOf('/')) : 'https://graph.microsoft.com'
}

function resourcesOf(scope: string): string[] {
  return [...new Set(apiScopes(scope).map(resourceOf))]
}
