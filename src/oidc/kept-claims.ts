import type { Claims, Identity } from '../core/session.ts'

/** Of lists and objects in a claim. */
const maximumDepth = 32

/** Told in the place of groups that a token leaves out, so that nobody takes them for none. */
const overage = 'groups_overage'

/** How the user logged in, which no refresh changes: an ID token that comes with one may leave it out (Core §12.2). */
const ofTheLogin = ['acr', 'amr', 'auth_time']

/**
 * The claims of a new login: those of the ID token count before those of UserInfo.
 *
 * `tooDeep` names what nests deeper than 32 levels, which may break whoever serialises it, and is left out.
 */
export function loginClaims(idToken: Claims, userInfo: Claims, names: readonly string[]) {
  const { kept, tooDeep } = pick({ ...userInfo, ...idToken }, names)
  const fromUserInfo = Object.keys(kept).filter(name => !Object.hasOwn(idToken, name))
  return { claims: withOverage(kept, idToken, names), fromUserInfo, tooDeep }
}

/**
 * The claims after a refresh: what the new ID token has not is gone, since a role that was taken away is no longer
 * mentioned. What came from UserInfo stays, and so do what nests too deep and
 * how the user logged in.
 */
export function renewedClaims(identity: Identity, idToken: Claims, names: readonly string[]): Claims {
  const { kept, tooDeep } = pick(idToken, names)
  const stays = pick(identity.claims, [...ofTheLogin, ...(identity.fromUserInfo ?? []), ...tooDeep]).kept
  return withOverage({ ...stays, ...kept }, idToken, names)
}

function withOverage(claims: Claims, idToken: Claims, names: readonly string[]): Claims {
  return names.includes('groups') && groupsAreElsewhere(idToken) ? { ...claims, [overage]: true } : claims
}

function pick(claims: Claims, names: readonly string[]): { kept: Claims; tooDeep: string[] } {
  const given = names.filter(name => Object.hasOwn(claims, name))
  const tooDeep = given.filter(name => !nestsWithin(claims[name], maximumDepth))
  const kept = given.filter(name => !tooDeep.includes(name)).map(name => [name, claims[name]])
  return { kept: Object.fromEntries(kept), tooDeep }
}

function nestsWithin(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return true
  return levels > 0 && Object.values(value).every(member => nestsWithin(member, levels - 1))
}

/**
 * Whether a token leaves the groups out because there are too many, and points to where they can be asked for instead
 * (OpenID Connect Core §5.6.2). That address is never followed: it comes from the token.
 */
function groupsAreElsewhere({ _claim_names: names, hasgroups }: Claims): boolean {
  return hasgroups === true || (typeof names === 'object' && names !== null && Object.hasOwn(names, 'groups'))
}
