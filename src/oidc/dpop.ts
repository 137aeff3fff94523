import type { Clock } from '../core/clock.ts'
import { challengesForNonce, type DpopKey, dpopNonceOf, dpopProof } from '../core/dpop.ts'
import { jsonOf, type ProviderFetch } from './fetch.ts'

/** Calls to the provider that prove the possession of a key (RFC 9449 §5). */
export interface Dpop {
  /**
   * Gives every request a proof of its own, and binds an access token that goes along. It belongs below what may send a
   * request several times: a proof is good once.
   */
  prove(fetch: ProviderFetch, key: DpopKey): ProviderFetch
  /**
   * Sends a request once more when the provider wants its nonce in the proof: it has looked at nothing else then, so no
   * code or token is used up. It belongs above the client's authentication: an assertion is good once, too.
   */
  withNonce(fetch: ProviderFetch): ProviderFetch
}

/** Nonces are kept by origin, and shared by all sessions: a provider's nonce says when, not who. */
export function createDpop({ clock }: { clock: Clock }): Dpop {
  const nonces = new Map<string, string>()

  return {
    prove: (fetch, key) => async (address, init) => {
      const url = new URL(address)
      const accessToken = /^Bearer (.+)$/.exec(init?.headers?.authorization ?? '')?.[1]
      const method = init?.method ?? 'GET'
      const proof = dpopProof(key, { method, url, accessToken, nonce: nonces.get(url.origin), now: clock.now() })
      const bound = accessToken === undefined ? {} : { authorization: `DPoP ${accessToken}` }
      const response = await fetch(address, { ...init, headers: { ...init?.headers, ...bound, dpop: proof } })
      const nonce = dpopNonceOf(response.headers.get('dpop-nonce'))
      if (nonce !== undefined) nonces.set(url.origin, nonce)
      return response
    },

    withNonce: fetch => async (address, init) => {
      const response = await fetch(address, init)
      return (await wantsNonce(response)) ? fetch(address, init) : response
    },
  }
}

/** Said in the body by a token endpoint, and in a challenge by UserInfo. */
async function wantsNonce(response: Response): Promise<boolean> {
  if (response.status !== 400 && response.status !== 401) return false
  if (dpopNonceOf(response.headers.get('dpop-nonce')) === undefined) return false
  if (challengesForNonce(response.headers.get('www-authenticate'))) return true
  const body = await jsonOf(response)
  return (body as { error?: unknown } | null)?.error === 'use_dpop_nonce'
}
