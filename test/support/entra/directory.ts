import { createHash } from 'node:crypto'
import type { TestUser, TestUsers } from '../provider/users.ts'
import { guidOf } from './keys.ts'

/** Who is who in which tenant. */
export interface Directory {
  readonly tenants: readonly string[]
  /** The tenant id for a domain; any other authority as it is. */
  canonical(authority: string): string
  /** Whether an authority of this name exists. */
  knows(authority: string): boolean
  /** Tenant id of an authority: its own one, or that of the user where anybody may sign in. */
  tenantOf(authority: string, user: TestUser): string
  /** Object id of a user in a tenant; `users.set(login, { oid })` sets that of all. */
  oidOf(user: TestUser, tenant: string): string
  /** The user of an object id that was given out. */
  userOf(oid: string): string
  /** Pairwise per client. */
  subOf(user: TestUser, tenant: string): string
  /** The opaque hint of the `login_hint` claim. */
  hintOf(user: TestUser): string
}

const everybody = ['common', 'organizations', 'consumers']

/** The directory of some tenants; the first one is the home of users without a `tid`. */
export function createDirectory(deps: {
  tenants: string[]
  /** Verified domains and their tenants. */
  domains: Record<string, string>
  clientId: string
  users: TestUsers
}): Directory {
  const { tenants, domains, clientId } = deps
  const byOid = new Map<string, string>()
  const oidOf = (user: TestUser, tenant: string) => {
    const oid = String(user.oid ?? guidOf('oid', user.sub, tenant))
    byOid.set(oid, user.sub)
    return oid
  }
  return {
    tenants,
    canonical: authority => domains[authority] ?? authority,
    knows: authority => [...tenants, ...Object.keys(domains), ...everybody].includes(authority),
    tenantOf: (authority, user) =>
      everybody.includes(authority) ? String(user.tid ?? tenants[0]) : (domains[authority] ?? authority),
    oidOf,
    userOf: oid => byOid.get(oid) ?? oid,
    subOf: (user, tenant) =>
      createHash('sha256')
        .update(`${clientId} ${oidOf(user, tenant)}`)
        .digest('base64url'),
    hintOf: user => `O.${createHash('sha256').update(`hint ${user.sub}`).digest('base64url')}`,
  }
}
