import { createHash, type KeyObject } from 'node:crypto'
import { createKeyRing, createSigningKey, type KeyRing, type PublicJwk, type SigningKey } from '../provider/keys.ts'
import type { Json } from '../provider/tamper.ts'
import { selfSigned } from '../self-signed.ts'

/** Tenant of personal Microsoft accounts. */
export const personalTenant = '9188040d-6c67-4c5b-b112-36a304b66dad'

/** The keys of Entra: each entry of the JWKS names the issuers it may sign for. */
export interface EntraKeys extends KeyRing {
  /** Published like the others, and good for the tenant of personal accounts alone. */
  readonly foreign: SigningKey
  /** The entries of the JWKS, without `alg`. */
  entries(): Json[]
  /** Public halves of all keys that ever signed for every tenant. */
  verifiers(): KeyObject[]
}

/** A key set with one key for every tenant and one for a single one. */
export async function createEntraKeys(issuerOf: (tenant: string) => string): Promise<EntraKeys> {
  const ring = await createKeyRing('RS256')
  const foreign = await createSigningKey('RS256')
  const privateKeys = new Map([ring.current(), foreign].map(key => [key.kid, key]))
  const certificates = new Map<string, Buffer>()

  const entry = ({ alg: _none, ...jwk }: PublicJwk, issuer: string): Json => {
    const key = privateKeys.get(jwk.kid)
    const der = certificates.get(jwk.kid) ?? (key && selfSigned('rsa', key.privateKey).der)
    if (der) certificates.set(jwk.kid, der)
    const x5c = der ? [der.toString('base64')] : []
    return { ...jwk, x5t: jwk.kid, x5c, issuer }
  }
  return {
    ...ring,
    foreign,
    rotate: async options => {
      const replaced = await ring.rotate(options)
      privateKeys.set(ring.current().kid, ring.current())
      return replaced
    },
    verifiers: () => [...privateKeys.values()].filter(key => key !== foreign).map(({ publicKey }) => publicKey),
    entries: () => [
      ...ring.published().map(jwk => entry(jwk, issuerOf('{tenantid}'))),
      entry(foreign.jwk, issuerOf(personalTenant)),
    ],
  }
}

/** A GUID made from some text, always the same. */
export function guidOf(...text: string[]): string {
  const hex = createHash('sha256').update(text.join('\n')).digest('hex')
  return [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join(
    '-',
  )
}
