import type { SigningKey } from '../provider/keys.ts'
import type { IdTokenDraft, Json, Tamper } from '../provider/tamper.ts'

type Forgery = Tamper['idToken']

/** Changes claims and signs anew; undefined takes a claim out. */
const changed =
  (changes: Json | ((payload: Json) => Json), on?: IdTokenDraft['grant']): Forgery =>
  ({ grant, sign, header, payload, token }) => {
    if (on !== undefined && grant !== on) return token
    return sign(header, { ...payload, ...(typeof changes === 'function' ? changes(payload) : changes) })
  }

/** Another tenant's GUID in the place of the own one. */
const inTenant = (payload: Json, tenant: string) => String(payload.iss).replace(String(payload.tid), tenant)

/** ID tokens that must be refused, or not; assign one to `entra.tamper.idToken`. All but the last three are well signed. */
export const forged = {
  changed,
  /** A whole token of another tenant. */
  ofTenant: (tenant: string) => changed(payload => ({ tid: tenant, iss: inTenant(payload, tenant) })),
  /** `tid` names another tenant than `iss`. */
  tidOnly: (tenant: string) => changed({ tid: tenant }),
  issuerOnly: (tenant: string) => changed(payload => ({ iss: inTenant(payload, tenant) })),
  nonce: () => changed({ nonce: 'another' }),
  audience: () => changed({ aud: 'another' }),
  expired: () => changed(payload => ({ iat: Number(payload.iat) - 86_400, exp: Number(payload.iat) - 82_800 })),
  /** On refresh only: somebody else. */
  otherUser: (changes: { sub?: string; oid?: string; tid?: string }) => changed(changes, 'refresh_token'),
  /** On refresh only: without these claims. */
  without: (...names: string[]) => changed(Object.fromEntries(names.map(name => [name, undefined])), 'refresh_token'),
  /** By a published key of another issuer, `entra.keys.foreign`. */
  byKey: (key: SigningKey): Forgery => {
    return ({ sign, header, payload }) => sign({ ...header, kid: key.kid }, payload, key.privateKey)
  },
  /** By a key that was never published. */
  unknownKid: (key: SigningKey): Forgery => forged.byKey(key),
  badSignature: (): Forgery => {
    return ({ token }) => {
      const [header, payload, signature = ''] = token.split('.')
      return `${header}.${payload}.${signature.startsWith('A') ? 'B' : 'A'}${signature.slice(1)}`
    }
  },
}
