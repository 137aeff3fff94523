import { hash, sameToken } from '../core/random.ts'

/** Whether an `Authorization` header presents this secret (RFC 6750 §2.1), whatever the case of its scheme (RFC 9110 §11.1). */
export function createBearerCheck(secret: string): (authorization: string | undefined) => boolean {
  // Hashed, so that the comparison does not tell the secret's length.
  const expected = hash(secret)
  return authorization => {
    const [, given] = /^bearer (.+)$/i.exec(authorization ?? '') ?? []
    return given !== undefined && sameToken(hash(given), expected)
  }
}
