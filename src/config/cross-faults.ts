import { isSecureAddress } from '../core/address.ts'
import { isBelow } from '../core/return-url.ts'
import type { Config, Fault } from './load.ts'
import { providerFaults } from './provider.ts'

/** The rules between settings, each with a sentence for the operator. */
export function crossFaults(config: Config): Fault[] {
  const faults: Fault[] = []
  const fault = (variable: string, problem: string, example?: string) =>
    faults.push(example === undefined ? { variable, problem } : { variable, problem, example })

  if (config.sessionIdleTimeout > config.sessionAbsoluteTimeout)
    fault('SESSION_IDLE_TIMEOUT', 'must not be longer than SESSION_ABSOLUTE_TIMEOUT')
  if (config.bffPath === '/') fault('BFF_PATH', 'must not be the root: the SPA lives there', '/bff')
  for (const parameter of gatewayParameters) {
    if (config.oidcAuthorizeParams.has(parameter))
      fault('OIDC_AUTHORIZE_PARAMS', `must not set ${parameter}: the gateway does`)
  }

  faults.push(...providerFaults(config))

  const paths = new Map<string, string>()
  for (const upstream of config.upstreams) {
    const variable = `UPSTREAM_${upstream.name.toUpperCase()}_PATH`
    const dpopVariable = `UPSTREAM_${upstream.name.toUpperCase()}_DPOP`
    const twin = paths.get(upstream.path)
    if (twin !== undefined) fault(variable, `is also the path of upstream ${twin}`)
    paths.set(upstream.path, upstream.name)
    if (isBelow(upstream.path, config.bffPath))
      fault(variable, "lies under BFF_PATH, where the gateway's own endpoints are")
    if (isBelow(config.bffPath, upstream.path))
      fault(variable, "covers BFF_PATH, where the gateway's own endpoints are")
    if (upstream.dpop && !config.oidcDpop)
      fault(dpopVariable, 'is of no use without OIDC_DPOP=true: no token is bound to a key')
    if (config.oidcDpop && !upstream.dpop)
      fault(
        dpopVariable,
        'must be true with OIDC_DPOP: all tokens are bound to a key, and never go without its proof',
        'true',
      )
    if (upstream.path === '/' && config.spaDir !== undefined) fault(variable, 'leaves no room for the SPA of SPA_DIR')
  }

  if (config.production) faults.push(...productionFaults(config))
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

function productionFaults(config: Config): Fault[] {
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
      config.upstreams.length === 0 && config.spaDir === undefined,
      { variable: 'UPSTREAM_<NAME>_PATH', problem: 'or SPA_DIR is required: there is nothing to serve' },
    ],
  ]
  return rules.filter(([broken]) => broken).map(([, fault]) => fault)
}
