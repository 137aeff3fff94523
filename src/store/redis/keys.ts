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
  const names = Array.from({ length: buckets }, (_, number) => `${prefix}{b${String(number).padStart(3, '0')}}:`)
  const bucket = (number: number) => {
    const name = names[number]
    if (name === undefined) throw new RangeError(`there is no bucket ${number}`)
    return name
  }
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

/** The name of a key in a bucket that does not exist, as that of the bucket itself does not. */
export function neverThere(bucket: string): string {
  return `${bucket}none`
}

const digits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

/** The bucket of an id: its first byte, which is the first base64url digit and a part of the second (RFC 4648 §5). */
export function bucketOf(id: string): number {
  return ((digits.indexOf(id.charAt(0)) << 2) | (digits.indexOf(id.charAt(1)) >> 4)) & (buckets - 1)
}
