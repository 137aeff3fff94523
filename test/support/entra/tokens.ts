import { createHash, randomBytes, randomInt, randomUUID } from 'node:crypto'
import type { ProviderRequest } from '../provider/journal.ts'
import type { Json } from '../provider/tamper.ts'
import type { TestUsers } from '../provider/users.ts'
import { acrsOf, declaresCp1 } from './claims-asked.ts'
import type { Directory } from './directory.ts'
import { jsonObject } from './jwt.ts'
import { type EntraKeys, guidOf } from './keys.ts'
import { entraPath } from './paths.ts'
import { graph, graphAudience } from './scopes.ts'
import { type SignIn, scopesOf } from './sign-ins.ts'

/** What tokens are made of. */
export interface TokensDeps {
  clientId: string
  keys: EntraKeys
  users: TestUsers
  directory: Directory
  issuerOf(tenant: string): string
  nowMs(): number
  /** Seconds that access tokens live; random, as at Entra, when undefined. */
  accessTokenLifetime(): number | undefined
  accessTokenClaims(): Json
  /** Claims that the app's registration adds to ID tokens. */
  optionalClaims(): string[]
  nonceOnRefresh(): 'repeated' | 'omitted'
  onSid(user: string, sid: string): void
}

/** What an access token is for. */
export interface Granted {
  resource: string
  names: string[]
  claims: Json
}

/** Makes the tokens of Entra. */
export function createTokens(deps: TokensDeps) {
  const granted = (form: URLSearchParams, signIn: SignIn): Granted => {
    const [found] = scopesOf(form, signIn, deps.clientId).resources
    const [resource, names] = found ?? [graph, ['User.Read']]
    const claims = form.has('claims') ? (jsonObject(form.get('claims')) ?? {}) : form.has('code') ? signIn.claims : {}
    const defaults = resource === graph ? ['User.Read'] : ['x', 'y']
    return { resource, names: names.flatMap(name => (name === '.default' ? defaults : [name])), claims }
  }

  const lifetimeOf = ({ claims }: Granted): number =>
    deps.accessTokenLifetime() ?? (declaresCp1(claims) ? randomInt(72_000, 100_801) : randomInt(3600, 5401))

  const accessToken = (
    user: string,
    tenant: string,
    { resource, names, claims }: Granted,
    lifetime: number,
  ): string => {
    const { alg, kid } = deps.keys.current()
    const who = deps.users.bySub(user)
    const now = Math.floor(deps.nowMs() / 1000)
    const acrs = acrsOf(claims)
    const payload = {
      aud: resource === graph ? graphAudience : resource,
      iss: deps.issuerOf(tenant),
      iat: now,
      nbf: now,
      exp: now + lifetime,
      azp: deps.clientId,
      oid: deps.directory.oidOf(who, tenant),
      sub: deps.directory.subOf(who, tenant),
      tid: tenant,
      scp: names.join(' '),
      uti: randomBytes(16).toString('base64url'),
      ver: '2.0',
      ...(acrs.length > 0 && { acrs }),
      ...(declaresCp1(claims) && { xms_cc: ['cp1'] }),
      ...deps.accessTokenClaims(),
    }
    if (resource !== graph) return deps.keys.sign({ typ: 'JWT', alg, kid }, payload)
    // Graph's tokens do not verify with the published keys: what is signed has another nonce in its header.
    const nonce = randomUUID()
    const [, body, signature] = deps.keys.sign({ typ: 'JWT', nonce, alg, kid }, payload).split('.')
    const shown = { typ: 'JWT', nonce: createHash('sha256').update(nonce).digest('base64url'), alg, kid }
    return `${Buffer.from(JSON.stringify(shown)).toString('base64url')}.${body}.${signature}`
  }

  const idToken = (honest: Json, signIn: SignIn, { form, path }: ProviderRequest): Json => {
    const user = deps.users.bySub(signIn.user)
    const tenant = deps.directory.tenantOf(entraPath(path)?.authority ?? '', user)
    const { oidc } = signIn.scopes
    const sid = guidOf('sid', String(honest.sid))
    deps.onSid(signIn.user, sid)
    const acrs = acrsOf({ access_token: Object(signIn.claims.id_token) }).concat(acrsOf(signIn.claims))
    const optional: Json = { sid, login_hint: deps.directory.hintOf(user), auth_time: honest.auth_time, acrs }
    const repeatsNonce = form.has('code') || deps.nonceOnRefresh() === 'repeated'
    return {
      aud: deps.clientId,
      iss: deps.issuerOf(tenant),
      iat: honest.iat,
      nbf: honest.iat,
      exp: honest.exp,
      ...(repeatsNonce && signIn.nonce !== undefined && { nonce: signIn.nonce }),
      rh: `0.${randomBytes(12).toString('base64url')}.`,
      sub: deps.directory.subOf(user, tenant),
      tid: tenant,
      uti: randomBytes(16).toString('base64url'),
      ver: '2.0',
      ...(oidc.includes('profile') && {
        name: user.name,
        preferred_username: user.preferred_username,
        oid: deps.directory.oidOf(user, tenant),
      }),
      ...(oidc.includes('email') && { email: user.email }),
      roles: user.roles,
      ...groupsOf(user.groups, String(user.overageEndpoint ?? overageEndpoint)),
      ...Object.fromEntries(deps.optionalClaims().map(name => [name, name in optional ? optional[name] : user[name]])),
      ...(signIn.policy !== undefined && { acr: signIn.policy, tfp: signIn.policy }),
    }
  }

  return { granted, lifetimeOf, accessToken, idToken }
}

const overageEndpoint = 'https://graph.windows.net/tenant/users/user/getMemberObjects'

/** Up to 200 groups fit into a JWT; of more there is only a hint where to ask. */
function groupsOf(groups: unknown, endpoint: string): Json {
  if (!Array.isArray(groups)) return {}
  if (groups.length <= 200) return { groups }
  return { _claim_names: { groups: 'src1' }, _claim_sources: { src1: { endpoint } } }
}
