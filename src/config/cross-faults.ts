import { isSecureAddress } from '../core/address.ts'
import { clientAuthFaults } from './client-auth.ts'
import type { Config, Environment, Fault } from './load.ts'
import { providerFaults } from './provider.ts'
import { redisFaults } from './redis.ts'
import { settings, upstreamSettings } from './settings.ts'
import { judged } from './sound.ts'
import { upstreamFaults } from './upstreams.ts'

/** What settings make of one another, in a sentence each for the operator. */
type CrossRule = (config: Config, environment: Environment) => readonly Fault[]

type Broken = (config: Config, environment: Environment) => boolean

const rule =
  (broken: Broken, variable: string, problem: string, example?: string): CrossRule =>
  (config, environment) =>
    broken(config, environment) ? [{ variable, problem, example }] : []

const inProduction = (broken: Broken, variable: string, problem: string, example?: string): CrossRule =>
  rule((config, environment) => config.production && broken(config, environment), variable, problem, example)

const gatewayParameters = [
  'client_id',
  'redirect_uri',
  'response_type',
  'response_mode',
  'scope',
  'state',
  'nonce',
  'code_challenge',
  'code_challenge_method',
  'request',
  'request_uri',
  'dpop_jkt',
]

const rules: readonly CrossRule[] = [
  rule(
    // The default gives way by itself.
    (config, environment) =>
      Boolean(environment.SESSION_IDLE_TIMEOUT) && config.sessionIdleTimeout > config.sessionAbsoluteTimeout,
    'SESSION_IDLE_TIMEOUT',
    'must not be longer than SESSION_ABSOLUTE_TIMEOUT',
    settings.SESSION_IDLE_TIMEOUT.example,
  ),
  rule(
    ({ bffPath }) => bffPath === '/',
    'BFF_PATH',
    'must not be the root: the SPA lives there',
    settings.BFF_PATH.example,
  ),
  ...gatewayParameters.map(parameter =>
    rule(
      ({ oidcAuthorizeParams }) => oidcAuthorizeParams.has(parameter),
      'OIDC_AUTHORIZE_PARAMS',
      `must not set ${parameter}: the gateway does`,
      settings.OIDC_AUTHORIZE_PARAMS.example,
    ),
  ),
  clientAuthFaults,
  providerFaults,
  redisFaults,
  upstreamFaults,
  rule(
    ({ spaDir, spaUrl }) => spaDir !== undefined && spaUrl !== undefined,
    'SPA_URL',
    'is given beside SPA_DIR: the SPA comes from one of them',
  ),
  rule(
    ({ corsOrigins, publicUrl }) => corsOrigins.includes(publicUrl),
    'CORS_ORIGINS',
    'must not contain PUBLIC_URL: it is the origin of the SPA anyway',
    settings.CORS_ORIGINS.example,
  ),
  rule(
    ({ workers, redisUrl }) => workers > 1 && redisUrl === undefined,
    'WORKERS',
    'is more than 1, which needs REDIS_URL: processes do not share their memory',
    '1',
  ),
  rule(
    ({ forwardAuthToken, oidcDpop }) => forwardAuthToken !== undefined && oidcDpop,
    'FORWARD_AUTH_TOKEN',
    'cannot go with OIDC_DPOP=true: a proof is for one request, which somebody else makes here',
  ),
  rule(
    ({ forwardAuthToken, adminToken }) => forwardAuthToken !== undefined && forwardAuthToken === adminToken,
    'FORWARD_AUTH_TOKEN',
    'must not be the secret of ADMIN_TOKEN: a proxy that asks for users must not end sessions',
    settings.FORWARD_AUTH_TOKEN.example,
  ),

  inProduction(
    ({ redisUrl }) => redisUrl === undefined,
    'REDIS_URL',
    'is required in production',
    settings.REDIS_URL.example,
  ),
  inProduction(
    ({ sessionKeys }) => sessionKeys === undefined,
    'SESSION_KEYS',
    'is required in production',
    settings.SESSION_KEYS.example,
  ),
  inProduction(
    ({ publicUrl }) => !isSecureAddress(publicUrl),
    'PUBLIC_URL',
    'must be https in production',
    settings.PUBLIC_URL.example,
  ),
  inProduction(
    ({ oidcIssuer }) => !isSecureAddress(oidcIssuer),
    'OIDC_ISSUER',
    'must be https in production',
    settings.OIDC_ISSUER.example,
  ),
  inProduction(
    ({ oidcDiscoveryUrl }) => oidcDiscoveryUrl !== undefined && !isSecureAddress(oidcDiscoveryUrl),
    'OIDC_DISCOVERY_URL',
    'must be https in production',
    settings.OIDC_DISCOVERY_URL.example,
  ),
  inProduction(
    ({ upstreams, spaDir, spaUrl }) => upstreams.length === 0 && spaDir === undefined && spaUrl === undefined,
    'UPSTREAM_<NAME>_PATH',
    'or SPA_DIR or SPA_URL is required: there is nothing to serve',
    upstreamSettings.PATH.example,
  ),
  inProduction(
    ({ corsOrigins }) => !corsOrigins.every(isSecureAddress),
    'CORS_ORIGINS',
    'must be https in production, each of them',
    settings.CORS_ORIGINS.example,
  ),
  inProduction(
    (_, { NODE_TLS_REJECT_UNAUTHORIZED: given }) => given === '0',
    'NODE_TLS_REJECT_UNAUTHORIZED',
    'must not be 0 in production: anybody on the way could read tokens; NODE_EXTRA_CA_CERTS names an authority',
  ),
]

/** Each rule is judged for itself, so that a fault of one setting hides only what depends on it. */
export function crossFaults(config: Config, environment: Environment): Fault[] {
  return rules.flatMap(rule => judged(() => rule(config, environment)))
}
