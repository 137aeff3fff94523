import { createHash, createHmac, generateKeyPair, KeyObject, constants as rsa, sign } from 'node:crypto'
import { promisify } from 'node:util'

/** Signature algorithms the test provider makes keys for. */
export type KeyAlg = 'RS256' | 'PS256' | 'ES256' | 'EdDSA'

/** A public key as the JWKS shows it. */
export type PublicJwk = Record<string, unknown> & { kid: string; kty: string }

/** One signing key with everything a forger could wish for. */
export interface SigningKey {
  kid: string
  alg: KeyAlg
  privateKey: KeyObject
  publicKey: KeyObject
  jwk: PublicJwk
}

/** What a JWS can be signed with: a key, or the raw bytes of a shared secret. */
export type JwsKey = KeyObject | Uint8Array | string

/** An object is serialised as JSON; a string is taken as the exact text (duplicate members, garbage). */
export type JwsPart = object | string

/** The keys of a provider: the one that signs, and those the JWKS shows. */
export interface KeyRing {
  current(): SigningKey
  published(): PublicJwk[]
  /** Makes a new key the signing key and returns the one it replaces; `keepOld: false` withdraws all earlier keys. */
  rotate(options?: { keepOld?: boolean; alg?: KeyAlg }): Promise<SigningKey>
  /** A compact JWS over exactly this header and payload, by the signing key unless another is given. */
  sign(header: JwsPart, payload: JwsPart, key?: JwsKey): string
}

const makeKeyPair = promisify(generateKeyPair)

/** A fresh key pair for one algorithm, under a `kid` never used before. */
export async function createSigningKey(alg: KeyAlg): Promise<SigningKey> {
  const { privateKey, publicKey } = await pairFor(alg)
  const exported = publicKey.export({ format: 'jwk' })
  const kid = createHash('sha256').update(JSON.stringify(exported)).digest('base64url').slice(0, 16)
  return { kid, alg, privateKey, publicKey, jwk: { ...exported, kty: String(exported.kty), kid, alg, use: 'sig' } }
}

function pairFor(alg: KeyAlg): Promise<{ privateKey: KeyObject; publicKey: KeyObject }> {
  if (alg === 'ES256') return makeKeyPair('ec', { namedCurve: 'P-256' })
  if (alg === 'EdDSA') return makeKeyPair('ed25519')
  return makeKeyPair('rsa', { modulusLength: 2048 })
}

/** A ring with one published key. */
export async function createKeyRing(alg: KeyAlg = 'RS256'): Promise<KeyRing> {
  let signing = await createSigningKey(alg)
  let shown = [signing.jwk]
  return {
    current: () => signing,
    published: () => structuredClone(shown),
    rotate: async ({ keepOld = true, alg: nextAlg = signing.alg } = {}) => {
      const replaced = signing
      signing = await createSigningKey(nextAlg)
      shown = keepOld ? [signing.jwk, ...shown] : [signing.jwk]
      return replaced
    },
    sign: (header, payload, key = signing.privateKey) => compactJws(header, payload, key),
  }
}

/**
 * A compact JWS over exactly these parts. The key decides how the signature is made, so that hostile pairs of header
 * and key come out as asked; `alg` only picks the digest, the RSA padding, and no signature at all for `none` in any casing.
 */
export function compactJws(header: JwsPart, payload: JwsPart, key: JwsKey): string {
  const input = `${encode(header)}.${encode(payload)}`
  return `${input}.${signature(algOf(header), input, key)}`
}

/** Left half of the hash of an access token, by the ID token's algorithm (OpenID Connect Core §3.1.3.6). */
export function atHash(accessToken: string, alg: string): string {
  const digest = createHash(`sha${digestBits(alg, 512)}`)
    .update(accessToken)
    .digest()
  return digest.subarray(0, digest.length / 2).toString('base64url')
}

const encode = (part: JwsPart) =>
  Buffer.from(typeof part === 'string' ? part : JSON.stringify(part)).toString('base64url')

function algOf(header: JwsPart): string {
  const alg = typeof header === 'string' ? undefined : (header as { alg?: unknown }).alg
  return typeof alg === 'string' ? alg : ''
}

const digestBits = (alg: string, otherwise: number) => Number(/(?:256|384|512)$/.exec(alg)?.[0] ?? otherwise)

function signature(alg: string, input: string, key: JwsKey): string {
  if (/^none$/i.test(alg)) return ''
  const digest = `sha${digestBits(alg, 256)}`
  const data = Buffer.from(input)
  if (!(key instanceof KeyObject)) return createHmac(digest, key).update(data).digest('base64url')
  if (key.type === 'secret') return createHmac(digest, key).update(data).digest('base64url')
  if (key.asymmetricKeyType === 'ed25519') return sign(null, data, key).toString('base64url')
  if (key.asymmetricKeyType === 'ec') {
    return sign(digest, data, { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')
  }
  const pss = { padding: rsa.RSA_PKCS1_PSS_PADDING, saltLength: rsa.RSA_PSS_SALTLEN_DIGEST }
  return sign(digest, data, alg.startsWith('PS') ? { key, ...pss } : key).toString('base64url')
}
