import type { Advice, Diagnosis } from '../core/advice.ts'
import type { ClientAuthentication } from '../core/client-authentication.ts'
import { advice } from './advice.ts'
import { readAdvice } from './read-advice.ts'

/** What an answer to an authenticated request says about the client itself. */
export interface Verdict {
  /** `unknown`: nothing, the provider is in trouble or somebody else has answered. */
  client: 'accepted' | 'refused' | 'unknown'
  /** The standard's error code, if there is one. */
  error: string | undefined
  /** What is known of the fault. */
  advice: Advice
}

/** Neither says anything about a session: the first is about the credential, the second about the registration. */
const refusals = ['invalid_client', 'unauthorized_client']

/** Said before the client is looked at, or whoever it is (RFC 9449 §5, §8). */
const noVerdicts = ['temporarily_unavailable', 'server_error', 'use_dpop_nonce', 'invalid_dpop_proof']

/** Whether an error code of RFC 6749 §5.2 refuses the client, and not what it presents. */
export function refusesClient(error: string | undefined): boolean {
  return error !== undefined && refusals.includes(error)
}

/** The client is authenticated before anything else of a request is looked at (RFC 6749 §3.2.1, RFC 7009 §2.1). */
export function judgeClient(status: number, body: unknown): Verdict {
  const { error } = (body ?? {}) as Record<string, unknown>
  // 201: a pushed authorization request (RFC 9126 §2.2).
  if (status === 200 || status === 201) return { client: 'accepted', error: undefined, advice: {} }
  if (typeof error !== 'string' || noVerdicts.includes(error))
    return { client: 'unknown', error: undefined, advice: {} }
  return {
    client: refusesClient(error) ? 'refused' : 'accepted',
    error,
    advice: readAdvice(body, 'code'),
  }
}

const secret =
  'make a new secret at the provider and set OIDC_CLIENT_SECRET or OIDC_CLIENT_SECRET_2 (a file is read again without a restart)'

/** More than the standard's one code for all of them can tell. */
const byMethod: Record<ClientAuthentication['method'], Diagnosis> = {
  client_secret_post: { cause: 'the secret is wrong or expired, or it is sent in the wrong way', mend: secret },
  client_secret_basic: { cause: 'the secret is wrong or expired, or it is sent in the wrong way', mend: secret },
  private_key_jwt: {
    cause: 'the provider does not know the key or its certificate, or the clocks differ',
    mend: 'register the public key (under OIDC_CLIENT_KEY_ID) or the certificate at the provider, and check the clock',
  },
  federated_assertion: {
    cause: 'the assertion has expired, or the provider does not trust its issuer, subject or audience',
    mend: 'check that the file is being renewed, and the federated credential at the provider',
  },
}

/** What is probably wrong when the client is refused. */
export function diagnose(
  { error, advice: known }: Verdict,
  method: ClientAuthentication['method'],
): Advice & Diagnosis {
  const numbered = known.providerCode !== undefined && advice.providerCode(known.providerCode) !== undefined
  const byCode = numbered || error === 'unauthorized_client' ? known : {}
  return { ...known, ...byMethod[method], ...byCode }
}
