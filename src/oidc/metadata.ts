import type { ServerMetadata } from 'openid-client'
import { isSecureAddress } from '../core/address.ts'
import type { Diagnosis } from '../core/advice.ts'
import type { Clock } from '../core/clock.ts'
import { ProviderUnavailable } from '../core/errors.ts'
import type { Audit } from '../core/events.ts'
import { discoveryAdvice } from './discovery-advice.ts'
import { createDocumentReport } from './document-report.ts'
import type { ProviderFetch } from './fetch.ts'
import { createRemoteDocument, type RemoteDocument } from './remote-document.ts'

/** The provider's metadata with the endpoints that no login can do without (OpenID Connect Discovery 1.0 §3). */
export type Metadata = ServerMetadata & { authorization_endpoint: string; token_endpoint: string; jwks_uri: string }

const hourMs = 3_600_000
const required = ['authorization_endpoint', 'token_endpoint', 'jwks_uri'] as const
const optional = [
  'userinfo_endpoint',
  'revocation_endpoint',
  'end_session_endpoint',
  'pushed_authorization_request_endpoint',
] as const

/** The provider's metadata: asked for again every hour, used for a day when the provider does not answer. */
export function createMetadata(options: {
  issuer: string
  /** Whether the issuer that the document states is the one that was meant. */
  accepts: (stated: unknown) => stated is string
  /** Where the document is, when not under the issuer. */
  url: URL | undefined
  fetch: ProviderFetch
  audit: Audit
  clock: Clock
}): RemoteDocument<Metadata> {
  const { issuer, accepts, fetch, clock } = options
  const url = options.url?.href ?? `${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`
  const report = createDocumentReport('metadata', options)
  return createRemoteDocument({
    clock,
    rules: { freshForMs: hourMs, usableForMs: 24 * hourMs, refreshCooldownMs: 60_000 },
    load: () =>
      report(url, async () => {
        const response = await fetch(url, { headers: { accept: 'application/json' } })
        if (response.status !== 200)
          throw unusable(`the metadata document answered ${response.status}`, discoveryAdvice.status(response.status))
        return check(await parse(response), issuer, accepts)
      }),
  })
}

async function parse(response: Response): Promise<unknown> {
  try {
    return await response.json()
  } catch {
    // The parser's message quotes the document; it stays here.
    throw unusable('the metadata document is not JSON', discoveryAdvice.noMetadata)
  }
}

function check(document: unknown, issuer: string, accepts: (stated: unknown) => stated is string): Metadata {
  if (typeof document !== 'object' || document === null)
    throw unusable('the metadata document is not an object', discoveryAdvice.noMetadata)
  const metadata = document as Record<string, unknown>
  // A lenient comparison would let one provider speak for another (Discovery §4.3).
  if (!accepts(metadata.issuer))
    throw unusable(
      'the issuer of the metadata is not OIDC_ISSUER, to the letter',
      discoveryAdvice.issuer(metadata.issuer, issuer),
    )
  const given = [...required, ...optional.filter(name => metadata[name] !== undefined)]
  const endpoints = given.map(name => {
    const address = metadata[name]
    if (!isUsable(address, issuer))
      throw unusable(
        `the metadata gives no usable ${name} (https is required)`,
        discoveryAdvice.endpoint(name, address),
      )
    // As it will be spelled when it is called.
    return [name, new URL(address).href]
  })
  // Nothing else of the document is passed on: its types, sizes and promises are the provider's.
  return {
    ...Object.fromEntries(endpoints),
    issuer: metadata.issuer,
    token_endpoint_auth_signing_alg_values_supported: stringsOf(
      metadata.token_endpoint_auth_signing_alg_values_supported,
    ),
    require_pushed_authorization_requests: Boolean(metadata.require_pushed_authorization_requests),
    // Without it nothing is said of DPoP; an empty list is another thing.
    ...(metadata.dpop_signing_alg_values_supported !== undefined && {
      dpop_signing_alg_values_supported: stringsOf(metadata.dpop_signing_alg_values_supported),
    }),
    authorization_response_iss_parameter_supported: Boolean(metadata.authorization_response_iss_parameter_supported),
  }
}

function stringsOf(value: unknown): string[] {
  return Array.isArray(value) ? value.filter(member => typeof member === 'string') : []
}

/** https, or plain http for a provider that is itself on plain http: on this machine, or on its own host in development. */
function isUsable(endpoint: unknown, issuer: string): endpoint is string {
  if (typeof endpoint !== 'string' || !URL.canParse(endpoint)) return false
  const url = new URL(endpoint)
  if (url.protocol === 'https:') return true
  const home = new URL(issuer)
  return (
    url.protocol === 'http:' && home.protocol === 'http:' && (isSecureAddress(url) || url.hostname === home.hostname)
  )
}

function unusable(detail: string, advice: Diagnosis): ProviderUnavailable {
  return new ProviderUnavailable({ detail, advice })
}
