import { createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto'
import { mkdtempSync, renameSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { certify } from './self-signed.ts'

/** A key pair of a client, as its operator would make it. */
export interface ClientKeyPair {
  privateKey: KeyObject
  publicKey: KeyObject
  /** PKCS8. */
  pem: string
  certificate: string
  /** The public key for the provider's registration of the client. */
  jwk(kid?: string): Record<string, unknown>
}

/** A fresh key pair and its certificate; RSA unless told. */
export function createClientKeys(kind: 'rsa' | 'rsa-weak' | 'P-256' | 'P-384' | 'ed25519' = 'rsa'): ClientKeyPair {
  const privateKey = privateKeyOf(kind)
  const publicKey = createPublicKey(privateKey)
  return {
    privateKey,
    publicKey,
    pem: privateKey.export({ format: 'pem', type: 'pkcs8' }) as string,
    certificate: certify(publicKey),
    jwk: kid => ({ ...publicKey.export({ format: 'jwk' }), use: 'sig', ...(kid !== undefined && { kid }) }),
  }
}

function privateKeyOf(kind: string): KeyObject {
  if (kind === 'rsa') return generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey
  if (kind === 'rsa-weak') return generateKeyPairSync('rsa', { modulusLength: 1024 }).privateKey
  if (kind === 'ed25519') return generateKeyPairSync('ed25519').privateKey
  return generateKeyPairSync('ec', { namedCurve: kind }).privateKey
}

/** Files in a folder of their own. */
export interface SecretFiles {
  path(name: string): string
  /** Writes in place; resolves to the path. */
  write(name: string, text: string): string
  /** Puts another file in its place, as an editor or a mount does. */
  replace(name: string, text: string): void
}

/** An empty folder. */
export function createSecretFiles(): SecretFiles {
  const folder = mkdtempSync(join(tmpdir(), 'coatcheck-'))
  const files: SecretFiles = {
    path: name => join(folder, name),
    write: (name, text) => {
      writeFileSync(files.path(name), text)
      return files.path(name)
    },
    replace: (name, text) => renameSync(files.write(`${name}.new`, text), files.path(name)),
  }
  return files
}
