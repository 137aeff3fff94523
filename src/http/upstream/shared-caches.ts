/**
 * What an upstream's answer for a session says to caches. Shared caches keep answers to requests with `Authorization` to
 * themselves unless told otherwise (RFC 9111 §3.5), and an upstream counts on that; those in front of the gateway see none,
 * and would give one user's answer to the next for as long as its `max-age` says.
 *
 * @param said the upstream's `Cache-Control`; undefined when it says nothing
 */
export function forOneUser(said: string | readonly string[] | undefined): string {
  if (said === undefined) return 'private, no-cache'
  const list = [said].flat().join(', ')
  return /(?:^|,)\s*(?:private|no-store|public|s-maxage\s*=[^,]*)\s*(?:,|$)/i.test(list) ? list : `private, ${list}`
}
