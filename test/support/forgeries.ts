import type { Test } from 'tap'
import type { House } from './hostile-provider.ts'
import type { IdTokenDraft, Json, RawAnswer, TestProvider } from './provider.ts'

/** Makes the ID token that leaves in the place of the honest one; undefined leaves it out. */
export type Forgery = (draft: IdTokenDraft) => string | undefined

/** A forgery and what it is. */
export type ForgeryCase = [name: string, forgery: Forgery]

/** Lets the provider hand out this ID token instead of its own. */
export const sends = (forgery: Forgery) => (provider: TestProvider) => {
  provider.tamper.idToken = forgery
}

/** The token with some claims changed, well signed; undefined takes a claim out. */
export const claims = (changes: Json | (() => Json)): Forgery => {
  return ({ sign, header, payload }) =>
    sign(header, { ...payload, ...(typeof changes === 'function' ? changes() : changes) })
}

/** The token with its header changed; the provider's key signs whatever comes out. */
export const header = (changes: Json): Forgery => {
  return draft => draft.sign({ ...draft.header, ...changes }, draft.payload)
}

/** The forgery with no `at_hash`, whose length goes by the algorithm: so it is not what gives a wrong algorithm away. */
export const withoutHash = (forgery: Forgery): Forgery => {
  return draft => forgery({ ...draft, payload: { ...draft.payload, at_hash: undefined } })
}

/** The token with some JSON text, e.g. `"name":1`, at the end of its claims; well signed. */
export const moreClaims = (json: string): Forgery => {
  return draft => draft.sign(draft.header, padded(JSON.stringify(draft.payload), json))
}

/** The text of a JSON object with some more JSON text, e.g. `"name":1`, at its end. */
export const padded = (object: string, json: string) => `${object.slice(0, -1)},${json}}`

/** The three parts of a token. */
export const parts = (token: string) => token.split('.') as [header: string, payload: string, signature: string]

/** A part of a token. */
export const encode = (value: object | string) =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url')

/** A value in the name of a test. */
export const show = (value: unknown) =>
  value === undefined ? 'absent' : (JSON.stringify(value)?.slice(0, 40) ?? String(value))

/** What a check that compares loosely, or skips what is falsy, would let pass. */
export const wrongValues: unknown[] = [null, '', 0, -1, 1e300, true, false, [], {}, [null], { toString: 'x' }]

/** Each of these is refused, and an honest login works after each. */
export async function refuseAll(t: Test, house: House, cases: readonly ForgeryCase[]): Promise<void> {
  for (const [name, forgery] of cases) await house.refuses(t, name, sends(forgery))
}

/** An endpoint whose honest answer is JSON. */
export type Endpoint = 'discovery' | 'jwks' | 'token' | 'userinfo'

/** Lets an endpoint do its work and then answer something else, made from the honest text. */
export function answers(provider: TestProvider, endpoint: Endpoint, make: (honest: string) => RawAnswer): void {
  let honest = ''
  const keep = <T extends object>(value: T) => {
    honest = JSON.stringify(value)
    return value
  }
  if (endpoint === 'token') provider.tamper.tokenResponse = keep
  else if (endpoint === 'jwks') provider.tamper.jwks = keep
  else provider.tamper[endpoint] = keep
  provider.respond(endpoint, () => make(honest), { when: 'after' })
}
