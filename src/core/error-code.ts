/** An error code as RFC 6749 §5.2 writes them; anything else, which could say anything, is not repeated. */
export function standardCode(code: unknown, otherwise = 'unknown error'): string {
  return typeof code === 'string' && /^[a-z_]{1,64}$/.test(code) ? code : otherwise
}
