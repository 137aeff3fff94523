import { StoreUnavailable } from '../core/errors.ts'
import type { RecordType, Seal } from '../core/seal.ts'
import type { Session, StoredSession } from '../core/session.ts'
import type { TokenSet } from '../core/token-set.ts'
import { type Transaction, transactionLifetime } from '../core/transaction.ts'
import type { RedisClient, SessionReply } from './redis-client.ts'
import { type Lifetimes, logoutLifetime, type Store } from './store.ts'

/** A dead session's record stays this long past its last deadline: its refresh token must still be there to be revoked. */
const retentionMs = 7 * 86_400_000

/** What the Redis store is made of. */
export interface RedisStoreOptions {
  client: RedisClient
  seal: Seal
  /** Begins every key. */
  prefix: string
  lifetimes: Lifetimes
  /** Called when a record was changed, moved, or sealed with a key that is no longer known. */
  onUnreadable: (sessionId: string) => void
}

/**
 * The store in Redis.
 *
 * A session is one hash, `<prefix>{bNNN}:session:<id>`: sealed claims and sealed tokens in fields of their own, so that
 * neither is written with the other, and both deadlines in the clear, so that Redis can keep them by its own clock. The
 * bucket `bNNN` is the first byte of the id; all keys of one session carry it and share a cluster slot. Whatever is
 * taken once (transactions, logout addresses) is a plain sealed value with a time to live.
 */
export function createRedisStore(options: RedisStoreOptions): Store {
  const { client, seal, prefix, lifetimes, onUnreadable } = options
  const idleTimeoutMs = lifetimes.idleTimeout * 1000
  const absoluteTimeoutMs = lifetimes.absoluteTimeout * 1000

  const sessionKey = (id: string) => `${prefix}{b${bucketOf(id)}}:session:${id}`

  const open = (id: string, reply: SessionReply): StoredSession | null => {
    if (reply === null) return null
    const session = seal.open('session', id, reply[0])
    const tokens = seal.open('tokens', id, reply[1])
    if (session === null || tokens === null) {
      onUnreadable(id)
      return null
    }
    return {
      session: JSON.parse(session) as Session,
      tokens: JSON.parse(tokens) as TokenSet,
      idleExpiresInMs: reply[2],
      absoluteExpiresInMs: reply[3],
    }
  }

  const putOnce = async (type: RecordType, id: string, text: string, lifetimeMs: number) => {
    await answered(client.set(`${prefix}${type}:${id}`, seal.seal(type, id, text), 'PX', lifetimeMs))
  }
  const takeOnce = async (type: RecordType, id: string) => {
    const sealed = await answered(client.getdelBuffer(`${prefix}${type}:${id}`))
    return sealed === null ? null : seal.open(type, id, sealed)
  }

  return {
    putTransaction: (id, transaction) =>
      putOnce('transaction', id, JSON.stringify(transaction), transactionLifetime * 1000),
    async takeTransaction(id) {
      const text = await takeOnce('transaction', id)
      return text === null ? null : (JSON.parse(text) as Transaction)
    },

    async createSession(session, tokens) {
      const sealedSession = seal.seal('session', session.id, JSON.stringify(session))
      const sealedTokens = seal.seal('tokens', session.id, JSON.stringify(tokens))
      const times = [idleTimeoutMs, absoluteTimeoutMs, retentionMs]
      await answered(client.createSession(sessionKey(session.id), sealedSession, sealedTokens, ...times))
    },
    async getSession(id, { slide }) {
      return open(id, await answered(client.getSessionBuffer(sessionKey(id), slide ? idleTimeoutMs : 0)))
    },
    async takeSession(id) {
      return open(id, await answered(client.takeSessionBuffer(sessionKey(id))))
    },

    putLogout: (id, address) => putOnce('logout', id, address, logoutLifetime * 1000),
    takeLogout: id => takeOnce('logout', id),

    async ping() {
      await answered(client.ping())
    },
    async close() {
      client.disconnect()
    },
  }
}

function bucketOf(id: string): string {
  return String(Buffer.from(id.slice(0, 4), 'base64url')[0] ?? 0).padStart(3, '0')
}

/** Every fault of Redis, whatever its kind, is one decision for the caller: no definite answer, try again. */
async function answered<T>(command: Promise<T>): Promise<T> {
  try {
    return await command
  } catch (cause) {
    throw new StoreUnavailable({ detail: 'Redis did not answer the command', cause })
  }
}
