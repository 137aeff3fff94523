import { createHash, X509Certificate } from 'node:crypto'
import type { ProviderRequest } from '../provider/journal.ts'
import type { RawAnswer } from '../provider/script.ts'
import { err, errors } from './errors.ts'
import { type ReadJwt, readJwt } from './jwt.ts'
import type { ClientCertificate, WorkloadIssuer } from './workload.ts'

/** What the app may authenticate with; each may be changed at any time. */
export interface Credentials {
  /** All of these are good. */
  secrets: Set<string>
  /** These were. */
  expiredSecrets: Set<string>
  certificates: ClientCertificate[]
  workloads: WorkloadIssuer[]
}

/** What the check needs. */
export interface ClientAuthDeps {
  clientId: string
  credentials: Credentials
}

/** How a client proved who it is; `none` never passes. */
export type ClientAuthMethod = 'client_secret_basic' | 'client_secret_post' | 'private_key_jwt' | 'workload'

const jwtBearer = 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer'

/** The method the client authenticated by, or the refusal. `tokenEndpoint` is the address that was asked. */
export function authenticateClient(
  { clientId, credentials }: ClientAuthDeps,
  { form, headers }: ProviderRequest,
  tokenEndpoint: string,
): ClientAuthMethod | RawAnswer {
  const basic = readBasic(headers.authorization)
  const id = basic?.id ?? form.get('client_id')
  if (id !== clientId) return errors.unknownClient()
  const secret = basic?.secret ?? form.get('client_secret')
  if (secret !== null) {
    if (credentials.expiredSecrets.has(secret)) return errors.secretExpired()
    if (!credentials.secrets.has(secret)) return errors.secretWrong()
    return basic ? 'client_secret_basic' : 'client_secret_post'
  }
  const assertion = form.get('client_assertion')
  if (assertion === null) return errors.secretMissing()
  const jwt = readJwt(assertion)
  if (!jwt || form.get('client_assertion_type') !== jwtBearer) return errors.assertionMalformed()
  const refusal =
    jwt.payload.iss === clientId
      ? refusalOfOwn(jwt, clientId, credentials, tokenEndpoint)
      : refusalOfFederated(jwt, credentials)
  return refusal ?? (jwt.payload.iss === clientId ? 'private_key_jwt' : 'workload')
}

/** Form-encoded before it was put into the header (RFC 6749 §2.3.1). */
function readBasic(authorization: string | undefined): { id: string; secret: string } | undefined {
  const [, encoded] = /^basic (.+)$/i.exec(authorization ?? '') ?? []
  if (encoded === undefined) return undefined
  const [id = '', secret = ''] = Buffer.from(encoded, 'base64').toString().split(':')
  const decode = (text: string) => decodeURIComponent(text.replaceAll('+', ' '))
  return { id: decode(id), secret: decode(secret) }
}

/** An assertion of the app's own: found by the certificate's thumbprint, a `kid` counts for nothing. */
function refusalOfOwn(jwt: ReadJwt, clientId: string, known: Credentials, endpoint: string): RawAnswer | undefined {
  const { header, payload } = jwt
  if (typeof payload.aud !== 'string' || payload.sub !== clientId || typeof payload.jti !== 'string')
    return errors.assertionMalformed()
  const thumbprint = (digest: string, der: Buffer) => createHash(digest).update(der).digest('base64url')
  const certificate = known.certificates.find(({ der }) =>
    header.alg === 'RS256' && header.x5t !== undefined
      ? header.x5t === thumbprint('sha1', der)
      : header['x5t#S256'] === thumbprint('sha256', der),
  )
  const key = certificate && new X509Certificate(certificate.der).publicKey
  if (!key || !['PS256', 'RS256'].includes(String(header.alg)) || !jwt.signedBy(key)) return errors.assertionRefused()
  if (payload.aud !== endpoint) return err(401, 'invalid_client', 700023)
  return isInTime(jwt) ? undefined : err(401, 'invalid_client', 700024)
}

function refusalOfFederated(jwt: ReadJwt, known: Credentials): RawAnswer | undefined {
  const { iss, sub, aud } = jwt.payload
  const audiences = Array.isArray(aud) ? aud : [aud]
  const workload = known.workloads.find(each => each.issuer === iss && each.subject === sub)
  if (!workload || !audiences.includes(workload.audience)) return err(401, 'invalid_client', 70021)
  if (!jwt.signedBy(workload.key.publicKey)) return errors.assertionRefused()
  return isInTime(jwt) ? undefined : err(401, 'invalid_client', 700024)
}

/** By the machine's clock, five minutes of tolerance. */
function isInTime({ payload }: ReadJwt): boolean {
  const now = Date.now() / 1000
  return Number(payload.exp) > now - 300 && Number(payload.nbf ?? payload.iat ?? now) < now + 300
}
