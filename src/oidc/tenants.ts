import { decodeJwt } from 'jose'
import { isGuid, issuerOfTenant, isTemplate, tenantOf } from '../core/authority.ts'
import { LoginRejected } from '../core/errors.ts'

/**
 * The issuer that a token must have. In a template the token's own tenant is put, if it is one of those allowed: that
 * the token is genuine is for the signature to show.
 *
 * @throws {LoginRejected} when the tenant is not allowed
 */
export function issuerFor(idToken: string, stated: string, allowed: readonly string[] | undefined): string {
  if (!isTemplate(stated)) return stated
  const tenant = claimedTenant(idToken)
  if (tenant === undefined) throw invalid('tid')
  refuseStranger(tenant, allowed ?? [])
  return issuerOfTenant(stated, tenant)
}

/**
 * Checks a token whose signature is good: its tenant must be that of its issuer and an allowed one, and its key one that
 * may sign for that issuer, since a key of the provider's may belong to one tenant.
 *
 * @throws {LoginRejected}
 */
export function checkTenant(
  { iss, tid }: Record<string, unknown>,
  keyIssuers: readonly string[],
  allowed: readonly string[] | undefined,
): void {
  if (!isGuid(tid) || tenantOf(String(iss)) !== tid) throw invalid('tid')
  if (keyIssuers.some(issuer => issuerOfTenant(issuer, tid) !== iss)) throw invalid('the issuer of its key')
  if (allowed !== undefined) refuseStranger(tid, allowed)
}

function claimedTenant(idToken: string): string | undefined {
  try {
    const { tid } = decodeJwt(idToken)
    return isGuid(tid) ? tid : undefined
  } catch {
    return undefined
  }
}

function refuseStranger(tenant: string, allowed: readonly string[]): void {
  if (!allowed.includes('*') && !allowed.includes(tenant.toLowerCase()))
    throw new LoginRejected('tenant_not_allowed', { detail: `tenant ${tenant} is not in OIDC_ALLOWED_TENANTS` })
}

function invalid(what: string): LoginRejected {
  return new LoginRejected('invalid_response', { detail: `ID token refused: ${what}` })
}
