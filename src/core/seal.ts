import { createCipheriv, createDecipheriv, createHash, createSecretKey, type KeyObject, randomBytes } from 'node:crypto'

/** What a sealed record is; a record of one kind never opens as another. */
export type RecordType =
  | 'session'
  | 'access'
  | 'refresh'
  | 'id_token'
  | 'transaction'
  | 'logout'
  | 'step-up'
  | 'refusal'

/** Authenticated encryption of records at rest: AES-256-GCM with full-length tags (NIST SP 800-38D). */
export interface Seal {
  /** Seals text for one place in the store; it opens only under the same type and id. */
  seal(type: RecordType, id: string, text: string): Buffer
  /** The text, or null when the record was changed, moved, cut, or sealed with a key that is not on the ring. */
  open(type: RecordType, id: string, sealed: Buffer): string | null
}

const formatVersion = 1
const keyIdLength = 4
const ivLength = 12
const tagLength = 16
const headerLength = 1 + keyIdLength + ivLength

/**
 * Makes a seal from 32-byte keys: the first seals, all open, so that a key is replaced without a logout.
 *
 * The associated data are format version, record type, record id and `context` (which client at which provider), so a
 * record cannot be moved to another session, another type or another application on the same Redis. IVs are random:
 * a key is good for 2^32 records (SP 800-38D §8.3), some 10 logins a second for 4 years.
 */
export function createSeal(options: { keys: readonly Buffer[]; context: string }): Seal {
  const ring = options.keys.map(key => ({ id: keyId(key), key: createSecretKey(key) }))
  const first = ring[0]
  if (first === undefined) throw new Error('a seal needs at least one key')

  const associatedData = (type: RecordType, id: string) =>
    Buffer.from(JSON.stringify(['coatcheck', formatVersion, type, id, options.context]))

  return {
    seal(type, id, text) {
      const iv = randomBytes(ivLength)
      const cipher = createCipheriv('aes-256-gcm', first.key, iv, { authTagLength: tagLength })
      cipher.setAAD(associatedData(type, id))
      const body = cipher.update(text, 'utf8')
      cipher.final()
      return Buffer.concat([Buffer.of(formatVersion), first.id, iv, body, cipher.getAuthTag()])
    },

    open(type, id, sealed) {
      if (sealed.length < headerLength + tagLength || sealed[0] !== formatVersion) return null
      const wanted = sealed.subarray(1, 1 + keyIdLength)
      const key = ring.find(entry => entry.id.equals(wanted))?.key
      return key === undefined ? null : decipher(key, sealed, associatedData(type, id))
    },
  }
}

function decipher(key: KeyObject, sealed: Buffer, associatedData: Buffer): string | null {
  const iv = sealed.subarray(1 + keyIdLength, headerLength)
  // Without authTagLength Node takes tags of 4 bytes, which can be guessed.
  const cipher = createDecipheriv('aes-256-gcm', key, iv, { authTagLength: tagLength })
  cipher.setAAD(associatedData)
  cipher.setAuthTag(sealed.subarray(-tagLength))
  try {
    return cipher.update(sealed.subarray(headerLength, -tagLength), undefined, 'utf8') + cipher.final('utf8')
  } catch {
    return null
  }
}

function keyId(key: Buffer): Buffer {
  return createHash('sha256').update('coatcheck key id').update(key).digest().subarray(0, keyIdLength)
}
