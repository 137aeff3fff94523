import { type KeyObject, constants as rsa, verify } from 'node:crypto'
import type { Json } from '../provider/tamper.ts'

/** A compact JWS taken apart, not yet verified. */
export interface ReadJwt {
  header: Json
  payload: Json
  /** Whether this key made the signature, by RS256, PS256 or ES256 as the header says. */
  signedBy(key: KeyObject): boolean
}

/** Takes a compact JWS apart; undefined when it is none. */
export function readJwt(token: string): ReadJwt | undefined {
  const [head = '', body = '', signature = '', ...rest] = token.split('.')
  if (signature === '' || rest.length > 0) return undefined
  const [header, payload] = [parsed(head), parsed(body)]
  if (!header || !payload) return undefined
  const input = Buffer.from(`${head}.${body}`)
  return {
    header,
    payload,
    signedBy: key => {
      const alg = String(header.alg)
      if (!['RS256', 'PS256', 'ES256'].includes(alg)) return false
      const pss = { padding: rsa.RSA_PKCS1_PSS_PADDING, saltLength: rsa.RSA_PSS_SALTLEN_DIGEST }
      const how =
        alg === 'PS256' ? { key, ...pss } : alg === 'ES256' ? { key, dsaEncoding: 'ieee-p1363' as const } : { key }
      return verify('sha256', input, how, Buffer.from(signature, 'base64url'))
    },
  }
}

/** A JSON object in a parameter or a part of a token; undefined when it is none. */
export function jsonObject(text: string | null | undefined): Json | undefined {
  try {
    const value: unknown = JSON.parse(text ?? '')
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : undefined
  } catch {
    return undefined
  }
}

const parsed = (part: string) => jsonObject(Buffer.from(part, 'base64url').toString())
