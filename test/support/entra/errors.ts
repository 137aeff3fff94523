import { setTimeout as sleep } from 'node:timers/promises'
import type { RawAnswer, Responder } from '../provider/script.ts'
import type { Json } from '../provider/tamper.ts'

const trace = '0000aaaa-11bb-cccc-dd22-eeeeee333333'
const correlation = 'aaaa0000-bb11-2222-33cc-444444dddddd'
const time = '2026-01-01 00:00:00Z'

/** An `error_description` in Entra's shape, CR LF included. */
export const describeError = (code: number, text: string): string =>
  `AADSTS${code}: ${text}\r\nTrace ID: ${trace}\r\nCorrelation ID: ${correlation}\r\nTimestamp: ${time}`

/** An error of the token endpoint, word for word. */
export function err(
  status: number,
  error: string,
  code: number,
  extra: Json = {},
  text = 'The test says so.',
): RawAnswer {
  return {
    status,
    headers: { 'cache-control': 'no-store', 'content-type': 'application/json; charset=utf-8' },
    body: {
      error,
      error_description: describeError(code, text),
      error_codes: [code],
      timestamp: time,
      trace_id: trace,
      correlation_id: correlation,
      error_uri: `https://login.microsoftonline.com/error?code=${code}`,
      ...extra,
    },
  }
}

const policy = '5f1c2d8e-6c3c-4f0e-9f5a-0d5f0c7a1b11'

/** What conditional access asks for; goes into an error as a JSON string. */
export const policyClaims = (member: 'capolids' | 'polids' = 'capolids'): Json => ({
  access_token: { [member]: { essential: true, values: [policy] } },
})

const html = '<!DOCTYPE html><html><head><title>Service Unavailable</title></head><body>Try later.</body></html>'
const page = (status: number, headers: Record<string, string> = {}): RawAnswer => ({
  status,
  headers: { 'content-type': 'text/html; charset=utf-8', ...headers },
  body: html,
})

/** Answers of the token endpoint by what happened; for `entra.refuse`. */
export const errors = {
  /** An administrator or the user revoked all sessions. */
  revoked: () => err(400, 'invalid_grant', 50173, { suberror: 'bad_token' }),
  /** Not used for 90 days. */
  idle: () => err(400, 'invalid_grant', 700082),
  /** The refresh token came from a redirect URI of type SPA, 24 hours ago. */
  spa: () => err(400, 'invalid_grant', 700084),
  signInFrequency: () => err(400, 'invalid_grant', 70043, { suberror: 'token_expired' }),
  disabled: () => err(400, 'invalid_grant', 50057),
  mfa: (claims: Json = policyClaims()) =>
    err(400, 'invalid_grant', 50076, { suberror: 'basic_action', claims: JSON.stringify(claims) }),
  /** The same in its older shape. */
  mfaOld: (claims: Json = policyClaims('polids')) =>
    err(400, 'interaction_required', 50079, { claims: JSON.stringify(claims) }),
  consent: () => err(400, 'invalid_grant', 65001, { suberror: 'consent_required' }),
  /** A policy blocks the resource; `message_only` when the user is to be told. */
  blocked: (suberror?: 'message_only') => err(400, 'invalid_grant', 53003, suberror ? { suberror } : {}),
  secretWrong: () => err(401, 'invalid_client', 7000215),
  secretExpired: () => err(401, 'invalid_client', 7000222),
  secretMissing: () => err(401, 'invalid_client', 7000218),
  assertionRefused: () => err(401, 'invalid_client', 700027),
  assertionMalformed: () => err(400, 'invalid_request', 50027),
  unknownClient: () => err(400, 'unauthorized_client', 700016),
  originWithSecret: () => err(400, 'invalid_request', 9002326),
  spaWithoutOrigin: () => err(400, 'invalid_request', 9002327),
  severalResources: () => err(400, 'invalid_request', 28000),
  scopeMissing: () => err(400, 'invalid_request', 90009),
  resourceParameter: () => err(400, 'invalid_request', 901002),
  unknownResource: () => err(400, 'invalid_resource', 500011),
  throttled: (retryAfter: number | string = 7) =>
    withRetryAfter(err(429, 'temporarily_unavailable', 90055), retryAfter),
  throttledHtml: (retryAfter: number | string = 7) => withRetryAfter(page(429), retryAfter),
  unavailable: (status = 503) => err(status, 'temporarily_unavailable', 90033),
  unavailableHtml: (status = 503) => page(status),
  loop: () => err(400, 'invalid_grant', 50196),
  /** An answer that comes late: after the wait the provider works as usual, unless told otherwise. */
  slow:
    (ms: number, then: Responder = 'pass'): Responder =>
    async request => {
      await sleep(ms, undefined, { ref: false })
      return typeof then === 'function' ? then(request) : then
    },
} as const

const withRetryAfter = (answer: RawAnswer, retryAfter: number | string): RawAnswer => ({
  ...answer,
  headers: { ...answer.headers, 'retry-after': String(retryAfter) },
})
