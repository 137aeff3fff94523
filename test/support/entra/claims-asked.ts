import type { Json } from '../provider/tamper.ts'

/** What was asked about the access token, without what a client says about itself. */
function demandsOf(claims: Json): [string, Json][] {
  const { xms_cc: _own, ...demands } = Object(claims.access_token) as Record<string, Json>
  return Object.entries(demands)
}

const valuesOf = (demand: Json | undefined): unknown[] =>
  Array.isArray(demand?.values) ? demand.values : demand?.value === undefined ? [] : [demand.value]

/** Authentication contexts named by a `claims` parameter. */
export const acrsOf = (claims: Json): unknown[] => valuesOf((Object(claims.access_token) as Record<string, Json>).acrs)

/** Whether a `claims` parameter says that the client can handle claims challenges. */
export const declaresCp1 = (claims: Json): boolean =>
  valuesOf((Object(claims.access_token) as Record<string, Json>).xms_cc).includes('cp1')

/** Whether a sign-in did all that is asked now; a new token is newer than any `nbf`. */
export function isSatisfied(asked: Json, signedInWith: Json): boolean {
  const done = new Map(demandsOf(signedInWith))
  return demandsOf(asked).every(
    ([name, demand]) => name === 'nbf' || valuesOf(demand).every(value => valuesOf(done.get(name)).includes(value)),
  )
}
