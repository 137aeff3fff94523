import { setTimeout as sleep } from 'node:timers/promises'
import { hash, isRandomToken, randomToken } from '../core/random.ts'
import type { Provider } from '../oidc/provider.ts'
import type { LogoutStore } from '../store/store.ts'
import type { EndSession } from './end-session.ts'

/** Logging out, here first and then at the provider. */
export interface LogoutFlow {
  /**
   * Ends the session and tells where the browser goes on to end the provider's. An unreachable provider delays nothing:
   * the browser then goes to the post-logout path.
   *
   * @throws {StoreUnavailable} when the session may still be there
   */
  end(sessionId: string): Promise<string>
  /** As {@link end} for scripts: the answer is a one-time handle, good for 5 minutes, in the place of the address. */
  endByScript(sessionId: string): Promise<string>
  /** The address behind a handle, once; the post-logout path for a handle that is spent, old or made up. */
  continue(handle: string): Promise<string>
}

/** How long a logout waits for the provider's metadata. */
const patienceMs = 1000

/** What the logout needs. */
export interface LogoutDeps {
  store: LogoutStore
  provider: Pick<Provider, 'logoutUrl'>
  endSession: EndSession
  postLogoutPath: string
}

export function createLogoutFlow(deps: LogoutDeps): LogoutFlow {
  const { store, provider, endSession, postLogoutPath } = deps

  const end = async (sessionId: string) => {
    const ended = await endSession(sessionId, 'logout')
    const hint = { idToken: ended?.idToken, loginHint: ended?.session.identity.loginHint }
    // A provider that does not say in time where its logout is does not keep the user here.
    const unknown = sleep(patienceMs, null, { ref: false })
    return (await Promise.race([provider.logoutUrl(hint).catch(() => null), unknown])) ?? postLogoutPath
  }

  return {
    end,
    async endByScript(sessionId) {
      const address = await end(sessionId)
      const handle = randomToken()
      await store.putLogout(hash(handle), address)
      return handle
    },
    async continue(handle) {
      return (isRandomToken(handle) ? await store.takeLogout(hash(handle)) : null) ?? postLogoutPath
    },
  }
}
