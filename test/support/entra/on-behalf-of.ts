import type { RawAnswer } from '../provider/script.ts'
import { err, errors } from './errors.ts'
import { readJwt } from './jwt.ts'
import { parseScopes } from './scopes.ts'
import type { createTokens } from './tokens.ts'

/** Exchanges an access token for this app against one for an API behind it; not RFC 8693, as Entra does it. */
export function createOnBehalfOf(deps: {
  clientId: string
  tokens: ReturnType<typeof createTokens>
  /** `sub` in the test's directory of the user with this object id. */
  userOf(oid: string): string
  onIssued(accessToken: string): void
}) {
  return (form: URLSearchParams): RawAnswer => {
    const jwt = readJwt(form.get('assertion') ?? '')
    if (form.get('requested_token_use') !== 'on_behalf_of' || !jwt) return err(400, 'invalid_request', 900144)
    if (!form.has('scope')) return errors.scopeMissing()
    const { resources } = parseScopes(form.get('scope'), deps.clientId)
    if (resources.size !== 1) return errors.severalResources()
    const own = [deps.clientId, `api://${deps.clientId}`]
    if (!own.includes(String(jwt.payload.aud))) return err(400, 'invalid_grant', 50013)
    const [[resource = '', names = []] = []] = [...resources]
    const shown = names.flatMap(name => (name === '.default' ? ['x', 'y'] : [name]))
    const lifetime = 3269
    const user = deps.userOf(String(jwt.payload.oid))
    const granted = { resource, names: shown, claims: {} }
    const accessToken = deps.tokens.accessToken(user, String(jwt.payload.tid), granted, lifetime)
    deps.onIssued(accessToken)
    const scope = shown.map(name => `${resource}/${name}`).join(' ')
    return {
      status: 200,
      headers: { 'cache-control': 'no-store' },
      body: { token_type: 'Bearer', scope, expires_in: lifetime, ext_expires_in: 0, access_token: accessToken },
    }
  }
}
