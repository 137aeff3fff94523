import { createECDH, createHash, createPrivateKey, randomBytes, sign } from 'node:crypto'

/** A session's own key, to which its tokens are bound (RFC 9449): a private JWK on P-256. */
export interface DpopKey {
  kty: 'EC'
  crv: 'P-256'
  x: string
  y: string
  d: string
}

/** The one algorithm of proofs; every provider and API that knows DPoP takes it. */
export const dpopAlgorithm = 'ES256'

/** What a proof is made for. */
export interface DpopRequest {
  method: string
  url: URL
  /** The token that goes along, if one does. */
  accessToken?: string | undefined
  /** The receiver's, as it gave it last. */
  nonce: string | undefined
  /** Milliseconds since the epoch. */
  now: number
}

/** Makes a key that was never used before; one for each login, so that no two sessions can be told to be one user's by it. */
export function createDpopKey(): DpopKey {
  // Not generateKeyPairSync: on Node 20 the export of its key as a JWK now and then never returns.
  const pair = createECDH('prime256v1')
  const point = pair.generateKeys()
  const scalar = Buffer.alloc(32)
  const secret = pair.getPrivateKey()
  // Leading zeros are left out there, and not in a JWK (RFC 7518 §6.2.2.1).
  secret.copy(scalar, 32 - secret.length)
  const [x, y, d] = [point.subarray(1, 33), point.subarray(33), scalar].map(part => part.toString('base64url'))
  return { kty: 'EC', crv: 'P-256', x: String(x), y: String(y), d: String(d) }
}

/** What names a key in `dpop_jkt` and `cnf.jkt` (RFC 7638 §3, RFC 9449 §10). */
export function dpopThumbprint({ kty, crv, x, y }: DpopKey): string {
  return createHash('sha256').update(JSON.stringify({ crv, kty, x, y })).digest('base64url')
}

/** A proof, good for this one request: method, address without its query, token and nonce are signed (RFC 9449 §4.2). */
export function dpopProof(key: DpopKey, { method, url, accessToken, nonce, now }: DpopRequest): string {
  const { d: _private, ...jwk } = key
  const claims = {
    jti: randomBytes(16).toString('base64url'),
    htm: method,
    htu: `${url.origin}${url.pathname}`,
    iat: Math.floor(now / 1000),
    ...(accessToken !== undefined && { ath: createHash('sha256').update(accessToken).digest('base64url') }),
    ...(nonce !== undefined && { nonce }),
  }
  const signed = `${encode({ alg: dpopAlgorithm, typ: 'dpop+jwt', jwk })}.${encode(claims)}`
  const privateKey = createPrivateKey({ key: { ...key }, format: 'jwk' })
  const signature = sign('sha256', Buffer.from(signed), { key: privateKey, dsaEncoding: 'ieee-p1363' })
  return `${signed}.${signature.toString('base64url')}`
}

/** A nonce that may be sent back (RFC 9449 §8.1), or undefined. */
export function dpopNonceOf(header: unknown): string | undefined {
  return typeof header === 'string' && /^[\x21\x23-\x5b\x5d-\x7e]{1,1024}$/.test(header) ? header : undefined
}

/** Whether a challenge asks for a proof with the nonce that comes with it (RFC 9449 §8, §9). */
export function challengesForNonce(challenge: unknown): boolean {
  return /\buse_dpop_nonce\b/.test(String(challenge ?? ''))
}

function encode(part: object): string {
  return Buffer.from(JSON.stringify(part)).toString('base64url')
}
