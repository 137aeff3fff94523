import type { Preset } from './presets.ts'

/**
 * How stronger logins are asked for: `entra` by claims challenges, which a refresh may already satisfy, `rfc9470` by
 * `acr_values` and `max_age`, which only a login can.
 */
export type ChallengeStyle = Preset['challenge']

/** What an upstream or the provider demands of the next token. */
export interface Demand {
  /** The `claims` parameter (OpenID Connect Core §5.5): a JSON object, checked. */
  claims: string | undefined
  /** Blank-separated, the first preferred. */
  acrValues: string | undefined
  /** Seconds since the user was authenticated. */
  maxAge: number | undefined
}

/** A demand that only a login can meet, and for what. */
export interface Challenge extends Demand {
  upstream: string
  /** Where that upstream's token is kept. */
  slot: string
  scope: string | undefined
  /** What it is known by when it returns; not by what the provider adds to an upstream's demand. */
  key: string
  /** The provider has only something to tell the user: one login shows it, more would show it again. */
  messageOnly: boolean
}

/** The error codes of challenges that are understood, and what comes with them. */
const errorCodes = /insufficient_(claims|user_authentication)|\bclaims[ \t]*=/i
/** No more than this of a header is looked at, in characters. */
const maximumHeader = 16_384
/** Of claims, encoded or not. */
const maximumClaims = 4096
/** Of `acr_values`. */
const maximumAcrValues = 512

/**
 * The demand in the values of `WWW-Authenticate` headers, or null when there is none that is understood: of Entra ID's
 * claims challenges and of RFC 9470 §3. What is odd in any way counts as none: several meanings, claims that are too
 * large or of another shape, characters that have no business there.
 */
export function demandOf(header: string | string[] | undefined, style: ChallengeStyle): Demand | null {
  for (const value of [header ?? []].flat()) {
    if (value.length > maximumHeader) continue
    for (const challenge of challengesIn(value) ?? []) {
      const demand = read(challenge, style)
      if (demand !== null) return demand
    }
  }
  return null
}

const tokenSchemes = ['bearer', 'dpop']

/**
 * Of `WWW-Authenticate` headers those that only say what is wrong with a token. A browser that got a demand for a stronger
 * login could begin to do OAuth by itself, and any other scheme makes it ask for a password on the gateway's origin.
 */
export function harmlessChallenges(header: string | string[]): string[] {
  return [header].flat().filter(value => {
    const challenges = value.length > maximumHeader || errorCodes.test(value) ? null : challengesIn(value)
    return challenges?.every(({ scheme }) => tokenSchemes.includes(scheme)) ?? false
  })
}

/** A challenge of RFC 9110 §11.6.1, its names in lower case. */
interface HttpChallenge {
  scheme: string
  parameters: Map<string, string>
}

const gap = /[\s,]*/y
const parameter = /([\w!#$%&'*+.^`|~-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([\w!#$%&'*+.^`|~-]+))[ \t]*(?=,|$)/y
const schemeName = /([\w!#$%&'*+.^`|~-]+)(?=[ \t,]|$)/y
const token68 = /[ \t]+[\w.~+/-]+=*[ \t]*(?=,|$)/y

/** All challenges of one header value, or null when it breaks the grammar or repeats a parameter. Takes linear time. */
function challengesIn(value: string): HttpChallenge[] | null {
  const found: HttpChallenge[] = []
  let at = 0
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at
    const match = pattern.exec(value)
    if (match !== null) at = pattern.lastIndex
    return match
  }
  for (take(gap); at < value.length; take(gap)) {
    const pair = take(parameter)
    if (pair !== null) {
      const name = pair[1]?.toLowerCase() ?? ''
      const parameters = found.at(-1)?.parameters
      if (parameters === undefined || parameters.has(name)) return null
      parameters.set(name, pair[3] ?? (pair[2] ?? '').replace(/\\(.)/g, '$1'))
      continue
    }
    const scheme = take(schemeName)?.[1]
    if (scheme === undefined) return null
    take(token68)
    found.push({ scheme: scheme.toLowerCase(), parameters: new Map() })
  }
  return found
}

function read({ scheme, parameters }: HttpChallenge, style: ChallengeStyle): Demand | null {
  if (!tokenSchemes.includes(scheme)) return null
  const error = parameters.get('error')
  if (error === 'insufficient_claims' && style === 'entra') {
    const claims = decodeClaims(parameters.get('claims') ?? '')
    return claims === null ? null : { claims, acrValues: undefined, maxAge: undefined }
  }
  if (error !== 'insufficient_user_authentication') return null
  const [acrValues, age] = [parameters.get('acr_values'), parameters.get('max_age')]
  if (acrValues === undefined && age === undefined) return null
  // Entra ID knows no acr_values: to ask for them there would end in a login that cannot succeed.
  if (acrValues !== undefined && (style === 'entra' || !isAcrValues(acrValues))) return null
  if (age !== undefined && !/^\d{1,9}$/.test(age)) return null
  return { claims: undefined, acrValues, maxAge: age === undefined ? undefined : Number(age) }
}

function isAcrValues(text: string): boolean {
  return text.length <= maximumAcrValues && /^[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*$/.test(text)
}

function decodeClaims(encoded: string): string | null {
  if (encoded.length > (maximumClaims * 4) / 3 || !/^([A-Za-z0-9+/]+|[\w-]+)={0,2}$/.test(encoded)) return null
  return checkedClaims(Buffer.from(encoded, 'base64').toString())
}

const claimsMembers = ['access_token', 'id_token', 'userinfo']

/** A `claims` parameter in its plainest form, or null when it is none: somebody else's members go nowhere from here. */
export function checkedClaims(text: unknown): string | null {
  const claims = typeof text === 'string' && text.length <= maximumClaims ? parseObject(text) : null
  if (claims === null || Object.keys(claims).length === 0) return null
  const sound = Object.entries(claims).every(([name, value]) => claimsMembers.includes(name) && isObject(value))
  return sound ? JSON.stringify(claims) : null
}

/** Says of the client that it handles claims challenges; Entra ID sends them to no other. */
export const handlesChallenges = '{"access_token":{"xms_cc":{"values":["cp1"]}}}'

/** Several `claims` parameters as one; where two name the same claim, the first has its way. */
export function mergeClaims(...texts: (string | undefined)[]): string | undefined {
  const merged: Record<string, object> = {}
  for (const text of texts) {
    const claims = text === undefined ? null : parseObject(text)
    for (const [name, value] of Object.entries(claims ?? {})) merged[name] = { ...(value as object), ...merged[name] }
  }
  return Object.keys(merged).length === 0 ? undefined : JSON.stringify(merged)
}

/** A demand that a login has to meet. */
export function challengeOf(
  { upstream, slot, scope }: Pick<Challenge, 'upstream' | 'slot' | 'scope'>,
  demand: Partial<Demand>,
): Challenge {
  const asked = { claims: undefined, acrValues: undefined, maxAge: undefined, ...demand }
  return { ...asked, upstream, slot, scope, key: keyOf(slot, asked), messageOnly: false }
}

/** An `nbf` only says when, and is another each time: with it a challenge that returns for ever would never be known again. */
function keyOf(slot: string, { claims, acrValues, maxAge }: Demand): string {
  const steady = JSON.stringify(parseObject(claims ?? ''), (name, value) => (name === 'nbf' ? null : value))
  return JSON.stringify([slot, steady, acrValues, maxAge])
}

function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text)
    return isObject(value) ? (value as Record<string, unknown>) : null
  } catch {
    return null
  }
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
