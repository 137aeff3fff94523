import type { ClientAuthentication } from '../core/client-authentication.ts'

/** What an answer to an authenticated request says about the client itself. */
export interface Verdict {
  /** `unknown`: nothing, the provider is in trouble or somebody else has answered. */
  client: 'accepted' | 'refused' | 'unknown'
  /** The standard's error code, if there is one. */
  error: string | undefined
  /** Entra ID's numbers for the fault. */
  numbers: readonly unknown[]
}

/** Neither says anything about a session: the first is about the credential, the second about the registration. */
const refusals = ['invalid_client', 'unauthorized_client']

/** Whether an error code of RFC 6749 §5.2 refuses the client, and not what it presents. */
export function refusesClient(error: string | undefined): boolean {
  return error !== undefined && refusals.includes(error)
}

/** The client is authenticated before anything else of a request is looked at (RFC 6749 §3.2.1, RFC 7009 §2.1). */
export function judgeClient(status: number, body: unknown): Verdict {
  const { error, error_codes } = (body ?? {}) as Record<string, unknown>
  if (status === 200) return { client: 'accepted', error: undefined, numbers: [] }
  if (typeof error !== 'string' || ['temporarily_unavailable', 'server_error'].includes(error))
    return { client: 'unknown', error: undefined, numbers: [] }
  return {
    client: refusesClient(error) ? 'refused' : 'accepted',
    error,
    numbers: Array.isArray(error_codes) ? error_codes : [],
  }
}

/** A likely cause, and what the operator can do about it. */
export interface Diagnosis {
  cause: string
  mend: string
}

const newSecret =
  'make a new secret at the provider and set OIDC_CLIENT_SECRET or OIDC_CLIENT_SECRET_2 (a file is read again without a restart)'
const registration = 'check OIDC_CLIENT_ID and OIDC_ISSUER against the registration at the provider'

const byMethod: Record<ClientAuthentication['method'], Diagnosis> = {
  client_secret_post: { cause: 'the secret is wrong or expired, or it is sent in the wrong way', mend: newSecret },
  client_secret_basic: { cause: 'the secret is wrong or expired, or it is sent in the wrong way', mend: newSecret },
  private_key_jwt: {
    cause: 'the provider does not know the key or its certificate, or the clocks differ',
    mend: 'register the public key (under OIDC_CLIENT_KEY_ID) or the certificate at the provider, and check the clock',
  },
  federated_assertion: {
    cause: 'the assertion has expired, or the provider does not trust its issuer, subject or audience',
    mend: 'check that the file is being renewed, and the federated credential at the provider',
  },
}

/** Entra ID's numbers that tell more. */
const byNumber: ReadonlyMap<unknown, Diagnosis> = new Map([
  [
    7000215,
    { cause: 'the secret is wrong; often the ID of the secret was copied in the place of its value', mend: newSecret },
  ],
  [7000222, { cause: 'the secret has expired', mend: newSecret }],
  [
    700027,
    { cause: 'the certificate of the key is not registered', mend: 'upload the certificate to the app registration' },
  ],
  [700016, { cause: 'the client does not exist in this tenant', mend: registration }],
])

/** What is probably wrong when the client is refused. */
export function diagnose({ error, numbers }: Verdict, method: ClientAuthentication['method']): Diagnosis {
  const known = numbers.map(number => byNumber.get(number)).find(diagnosis => diagnosis !== undefined)
  if (known !== undefined) return known
  if (error === 'unauthorized_client')
    return {
      cause: 'the client is not allowed to use this grant, or is not the one that was meant',
      mend: registration,
    }
  return byMethod[method]
}
