import { isTenantOf } from '../core/authority.ts'
import type { Clock } from '../core/clock.ts'
import { GatewayError, LogoutFailed, LogoutTokenRefused } from '../core/errors.ts'
import type { Audit, LogoutChannel } from '../core/events.ts'
import { hash } from '../core/random.ts'
import { providerSessionIndex, type Session, userIndex } from '../core/session.ts'
import type { LogoutToken } from '../oidc/logout-token.ts'
import type { Provider } from '../oidc/provider.ts'
import type { LogoutTokenStore } from '../store/store.ts'
import type { SessionsFlow } from './sessions.ts'

/** Logouts that begin at the provider. Nothing to end is success: the session may be gone already. */
export interface ProviderLogout {
  /**
   * Ends what a logout token names: one session of the provider's, or all of a user. A token does so once; of several
   * replicas that get it at the same time each may, to no other effect. When something fails, the same token still can.
   *
   * @throws {LogoutTokenRefused} when the token is not valid, or was used before
   * @throws {LogoutFailed} when it is not known whether all of them have ended
   */
  byToken(logoutToken: string): Promise<void>
  /**
   * Ends the sessions that belong to a session of the provider's, on the word of a browser. Whatever comes of it, a
   * fault of the store included, is not told: anybody may ask.
   */
  byBrowser(request: FrontchannelLogout): Promise<void>
}

/** What a provider's page says through a browser (OpenID Connect Front-Channel Logout 1.0 §2). */
export interface FrontchannelLogout {
  sid: string
  /** Undefined when it was not sent. */
  iss: string | undefined
}

/** What it needs. */
export interface ProviderLogoutDeps {
  store: LogoutTokenStore
  provider: Pick<Provider, 'verifyLogoutToken'>
  sessions: Pick<SessionsFlow, 'endIndexed'>
  audit: Audit
  clock: Clock
  issuer: string
  /** Whether a `sid` alone is taken for one of this issuer's, as some providers send it. */
  frontchannelIssOptional: boolean
}

/** A token is remembered for so long after its end, for replicas whose clocks differ. */
const spentMarginMs = 60_000
/** Tolerated difference between the provider's clock and ours, in seconds. */
const clockDifference = 30
const longestSid = 512

export function createProviderLogout(deps: ProviderLogoutDeps): ProviderLogout {
  const { store, provider, sessions, audit, clock, issuer } = deps

  const failed = (channel: LogoutChannel, error: unknown) => {
    if (!(error instanceof GatewayError)) throw error
    audit({ event: 'provider_logout_failed', channel, detail: error.detail ?? error.code })
    return new LogoutFailed(error)
  }

  const end = ({ issuer, subject, providerSessionId, issuedAt }: LogoutToken) => {
    const reason = 'backchannel_logout'
    if (providerSessionId !== undefined)
      // Both name the same session, or the token means none (Back-Channel Logout §2.6).
      return sessions.endIndexed(
        providerSessionIndex(issuer, providerSessionId),
        reason,
        ({ identity }) => subject === undefined || identity.subject === subject,
      )
    // A token that took its time must not end what the user has signed in to since. Of a login in flight just now that
    // is not asked: it is refused, and tried again.
    const user = userIndex({ issuer, subject: subject ?? '' })
    return sessions.endIndexed(user, reason, session => authenticatedAt(session) <= issuedAt)
  }

  const use = async (logoutToken: string) => {
    const token = await provider.verifyLogoutToken(logoutToken)
    const id = hash(JSON.stringify([token.issuer, token.id]))
    if (await store.isLogoutTokenSpent(id)) throw new LogoutTokenRefused('logout token refused: used before')
    const ended = await end(token)
    // Only now: had the sessions not ended, the provider could not try again with the same token.
    await store.spendLogoutToken(id, Math.ceil(token.expiresAt * 1000 - clock.now()) + spentMarginMs)
    return ended
  }

  return {
    async byToken(logoutToken) {
      try {
        audit({ event: 'provider_logout', channel: 'back', ended: await use(logoutToken) })
      } catch (error) {
        if (!(error instanceof LogoutTokenRefused)) throw failed('back', error)
        audit({ event: 'logout_token_refused', detail: error.detail })
        throw error
      }
    },

    async byBrowser({ sid, iss }) {
      // A configured issuer that goes by another name, or stands for several, is named by the one that logged the user in.
      const heard = iss === undefined ? deps.frontchannelIssOptional : iss === issuer || isTenantOf(issuer, iss)
      if (!heard || sid === '' || sid.length > longestSid) return
      const meant = ({ identity }: Session) => iss === undefined || iss === issuer || iss === identity.issuer
      try {
        const ended = await sessions.endIndexed(providerSessionIndex(issuer, sid), 'frontchannel_logout', meant)
        if (ended > 0) audit({ event: 'provider_logout', channel: 'front', ended })
      } catch (error) {
        failed('front', error)
      }
    },
  }
}

/** In seconds by the provider's clock; where the provider does not say, no later than it can have been. */
function authenticatedAt({ identity, createdAt }: Session): number {
  return identity.authTime ?? createdAt / 1000 - clockDifference
}
