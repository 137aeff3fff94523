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

/** A rule for which another value of the setting is the mend. */
const must = (broken: Broken, variable: keyof typeof settings, problem: string): CrossRule =>
  rule(broken, variable, problem, settings[variable].example)

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

/** These hold in production alone. */
const inProduction: readonly CrossRule[] = [
  must(({ redisUrl }) => redisUrl === undefined, 'REDIS_URL', 'is required in production'),
  must(({ sessionKeys }) => sessionKeys === undefined, 'SESSION_KEYS', 'is required in production'),
  must(({ publicUrl }) => !isSecureAddress(publicUrl), 'PUBLIC_URL', 'must be https in production'),
  must(({ oidcIssuer }) => !isSecureAddress(oidcIssuer), 'OIDC_ISSUER', 'must be https in production'),
  must(
    ({ oidcDiscoveryUrl }) => oidcDiscoveryUrl !== undefined && !isSecureAddress(oidcDiscoveryUrl),
    'OIDC_DISCOVERY_URL',
    'must be https in production',
  ),
  rule(
    ({ upstreams, spaDir, spaUrl }) => upstreams.length === 0 && spaDir === undefined && spaUrl === undefined,
    'UPSTREAM_<NAME>_PATH',
    'or SPA_DIR or SPA_URL is required: there is nothing to serve',
    upstreamSettings.PATH.example,
  ),
  must(
    ({ corsOrigins }) => !corsOrigins.every(isSecureAddress),
    'CORS_ORIGINS',
    'must be https in production, each of them',
  ),
  rule(
    (_, { NODE_TLS_REJECT_UNAUTHORIZED: given }) => given === '0',
    'NODE_TLS_REJECT_UNAUTHORIZED',
    'must not be 0 in production: anybody on the way could read tokens; NODE_EXTRA_CA_CERTS names an authority',
  ),
]

const rules: readonly CrossRule[] = [
  must(
    // The default gives way by itself.
    (config, environment) =>
      Boolean(environment.SESSION_IDLE_TIMEOUT) && config.sessionIdleTimeout > config.sessionAbsoluteTimeout,
    'SESSION_IDLE_TIMEOUT',
    'must not be longer than SESSION_ABSOLUTE_TIMEOUT',
  ),
  must(({ bffPath }) => bffPath === '/', 'BFF_PATH', 'must not be the root: the SPA lives there'),
  ...gatewayParameters.map(parameter =>
    must(
      ({ oidcAuthorizeParams }) => oidcAuthorizeParams.has(parameter),
      'OIDC_AUTHORIZE_PARAMS',
      `must not set ${parameter}: the gateway does`,
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
  must(
    ({ corsOrigins, publicUrl }) => corsOrigins.includes(publicUrl),
    'CORS_ORIGINS',
    'must not contain PUBLIC_URL: it is the origin of the SPA anyway',
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
  must(
    ({ forwardAuthToken, adminToken }) => forwardAuthToken !== undefined && forwardAuthToken === adminToken,
    'FORWARD_AUTH_TOKEN',
    'must not be the secret of ADMIN_TOKEN: a proxy that asks for users must not end sessions',
  ),
  ...inProduction.map(
    (rule): CrossRule =>
      (config, environment) =>
        config.production ? rule(config, environment) : [],
  ),
]

/** Each rule is judged for itself, so that a fault of one setting hides only what depends on it. */
export function crossFaults(config: Config, environment: Environment): Fault[] {
  return rules.flatMap(rule => judged(() => rule(config, environment)))
}
