import { randomUUID } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { compactJws, createSigningKey, type SigningKey } from '../provider/keys.ts'
import type { Json } from '../provider/tamper.ts'
import { selfSigned } from '../self-signed.ts'

/** A certificate and its key, as an operator registers and mounts them. */
export interface ClientCertificate {
  /** Both PEM. */
  key: string
  cert: string
  der: Buffer
}

/** A fresh RSA certificate, to be registered at `startEntra({ certificates })` or `entra.credentials.certificates`. */
export const createCertificate = (): ClientCertificate => selfSigned('rsa')

/** The issuer of a cluster, whose tokens stand for the app (workload identity federation). */
export interface WorkloadIssuer {
  readonly issuer: string
  readonly subject: string
  readonly audience: string
  /** The key that signs now; may be set. */
  key: SigningKey
  /** A token as the cluster mounts it; some claims changed. */
  token(claims?: Json): string
  /** A new key: tokens by the old one are worth nothing from now on. */
  rotate(): Promise<void>
  /** Writes a fresh token where the gateway reads it. */
  write(file: string, claims?: Json): Promise<string>
}

/** A cluster's issuer, to be registered at `startEntra({ workloads })` or `entra.credentials.workloads`. */
export async function createWorkloadIssuer(name = 'cluster'): Promise<WorkloadIssuer> {
  const workload: WorkloadIssuer = {
    issuer: `https://${name}.test/issuer`,
    subject: `system:serviceaccount:${name}:coatcheck`,
    audience: 'api://AzureADTokenExchange',
    key: await createSigningKey('RS256'),
    token: (claims = {}) => {
      const { alg, kid, privateKey } = workload.key
      const iat = Math.floor(Date.now() / 1000)
      const { issuer: iss, subject: sub, audience } = workload
      const payload = { iss, sub, aud: [audience], iat, nbf: iat, exp: iat + 3600, jti: randomUUID(), ...claims }
      return compactJws({ alg, kid }, payload, privateKey)
    },
    rotate: async () => {
      workload.key = await createSigningKey('RS256')
    },
    write: async (file, claims) => {
      const token = workload.token(claims)
      await writeFile(file, token)
      return token
    },
  }
  return workload
}
