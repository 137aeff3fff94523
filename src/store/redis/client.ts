import { Redis, type RedisOptions } from 'ioredis'
import { type Lifetimes, tombstoneMs, warningMs } from '../store.ts'
import { createScripts } from './scripts.ts'

type Argument = string | number | Buffer
type Script = (key: string, ...args: Argument[]) => Promise<unknown>

/** ioredis, with the gateway's scripts as commands; those named `…Buffer` answer with buffers. */
export type RedisClient = Redis &
  Record<
    | 'createSession'
    | 'touchSessions'
    | 'queueRevocation'
    | 'settleRevocation'
    | 'getSessionBuffer'
    | 'peekSessionBuffer'
    | 'endSessionBuffer'
    | 'sweepBuffer'
    | 'claimRevocationsBuffer'
    | 'beginRefreshBuffer'
    | 'renewRefresh'
    | 'saveRefresh'
    | 'abandonRefresh'
    | 'takeOnceBuffer'
    | 'countUp'
    | 'addToIndex'
    | 'markIndexEnded',
    Script
  >

/** Commands give up after this, so that a hanging Redis is a 503 and not a hanging request. */
const commandTimeoutMs = 2000

/**
 * How long a broken link rests between two attempts: far less than replicas give each other, after an outage, to write the
 * activity they remember.
 */
const longestRestMs = 500

/** Where Redis is. */
export interface RedisAddress {
  url: URL
  ca: Buffer | undefined
}

/**
 * Connects to Redis and keeps on trying.
 *
 * Nothing is queued or sent again: after a cut link ioredis would repeat what was under way, and a repeated GETDEL
 * tells its caller that the transaction never was.
 */
export function createRedisClient(address: RedisAddress, lifetimes: Lifetimes): RedisClient {
  const luas = createScripts({ tombstoneMs, warningMs: warningMs(lifetimes) })
  const scripts = Object.entries(luas).map(([name, lua]) => [name, { lua, numberOfKeys: 1 }])
  return new Redis(address.url.href, {
    ...connection(address),
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    commandTimeout: commandTimeoutMs,
    // After a failover the name may stand for another server by now (the first word of a refusal is its code).
    reconnectOnError: error => /^READONLY\b/.test(error.message),
    scripts: Object.fromEntries(scripts),
  }) as RedisClient
}

/** A connection of its own for publish/subscribe. */
export function createSubscriber(address: RedisAddress): Redis {
  return new Redis(address.url.href, { ...connection(address), maxRetriesPerRequest: null, autoResubscribe: false })
}

function connection({ ca }: RedisAddress) {
  return {
    autoResendUnfulfilledCommands: false,
    connectTimeout: commandTimeoutMs,
    retryStrategy: (attempt: number) => Math.min(50 * attempt, longestRestMs),
    ...(ca !== undefined && { tls: { ca } }),
  } satisfies RedisOptions
}
