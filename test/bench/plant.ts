import { randomBytes } from 'node:crypto'
import { Redis } from 'ioredis'
import { createSeal } from '../../src/core/seal.ts'
import { indexesOf, openSession } from '../../src/core/session.ts'
import { createKeys } from '../../src/store/redis/keys.ts'
import { tokenId } from '../../src/store/redis/sessions.ts'
import { openStore } from '../support/store.ts'

/** Sessions that are put into a Redis as a gateway does, without a login each. */
export interface Planting {
  redisUrl: string
  issuer: string
  clientId: string
  /** `SESSION_KEYS` of the gateway, in base64. */
  sessionKey: string
  count: number
  /** Characters of an access token. */
  tokenLength: number
  /** Access tokens beside that of the login. */
  slots: readonly string[]
  /** When access tokens are over, in milliseconds from now. */
  tokensLiveMs: number
  /** When the sessions end, spread evenly between these, in milliseconds from now; by the usual lifetimes if absent. */
  endWithin?: [firstMs: number, lastMs: number]
}

/** The defaults of the gateway, in seconds. */
const lifetimes = { idleTimeout: 1800, absoluteTimeout: 43_200 }
/** Under way at a time. */
const batch = 256

/** Plants sessions, each of a user of its own; returns what their browsers would hold. */
export async function plant(planting: Planting): Promise<string[]> {
  const { redisUrl, issuer, clientId, tokenLength, slots, count, endWithin } = planting
  const seal = createSeal({
    keys: [Buffer.from(planting.sessionKey, 'base64')],
    context: JSON.stringify([issuer, clientId]),
  })
  const keys = createKeys('coatcheck:')
  const client = new Redis(redisUrl)
  const store = await openStore({ address: { url: new URL(redisUrl) }, seal, prefix: 'coatcheck:', lifetimes })
  const startedAt = performance.now()

  const plantOne = async (index: number): Promise<string> => {
    const subject = randomBytes(18).toString('base64url')
    const claims = {
      sub: subject,
      name: 'Ada Example',
      preferred_username: 'ada',
      email: 'ada@example.test',
      roles: ['user'],
    }
    const identity = {
      issuer,
      subject,
      providerSessionId: randomBytes(18).toString('base64url'),
      claims,
      nonce: 'n'.repeat(43),
      authTime: 1,
    }
    const now = Date.now()
    const { cookie, session } = openSession(identity, { userAgent: userAgent, address: '192.0.2.1' }, now)
    const access = (value: string) => ({
      value: value.padEnd(tokenLength, 't'),
      expiresAt: now + planting.tokensLiveMs,
      refreshAt: now + planting.tokensLiveMs,
      scope: 'openid profile email',
    })
    const due = endWithin && endWithin[0] + ((endWithin[1] - endWithin[0]) * index) / count
    const dueInMs = due && Math.max(1, due - (performance.now() - startedAt))
    await store.addToIndexes(session.id, indexesOf(session))
    await store.createSession(session, { access: access(`${index}-`), refresh: `${index}`.padEnd(64, 'r') }, dueInMs)
    if (slots.length === 0) return cookie
    const sealed = slots.flatMap(slot => [
      `access:${slot}`,
      seal.seal('access', tokenId(session.id, slot), JSON.stringify(access(`${index}-${slot}-`))),
    ])
    await client.hset(keys.session(session.id), ...sealed)
    return cookie
  }

  const cookies: string[] = []
  for (let from = 0; from < count; from += batch) {
    const size = Math.min(batch, count - from)
    cookies.push(...(await Promise.all(Array.from({ length: size }, (_, index) => plantOne(from + index)))))
  }
  await store.close()
  client.disconnect()
  return cookies
}

const userAgent = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0'
