import { readFileSync } from 'node:fs'
import { type ClientAuthentication, isCompactJwt } from '../core/client-authentication.ts'
import { readClientKey } from '../core/client-key.ts'
import type { Config, Fault } from './load.ts'
import { settings } from './settings.ts'

/**
 * The way in which the client authenticates, of all that can be set.
 *
 * @throws {Error} when {@link clientAuthFaults} were not heeded
 */
export function authenticationOf(config: Config): ClientAuthentication {
  const { oidcClientSecret, oidcClientSecret2, oidcClientKeyFile: keyFile, oidcClientKeyId: keyId } = config
  const certificateFile = config.oidcClientCertFile
  const secrets = [oidcClientSecret, oidcClientSecret2].filter(secret => secret !== undefined)
  if (secrets.length > 0) return { method: config.oidcClientAuth, secrets }
  if (keyFile !== undefined) return { method: 'private_key_jwt', keyFile, keyId, certificateFile }
  // Azure sets its own variable in every pod, also for clients that have a secret.
  const file = config.oidcClientAssertionFile ?? config.azureFederatedTokenFile
  if (file !== undefined) return { method: 'federated_assertion', file }
  throw new Error('the client has no way to authenticate')
}

/** The client must have exactly one way to authenticate, and what that needs must be there and fit together. */
export function clientAuthFaults(config: Config): Fault[] {
  const ways: [variable: string, value: unknown][] = [
    ['OIDC_CLIENT_SECRET', config.oidcClientSecret ?? config.oidcClientSecret2],
    ['OIDC_CLIENT_KEY_FILE', config.oidcClientKeyFile],
    ['OIDC_CLIENT_ASSERTION_FILE', config.oidcClientAssertionFile],
  ]
  const given = ways.filter(([, value]) => value !== undefined).map(([variable]) => variable)
  const [first = config.azureFederatedTokenFile && 'AZURE_FEDERATED_TOKEN_FILE', ...more] = given
  const rules: [broken: boolean, variable: string, problem: string, example?: string][] = [
    [
      first === undefined,
      'OIDC_CLIENT_SECRET',
      'is required, or in its place OIDC_CLIENT_KEY_FILE (with OIDC_CLIENT_KEY_ID or OIDC_CLIENT_CERT_FILE) or OIDC_CLIENT_ASSERTION_FILE: the client must authenticate',
      settings.OIDC_CLIENT_SECRET.example,
    ],
    ...more.map((variable): [boolean, string, string] => [
      true,
      variable,
      `and ${first} are both set: the client authenticates in one way`,
    ]),
    [
      config.oidcClientSecret2 !== undefined && config.oidcClientSecret === undefined,
      'OIDC_CLIENT_SECRET_2',
      'is the second secret, and OIDC_CLIENT_SECRET is not set',
    ],
    [
      config.oidcClientAuth === 'client_secret_basic' && first !== undefined && first !== 'OIDC_CLIENT_SECRET',
      'OIDC_CLIENT_AUTH',
      `says how a secret is sent, and the client authenticates by ${first}`,
    ],
    [
      config.oidcClientCertFile !== undefined && config.oidcClientKeyFile === undefined,
      'OIDC_CLIENT_CERT_FILE',
      'is of no use without its private key: OIDC_CLIENT_KEY_FILE is not set',
    ],
    [
      config.oidcClientKeyId !== undefined && config.oidcClientKeyFile === undefined,
      'OIDC_CLIENT_KEY_ID',
      'names a private key, and OIDC_CLIENT_KEY_FILE is not set',
    ],
  ]
  const faults = rules
    .filter(([broken]) => broken)
    .map(([, variable, problem, example]) => ({ variable, problem, example }))
  return faults.length > 0 ? faults : contentFaults(authenticationOf(config), String(first))
}

function contentFaults(authentication: ClientAuthentication, variable: string): Fault[] {
  if (authentication.method === 'private_key_jwt') {
    const { keyFile, certificateFile } = authentication
    const certificate = certificateFile === undefined ? undefined : readFileSync(certificateFile, 'utf8')
    const key = readClientKey(readFileSync(keyFile, 'utf8'), certificate)
    const variables = { key: 'OIDC_CLIENT_KEY_FILE', certificate: 'OIDC_CLIENT_CERT_FILE' }
    return 'fault' in key ? [{ variable: variables[key.of], problem: key.fault }] : []
  }
  if (authentication.method === 'federated_assertion' && !holdsJwt(authentication.file))
    return [{ variable, problem: 'must be a file that holds a JWT' }]
  return []
}

function holdsJwt(path: string): boolean {
  try {
    return isCompactJwt(readFileSync(path, 'utf8').replace(/\r?\n$/, ''))
  } catch {
    return false
  }
}
