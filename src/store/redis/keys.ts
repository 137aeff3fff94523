/**
 * The names of keys. All keys of a session lie in one of 256 buckets, chosen by the first byte of its id, and carry the
 * bucket's tag, so that they share a cluster slot. Indexes are tagged by themselves.
 */
export interface Keys {
  channel: string
  bucket(number: number): string
  bucketFor(id: string): string
  session(id: string): string
  once(type: string, id: string): string
  indexMembers(index: string): string
  indexEnded(index: string): string
}

export const buckets = 256

export function createKeys(prefix: string): Keys {
  const bucket = (number: number) => `${prefix}{b${String(number).padStart(3, '0')}}:`
  const bucketFor = (id: string) => bucket(bucketOf(id))
  return {
    channel: `${prefix}events`,
    bucket,
    bucketFor,
    session: id => `${bucketFor(id)}session:${id}`,
    once: (type, id) => `${prefix}${type}:${id}`,
    indexMembers: index => `${prefix}{${index}}:members`,
    indexEnded: index => `${prefix}{${index}}:ended`,
  }
}

/** The bucket of an id: its first byte. */
export function bucketOf(id: string): number {
  return Buffer.from(id.slice(0, 4), 'base64url')[0] ?? 0
}
