/**
 * Authorities of a provider whose tenants are issuers of their own (Entra ID): `https://host/<tenant>/v2.0`, where the
 * tenant is a GUID, a domain, or a word for several tenants.
 */

/** The pattern of a GUID in lower case. */
export const guidForm = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}'
const guid = new RegExp(`^${guidForm}$`, 'i')
/** How metadata for several tenants writes the issuer. */
const placeholder = '{tenantid}'

export function isGuid(value: unknown): value is string {
  return typeof value === 'string' && guid.test(value)
}

/** The first part of an issuer's path. */
export function tenantOf(issuer: string): string | undefined {
  if (!URL.canParse(issuer)) return undefined
  const [, first = ''] = new URL(issuer).pathname.split('/')
  try {
    return decodeURIComponent(first) || undefined
  } catch {
    return undefined
  }
}

/** Whether an authority signs in users of more than one tenant. */
export function servesSeveral(authority: string): boolean {
  return ['common', 'organizations'].includes(tenantOf(authority) ?? '')
}

/**
 * Whether metadata found at an authority states an issuer that belongs to it: the authority itself, the tenant's GUID
 * where the authority names the tenant otherwise, or the template of an authority that serves several.
 */
export function belongsTo(authority: string, stated: unknown): stated is string {
  if (stated === authority) return true
  if (typeof stated !== 'string') return false
  return servesSeveral(authority)
    ? tenantOf(stated) === placeholder && isInPlaceOf(authority, stated)
    : isTenantOf(authority, stated)
}

/** Whether an issuer is one tenant's, by its GUID, of an authority that names it otherwise or serves several. */
export function isTenantOf(authority: string, issuer: string): boolean {
  return isGuid(tenantOf(issuer)) && isInPlaceOf(authority, issuer)
}

/** Whether an issuer differs from an authority in the tenant, and in nothing else. */
function isInPlaceOf(authority: string, issuer: string): boolean {
  const tenant = tenantOf(authority)
  if (tenant === undefined || isGuid(tenant)) return false
  return issuer === authority.replace(`/${tenant}/`, `/${tenantOf(issuer)}/`)
}

export function isTemplate(issuer: string): boolean {
  return issuer.includes(placeholder)
}

/** A template's issuer for one tenant. */
export function issuerOfTenant(template: string, tenantId: string): string {
  return template.replaceAll(placeholder, tenantId)
}

/** The address of an endpoint for the tenant of an issuer, where the authority serves several. */
export function endpointFor(issuer: string, endpoint: string, authority: string): string {
  return servesSeveral(authority) ? endpoint.replace(`/${tenantOf(authority)}/`, `/${tenantOf(issuer)}/`) : endpoint
}

/** Whether an endpoint serves all tenants that an authority does. */
export function isShared(endpoint: string, authority: string): boolean {
  return !servesSeveral(authority) || tenantOf(endpoint) === tenantOf(authority)
}
