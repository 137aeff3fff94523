import { createHash, createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto'

/** A private key that the gateway authenticates with, and how its assertions name it. */
export interface ClientKey {
  key: KeyObject
  /** What it can sign by, the most widely understood first (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2.2). */
  algorithms: readonly string[]
  /** base64url SHA-256 of the DER of its certificate, if it has one (RFC 7515 §4.1.8). */
  thumbprint: string | undefined
}

/** Why a key or certificate cannot be used; never repeats any of it. */
export interface KeyFault {
  of: 'key' | 'certificate'
  fault: string
}

/** What of RSA is still considered safe, in bits (NIST SP 800-131A). */
const minimumBits = 2048

const curves: Record<string, string> = { prime256v1: 'ES256', secp384r1: 'ES384', secp521r1: 'ES512' }

/** Reads a private key from PEM (PKCS8, PKCS1 or SEC1), and the certificate that it must belong to. */
export function readClientKey(keyPem: string, certificatePem: string | undefined): ClientKey | KeyFault {
  const key = privateKeyOf(keyPem)
  if (key === null) return fault('key', problemOf(keyPem))
  const algorithms = algorithmsOf(key, certificatePem !== undefined)
  if (typeof algorithms === 'string') return fault('key', algorithms)
  if (certificatePem === undefined) return { key, algorithms, thumbprint: undefined }
  const certificate = certificateOf(certificatePem)
  if (certificate === null) return fault('certificate', 'holds no certificate in PEM')
  if (!certificate.checkPrivateKey(key)) return fault('certificate', 'is the certificate of another key')
  return { key, algorithms, thumbprint: createHash('sha256').update(certificate.raw).digest('base64url') }
}

function fault(of: KeyFault['of'], sentence: string): KeyFault {
  return { of, fault: sentence }
}

function privateKeyOf(pem: string): KeyObject | null {
  try {
    return createPrivateKey(pem)
  } catch {
    // The message may quote what it could not read.
    return null
  }
}

function problemOf(pem: string): string {
  return /-----BEGIN ENCRYPTED |^Proc-Type: 4,ENCRYPTED/m.test(pem)
    ? 'holds a key that is encrypted by a passphrase; give it without one, readable by the gateway alone'
    : 'holds no private key in PEM'
}

/** Providers that know a certificate expect PSS for its key; all others know the older padding best. */
function algorithmsOf(key: KeyObject, certified: boolean): readonly string[] | string {
  const { modulusLength = 0, namedCurve = '' } = key.asymmetricKeyDetails ?? {}
  if (key.asymmetricKeyType === 'rsa') {
    if (modulusLength < minimumBits) return `holds an RSA key of less than ${minimumBits} bits`
    return certified ? ['PS256', 'RS256'] : ['RS256', 'PS256']
  }
  if (key.asymmetricKeyType === 'ed25519') return ['EdDSA', 'Ed25519']
  const algorithm = key.asymmetricKeyType === 'ec' ? curves[namedCurve] : undefined
  return algorithm === undefined ? 'must hold a key of RSA, EC (P-256, P-384 or P-521) or Ed25519' : [algorithm]
}

function certificateOf(pem: string): X509Certificate | null {
  try {
    return new X509Certificate(pem)
  } catch {
    return null
  }
}
