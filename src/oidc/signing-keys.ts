import { createLocalJWKSet, errors, type JSONWebKeySet, type JWTVerifyGetKey } from 'jose'
import type { Clock } from '../core/clock.ts'
import { ProviderUnavailable } from '../core/errors.ts'
import type { Audit } from '../core/events.ts'
import { discoveryAdvice } from './discovery-advice.ts'
import { createDocumentReport } from './document-report.ts'
import type { ProviderFetch } from './fetch.ts'
import type { Metadata } from './metadata.ts'
import { createRemoteDocument, type RemoteDocument } from './remote-document.ts'

/** The provider's public keys. */
export interface SigningKeys {
  /** The one key that fits a token's header; for jose. */
  find: JWTVerifyGetKey
  /** Asks for the keys out of turn, if that may be; whether there are others now. @throws {ProviderUnavailable} */
  renew(): Promise<boolean>
  /** Whom the keys of an id, or all without one, may sign for, where the key set says. */
  issuersOf(kid: string | undefined): Promise<string[]>
  /** @throws {ProviderUnavailable} when there are no keys to verify with */
  ready(): Promise<void>
}

const minuteMs = 60_000
const maximumKeys = 100

/**
 * The keys behind `jwks_uri`: asked for again every 10 minutes, used for an hour when they cannot be had, and once a
 * minute out of turn for a token whose key is not among them, or whose signature none of them made (keys need no id, and some
 * are given that of the one before), so that a key rotation is seen at once and a flood of made-up tokens costs the provider
 * nothing (OpenID Connect Core §10.1.1).
 */
export function createSigningKeys(options: {
  metadata: RemoteDocument<Metadata>
  fetch: ProviderFetch
  audit: Audit
  clock: Clock
}): SigningKeys {
  const { metadata, fetch, clock } = options
  const report = createDocumentReport('key set', options)
  const keys = createRemoteDocument({
    clock,
    rules: { freshForMs: 10 * minuteMs, usableForMs: 60 * minuteMs, refreshCooldownMs: minuteMs },
    async load() {
      const { jwks_uri } = await metadata.get()
      return report(jwks_uri, async () => {
        const response = await fetch(jwks_uri, { headers: { accept: 'application/json, application/jwk-set+json' } })
        if (response.status !== 200) throw unusable(`the key set answered ${response.status}`)
        return createLocalJWKSet(check(await response.json().catch(() => null)))
      })
    },
  })

  return {
    async find(header, token) {
      try {
        return await (await keys.get())(header, token)
      } catch (error) {
        if (!(error instanceof errors.JWKSNoMatchingKey)) throw error
        return await (await keys.refresh())(header, token)
      }
    },
    async renew() {
      const before = await keys.get()
      return (await keys.refresh()) !== before
    },
    async issuersOf(kid) {
      const fitting = (await keys.get()).jwks().keys.filter(key => kid === undefined || key.kid === kid)
      return fitting.flatMap(key => ('issuer' in key && typeof key.issuer === 'string' ? [key.issuer] : []))
    },
    async ready() {
      await keys.get()
    },
  }
}

/** Keeps public signature keys only: a symmetric key in a public document is no secret, so it verifies nothing. */
function check(document: unknown): JSONWebKeySet {
  const keys = (document as { keys?: unknown } | null)?.keys
  if (!Array.isArray(keys) || keys.length > maximumKeys)
    throw unusable(`the key set is not a list of at most ${maximumKeys} keys`)
  return { keys: keys.filter(key => ['RSA', 'EC', 'OKP'].includes(key?.kty)) }
}

function unusable(detail: string): ProviderUnavailable {
  return new ProviderUnavailable({ detail, advice: discoveryAdvice.keySet })
}
