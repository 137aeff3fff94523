import { isSecureAddress } from '../core/address.ts'
import { createFaults } from './faults.ts'
import type { Config, Environment, Fault } from './load.ts'
import { providerFaults } from './provider.ts'
import { redisFaults } from './redis.ts'
import { upstreamFaults } from './upstreams.ts'

/** The rules between settings, each with a sentence for the operator. */
export function crossFaults(config: Config, environment: Environment): Fault[] {
  const { faults, fault } = createFaults()

  if (config.sessionIdleTimeout > config.sessionAbsoluteTimeout)
    fault('SESSION_IDLE_TIMEOUT', 'must not be longer than SESSION_ABSOLUTE_TIMEOUT')
  if (config.bffPath === '/') fault('BFF_PATH', 'must not be the root: the SPA lives there', '/bff')
  for (const parameter of gatewayParameters) {
    if (config.oidcAuthorizeParams.has(parameter))
      fault('OIDC_AUTHORIZE_PARAMS', `must not set ${parameter}: the gateway does`)
  }

  faults.push(...providerFaults(config))

  faults.push(...redisFaults(config))

  faults.push(...upstreamFaults(config))

  if (config.spaDir !== undefined && config.spaUrl !== undefined)
    fault('SPA_URL', 'is given beside SPA_DIR: the SPA comes from one of them')
  if (config.corsOrigins.includes(config.publicUrl))
    fault('CORS_ORIGINS', 'must not contain PUBLIC_URL: it is the origin of the SPA anyway')
  if (config.workers > 1 && config.redisUrl === undefined)
    fault('WORKERS', 'is more than 1, which needs REDIS_URL: processes do not share their memory', '1')
  if (config.forwardAuthToken !== undefined && config.oidcDpop)
    fault(
      'FORWARD_AUTH_TOKEN',
      'cannot go with OIDC_DPOP=true: a proof is for one request, which somebody else makes here',
    )
  if (config.forwardAuthToken !== undefined && config.forwardAuthToken === config.adminToken)
    fault(
      'FORWARD_AUTH_TOKEN',
      'must not be the secret of ADMIN_TOKEN: a proxy that asks for users must not end sessions',
    )

  if (config.production) faults.push(...productionFaults(config, environment))
  return faults
}

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

function productionFaults(config: Config, environment: Environment): Fault[] {
  const rules: [boolean, Fault][] = [
    [
      config.redisUrl === undefined,
      { variable: 'REDIS_URL', problem: 'is required in production', example: 'redis://redis:6379' },
    ],
    [config.sessionKeys === undefined, { variable: 'SESSION_KEYS', problem: 'is required in production' }],
    [!isSecureAddress(config.publicUrl), { variable: 'PUBLIC_URL', problem: 'must be https in production' }],
    [!isSecureAddress(config.oidcIssuer), { variable: 'OIDC_ISSUER', problem: 'must be https in production' }],
    [
      config.oidcDiscoveryUrl !== undefined && !isSecureAddress(config.oidcDiscoveryUrl),
      { variable: 'OIDC_DISCOVERY_URL', problem: 'must be https in production' },
    ],
    [
      config.upstreams.length === 0 && config.spaDir === undefined && config.spaUrl === undefined,
      { variable: 'UPSTREAM_<NAME>_PATH', problem: 'or SPA_DIR or SPA_URL is required: there is nothing to serve' },
    ],
    [
      !config.corsOrigins.every(isSecureAddress),
      { variable: 'CORS_ORIGINS', problem: 'must be https in production, each of them' },
    ],
    [
      environment.NODE_TLS_REJECT_UNAUTHORIZED === '0',
      {
        variable: 'NODE_TLS_REJECT_UNAUTHORIZED',
        problem:
          'must not be 0 in production: anybody on the way could read tokens; NODE_EXTRA_CA_CERTS names an authority',
      },
    ],
  ]
  return rules.filter(([broken]) => broken).map(([, fault]) => fault)
}
