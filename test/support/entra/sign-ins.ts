import type { Json } from '../provider/tamper.ts'
import { type AskedScopes, parseScopes } from './scopes.ts'

/** What a code, and each refresh token that comes of it, stands for. */
export interface SignIn {
  /** `sub` of the user in the test's directory. */
  user: string
  authority: string
  policy: string | undefined
  redirectUri: string
  scopes: AskedScopes
  /** The `claims` parameter of the authorization request; what it asked for was satisfied. */
  claims: Json
  nonce: string | undefined
}

/** Remembers sign-ins by the secrets that stand for them. */
export interface SignIns {
  put(secret: string, signIn: SignIn): void
  /** The sign-in behind a token request, by its code or its refresh token. */
  of(form: URLSearchParams): SignIn | undefined
  /** Makes the refresh tokens of a user worthless that exist now. */
  revoke(user: string): void
  isRevoked(secret: string): boolean
  /** Whether the user let the app use a resource. */
  hasConsent(user: string, resource: string): boolean
}

/** No sign-ins yet. `unconsented` are the resources that no administrator has allowed for everybody. */
export function createSignIns(unconsented: Set<string>): SignIns {
  const entries = new Map<string, { signIn: SignIn; age: number }>()
  const ages = new Map<string, number>()
  const consents = new Set<string>()
  const ageOf = (user: string) => ages.get(user) ?? 0
  return {
    put: (secret, signIn) => {
      for (const resource of signIn.scopes.resources.keys()) consents.add(`${signIn.user} ${resource}`)
      entries.set(secret, { signIn, age: ageOf(signIn.user) })
    },
    of: form => entries.get(form.get('code') ?? form.get('refresh_token') ?? '')?.signIn,
    revoke: user => {
      ages.set(user, ageOf(user) + 1)
    },
    isRevoked: secret => {
      const entry = entries.get(secret)
      return entry !== undefined && entry.age < ageOf(entry.signIn.user)
    },
    hasConsent: (user, resource) => !unconsented.has(resource) || consents.has(`${user} ${resource}`),
  }
}

/** The scopes of a token request: its own, or those of the sign-in when it names none. */
export const scopesOf = (form: URLSearchParams, signIn: SignIn, clientId: string): AskedScopes =>
  form.has('scope') ? parseScopes(form.get('scope'), clientId) : signIn.scopes
