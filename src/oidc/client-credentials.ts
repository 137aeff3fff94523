import { randomUUID } from 'node:crypto'
import { SignJWT } from 'jose'
import * as client from 'openid-client'
import { type ClientAuthentication, isCompactJwt, type SecretSource } from '../core/client-authentication.ts'
import { type ClientKey, readClientKey } from '../core/client-key.ts'
import type { Clock } from '../core/clock.ts'
import { clientSecretBasic } from './client-secret-basic.ts'
import { createWatchedFiles, type Warn, type Watched } from './watched-files.ts'

/** Whom an assertion of our own is addressed to: the issuer (RFC 7523bis) or, at some providers, the token endpoint. */
export type AssertionAudience = 'issuer' | 'token_endpoint'

/** One credential of the client; what it presents may change while the process runs. */
export interface Credential extends Watched<client.ClientAuth> {
  /** The setting that gives it, for the operator. */
  name: string
}

export interface CredentialDeps {
  assertionAudience: AssertionAudience
  log: Warn
  clock: Clock
}

/** The credentials that are configured, in the order in which they are to be tried. */
export function createCredentials(given: ClientAuthentication, deps: CredentialDeps): readonly Credential[] {
  if (given.method === 'private_key_jwt') return [keyCredential(given, deps)]
  if (given.method === 'federated_assertion') return [federatedCredential(given.file, deps)]
  const put = given.method === 'client_secret_basic' ? clientSecretBasic : client.ClientSecretPost
  return given.secrets.map((source, index) => ({
    name: index === 0 ? 'OIDC_CLIENT_SECRET' : `OIDC_CLIENT_SECRET_${index + 1}`,
    ...secretCredential(source, put, deps),
  }))
}

function secretCredential(
  source: SecretSource,
  put: (secret: string) => client.ClientAuth,
  deps: CredentialDeps,
): Watched<client.ClientAuth> {
  if ('file' in source)
    return createWatchedFiles({ files: [source.file], parse: ([secret = '']) => ({ value: put(secret) }), ...deps })
  const authenticate = put(source.value)
  return { get: async () => authenticate, look: async () => {} }
}

function federatedCredential(file: string, deps: CredentialDeps): Credential {
  const assertion = createWatchedFiles<client.ClientAuth>({
    files: [file],
    parse: ([text = '']) =>
      isCompactJwt(text)
        ? { value: (_server, { client_id }, body) => assert(body, client_id, text) }
        : { fault: 'holds no JWT' },
    ...deps,
  })
  return { name: 'OIDC_CLIENT_ASSERTION_FILE', ...assertion }
}

type KeyAuthentication = Extract<ClientAuthentication, { method: 'private_key_jwt' }>

function keyCredential({ keyFile, keyId, certificateFile }: KeyAuthentication, deps: CredentialDeps): Credential {
  const { assertionAudience, clock } = deps
  const signBy = (key: ClientKey): client.ClientAuth => {
    return async (server, { client_id }, body) => {
      const audience = assertionAudience === 'issuer' ? server.issuer : String(server.token_endpoint)
      const alg = algorithmFor(key, server.token_endpoint_auth_signing_alg_values_supported)
      assert(body, client_id, await signAssertion(key, { alg, keyId, audience, client: client_id, clock }))
    }
  }
  const keys = createWatchedFiles({
    files: certificateFile === undefined ? [keyFile] : [keyFile, certificateFile],
    parse([key = '', certificate]) {
      const read = readClientKey(key, certificate)
      return 'fault' in read ? { fault: `the ${read.of} ${read.fault}` } : { value: signBy(read) }
    },
    ...deps,
  })
  return { name: 'OIDC_CLIENT_KEY_FILE', ...keys }
}

/** The first that the provider names; the key's own choice when it names none that fits. */
function algorithmFor({ algorithms }: ClientKey, supported: readonly string[] = []): string {
  return algorithms.find(algorithm => supported.includes(algorithm)) ?? String(algorithms[0])
}

/** How far the provider's clock may be behind ours, and how long an assertion is good, in seconds. */
const [leeway, lifetime] = [10, 60]

/** RFC 7523 §3, with one audience as a string: a list of them would let one recipient present it to another. */
async function signAssertion(
  { key, thumbprint }: ClientKey,
  claims: { alg: string; keyId: string | undefined; audience: string; client: string; clock: Clock },
): Promise<string> {
  const since = Math.floor(claims.clock.now() / 1000) - leeway
  return new SignJWT()
    .setProtectedHeader({
      alg: claims.alg,
      typ: 'JWT',
      ...(claims.keyId !== undefined && { kid: claims.keyId }),
      ...(thumbprint !== undefined && { 'x5t#S256': thumbprint }),
    })
    .setIssuer(claims.client)
    .setSubject(claims.client)
    .setAudience(claims.audience)
    .setJti(randomUUID())
    .setIssuedAt(since)
    .setNotBefore(since)
    .setExpirationTime(since + lifetime)
    .sign(key)
}

/** RFC 7521 §4.2. */
function assert(body: URLSearchParams, clientId: string, assertion: string): void {
  body.set('client_id', clientId)
  body.set('client_assertion_type', 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer')
  body.set('client_assertion', assertion)
}
