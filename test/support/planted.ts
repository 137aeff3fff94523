import { randomBytes } from 'node:crypto'
import { createSeal } from '../../src/core/seal.ts'
import { indexesOf, openSession, refreshTokenId } from '../../src/core/session.ts'
import { createKeys } from '../../src/store/redis/keys.ts'
import { type Lifetimes, type Store, tombstoneMs } from '../../src/store/store.ts'
import type { TestRedis } from './redis.ts'
import { openStore } from './store.ts'

/** A session that was put into Redis without a login: many are wanted, and a login takes a while. */
export interface Planted {
  id: string
  /** What a browser would hold. */
  cookie: string
  /** Unknown to the provider, which answers 200 to its revocation all the same (RFC 7009 §2.2). */
  refreshToken: string
}

/** Where a session is in its life, as far as Redis tells. */
export interface Whereabouts {
  stored: boolean
  queued: boolean
}

/** Puts sessions into a Redis as a gateway with the same keys does, and looks at what becomes of them. */
export interface Planter {
  plant(count: number): Promise<Planted[]>
  /** When sessions end if nobody uses them, in epoch milliseconds; 0 for one that is gone. */
  deadlines(ids: readonly string[]): Promise<number[]>
  /** When sessions ended, in epoch milliseconds, by the mark that each leaves for a day. */
  endedAt(ids: readonly string[]): Promise<number[]>
  /** Asked in the order in which a session goes from one to the other, so that none is missed on its way. */
  whereabouts(ids: readonly string[]): Promise<Whereabouts[]>
  /** How many entries the outbox has. */
  queueLength(): Promise<number>
  /** Moves the next attempt of those that are queued and have been tried to an instant; tells which these are. */
  reschedule(ids: readonly string[], at: number): Promise<string[]>
  readonly store: Store
  close(): Promise<void>
}

export interface PlanterOptions {
  redis: TestRedis
  provider: { issuer: string; clientId: string }
  /** As `SESSION_KEYS` of the gateway. */
  sessionKey: Buffer
  prefix?: string
  lifetimes: Lifetimes
}

export async function createPlanter(options: PlanterOptions): Promise<Planter> {
  const { redis, provider, lifetimes, prefix = 'coatcheck:' } = options
  const { client } = redis
  const seal = createSeal({
    keys: [options.sessionKey],
    context: JSON.stringify([provider.issuer, provider.clientId]),
  })
  const store = await openStore({ address: { url: new URL(redis.url) }, seal, prefix, lifetimes })
  const keys = createKeys(prefix)
  const part = (id: string, name: string) => `${keys.bucketFor(id)}${name}`

  const plantOne = async (): Promise<Planted> => {
    const refreshToken = `planted-${randomBytes(24).toString('base64url')}`
    const identity = {
      issuer: provider.issuer,
      subject: 'planted',
      providerSessionId: undefined,
      claims: {},
      nonce: 'nonce',
      authTime: undefined,
    }
    const { cookie, session } = openSession(identity, { userAgent: 'test', address: '127.0.0.1' }, Date.now())
    const access = { value: `planted-access-${randomBytes(24).toString('base64url')}`, scope: undefined }
    await store.addToIndexes(session.id, indexesOf(session))
    await store.createSession(session, {
      access: { ...access, expiresAt: Date.now() + 3_600_000, refreshAt: Date.now() + 3_600_000 },
      refresh: refreshToken,
    })
    return { id: session.id, cookie, refreshToken }
  }

  /** One round trip for many commands, in their order. */
  const ask = async (commands: (string | number)[][]): Promise<unknown[]> => {
    const replies = (await client.pipeline(commands).exec()) ?? []
    return replies.map(([error, value]) => {
      if (error) throw error
      return value
    })
  }

  const outboxes = Array.from({ length: store.buckets }, (_, bucket) => `${keys.bucket(bucket)}outbox`)

  return {
    plant: count => Promise.all(Array.from({ length: count }, plantOne)),
    deadlines: async ids => {
      const replies = await ask(ids.map(id => ['hget', keys.session(id), 'idle']))
      return replies.map(Number)
    },
    endedAt: async ids => {
      const replies = await ask([...ids.map(id => ['pttl', part(id, `ended:${id}`)]), ['time']])
      const [seconds, micros] = replies.at(-1) as [string, string]
      const now = Number(seconds) * 1000 + Number(micros) / 1000
      return ids.map((_, index) => now - (tombstoneMs - Number(replies[index])))
    },
    whereabouts: async ids => {
      const stored = await ask(ids.map(id => ['exists', keys.session(id)]))
      const due = await ask(ids.map(id => ['zscore', part(id, 'outbox'), refreshTokenId(id, 0)]))
      const token = await ask(ids.map(id => ['hexists', part(id, 'outbox:token'), refreshTokenId(id, 0)]))
      return ids.map((_, index) => ({ stored: stored[index] === 1, queued: due[index] !== null && token[index] === 1 }))
    },
    queueLength: async () => {
      const lengths = await ask(outboxes.map(name => ['zcard', name]))
      return lengths.reduce<number>((sum, length) => sum + Number(length), 0)
    },
    reschedule: async (ids, at) => {
      const abouts = await ask(ids.map(id => ['hget', part(id, 'outbox:about'), refreshTokenId(id, 0)]))
      const tried = ids.filter((_, index) => JSON.parse(String(abouts[index]))?.attempts > 0)
      await ask(tried.map(id => ['zadd', part(id, 'outbox'), 'XX', at, refreshTokenId(id, 0)]))
      return tried
    },
    store,
    close: () => store.close(),
  }
}
