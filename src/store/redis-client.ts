import { Redis, type RedisOptions } from 'ioredis'
import { createSession, getSession, takeSession } from './scripts.ts'

/** What a script answers about a session: sealed session, sealed tokens, milliseconds left (idle, absolute). */
export type SessionReply = [session: Buffer, tokens: Buffer, idle: number, absolute: number] | null

/** ioredis, with the gateway's scripts as commands. */
export type RedisClient = Redis & {
  createSession(key: string, ...args: (string | number | Buffer)[]): Promise<null>
  getSessionBuffer(key: string, idleTimeoutMs: number): Promise<SessionReply>
  takeSessionBuffer(key: string): Promise<SessionReply>
}

/** Commands give up after this, so that a hanging Redis is a 503 and not a hanging request. */
const commandTimeoutMs = 2000

/**
 * Connects to Redis and keeps on trying.
 *
 * Nothing is queued or sent again: after a cut link ioredis would repeat what was under way, and a repeated GETDEL
 * tells its caller that the transaction never was.
 */
export function createRedisClient(options: { url: URL; ca: Buffer | undefined }): RedisClient {
  const connection = {
    autoResendUnfulfilledCommands: false,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    commandTimeout: commandTimeoutMs,
    connectTimeout: commandTimeoutMs,
    retryStrategy: (attempt: number) => Math.min(50 * 2 ** Math.min(attempt, 6), commandTimeoutMs),
    scripts: {
      createSession: { lua: createSession, numberOfKeys: 1 },
      getSession: { lua: getSession, numberOfKeys: 1 },
      takeSession: { lua: takeSession, numberOfKeys: 1 },
    },
    ...(options.ca !== undefined && { tls: { ca: options.ca } }),
  } satisfies RedisOptions
  return new Redis(options.url.href, connection) as RedisClient
}
