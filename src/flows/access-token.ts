import type { Clock } from '../core/clock.ts'
import { NotAuthenticated } from '../core/errors.ts'
import type { StoredSession } from '../core/session.ts'
import type { EndSession } from './end-session.ts'

/** Gives the access token that an upstream gets in the place of the cookie. */
export type GetAccessToken = (stored: StoredSession) => Promise<string>

/**
 * A token is never sent after its expiry: a session whose access token is over ends, and the user logs in again.
 *
 * @throws {NotAuthenticated} when the session ended
 * @throws {StoreUnavailable}
 */
export function createGetAccessToken(deps: { endSession: EndSession; clock: Clock }): GetAccessToken {
  return async ({ session, accessToken }) => {
    if (deps.clock.now() < accessToken.expiresAt) return accessToken.value
    await deps.endSession(session.id, 'tokens_expired')
    throw new NotAuthenticated('tokens_expired')
  }
}
