import { isBelow } from '../core/return-url.ts'
import type { Config, Fault, Upstream } from './load.ts'
import { judged } from './sound.ts'

/** The rules between an upstream's settings, and between upstreams and all else. */
export function upstreamFaults(config: Config): Fault[] {
  const taken = new Map<string, string>()
  return config.upstreams.flatMap(upstream => [
    ...judged(() => pathFaults(upstream, taken, config)),
    ...judged(() => policyFaults(upstream, config)),
  ])
}

/** Each path is one upstream's alone. Compared without case, since an upstream or a proxy may not know of it. */
function pathFaults({ name, path }: Upstream, taken: Map<string, string>, config: Config): Fault[] {
  const faults: Fault[] = []
  const fault = (problem: string) => faults.push({ variable: variableOf(name, 'PATH'), problem })
  const plain = path.toLowerCase()
  const twin = taken.get(plain)
  if (twin !== undefined) fault(`is also the path of upstream ${twin}`)
  taken.set(plain, name)
  const endpoints = config.bffPath.toLowerCase()
  if (isBelow(plain, endpoints)) fault("lies under BFF_PATH, where the gateway's own endpoints are")
  if (isBelow(endpoints, plain)) fault("covers BFF_PATH, where the gateway's own endpoints are")
  if (path === '/' && config.spaDir !== undefined) fault('leaves no room for the SPA of SPA_DIR')
  if (path === '/' && config.spaUrl !== undefined) fault('leaves no room for the SPA of SPA_URL')
  return faults
}

/** What one setting of an upstream makes of another. */
function policyFaults(upstream: Upstream, { oidcDpop }: Config): Fault[] {
  const { name, auth, dpop, url } = upstream
  const authVariable = variableOf(name, 'AUTH')
  const tokenless = `is of no use with ${authVariable}=none: this upstream gets no token`
  const rules: [broken: boolean, setting: string, problem: string, example?: string][] = [
    [
      upstream.require.length > 0 && auth !== 'required',
      'REQUIRE',
      `needs ${authVariable}=required: without a session there are no claims to judge`,
    ],
    [
      upstream.claimsHeaders.length > 0 && auth === 'none',
      'CLAIMS_HEADERS',
      `is of no use with ${authVariable}=none: this upstream is never told who the user is`,
    ],
    [upstream.scope !== undefined && auth === 'none', 'SCOPE', tokenless],
    [upstream.resource !== undefined && auth === 'none', 'RESOURCE', tokenless],
    [dpop && auth === 'none', 'DPOP', tokenless],
    [dpop && !oidcDpop, 'DPOP', 'is of no use without OIDC_DPOP=true: no token is bound to a key'],
    [
      oidcDpop && !dpop && auth !== 'none',
      'DPOP',
      'must be true with OIDC_DPOP: all tokens are bound to a key, and never go without its proof',
      'true',
    ],
    [
      upstream.caFile !== undefined && url.protocol === 'http:',
      'CA_FILE',
      `is of no use with ${variableOf(name, 'URL')} on plain http: nobody shows a certificate there`,
    ],
  ]
  return rules
    .filter(([broken]) => broken)
    .map(([, setting, problem, example]) => ({ variable: variableOf(name, setting), problem, example }))
}

function variableOf(name: string, setting: string): string {
  return `UPSTREAM_${name.toUpperCase()}_${setting}`
}
