import { hash as digest, randomBytes, timingSafeEqual } from 'node:crypto'

/** 256 bits of CSPRNG output as 43 base64url characters: cookies, state, nonce, PKCE verifier, logout value. */
export function randomToken(): string {
  return randomBytes(32).toString('base64url')
}

/** SHA-256 as 43 base64url characters. Names a random token in the store without giving the token away. */
export function hash(value: string): string {
  return digest('sha256', value, 'base64url')
}

/** Whether a value has the form of {@link randomToken}; says nothing of whether it was ever issued. */
export function isRandomToken(value: string): boolean {
  return /^[A-Za-z0-9_-]{43}$/.test(value)
}

/** Compares without telling by its timing where two values differ. */
export function sameToken(left: string, right: string): boolean {
  const a = Buffer.from(left)
  const b = Buffer.from(right)
  return a.length === b.length && timingSafeEqual(a, b)
}
