import { createWordReader, type WordReader } from './claim-grammar.ts'
import type { Claims } from './session.ts'

/** Holds when the claim, or an element of it where it is a list, is one of the values. */
export interface ClaimRule {
  /** Names from the outside in. */
  path: readonly string[]
  values: readonly string[]
}

/** A claim that an upstream is told of in a header. */
export interface ClaimHeader {
  /** In lower case. */
  name: string
  path: readonly string[]
}

/**
 * Reads `roles=admin,editor; acr=urn:mfa; realm_access.roles=ops`: `;` is and, `,` is or, a dot goes into an object. What
 * contains such a character stands in double quotes. Nothing at all is no rule.
 *
 * @returns the rules, or what is wrong, as a sentence that repeats nothing of the text
 */
export function parseClaimRules(text: string): readonly ClaimRule[] | string {
  const reader = createWordReader(text)
  const rules: ClaimRule[] = []
  const wrong = (what: string) => `must be rules such as roles=admin,editor; acr=urn:mfa (${place(reader)}: ${what})`
  if (reader.done()) return rules
  do {
    const path = reader.path()
    if (path === null) return wrong('the name of a claim is missing')
    if (!reader.take('=')) return wrong('= is missing')
    const values: string[] = []
    do {
      const value = reader.word()
      if (value === null) return wrong('a value is missing')
      values.push(value)
    } while (reader.take(','))
    rules.push({ path, values })
  } while (reader.take(';'))
  return reader.done() ? rules : wrong(unexpected)
}

/**
 * Reads `X-User=sub, X-Roles=realm_access.roles`. Names are compared without case, and with `_` read as `-`, since many
 * servers cannot tell these apart.
 *
 * @returns the headers, or what is wrong, as a sentence that repeats nothing of the text
 */
export function parseClaimHeaders(text: string): readonly ClaimHeader[] | string {
  const reader = createWordReader(text)
  const headers: ClaimHeader[] = []
  const names = new Set<string>()
  const wrong = (what: string) => `must be headers such as X-User=sub, X-Roles=roles (${place(reader)}: ${what})`
  if (reader.done()) return headers
  do {
    const name = reader.word()?.toLowerCase() ?? ''
    if (!/^[\w!#$%&'*+.^`|~-]+$/.test(name)) return wrong('the name of a header is missing, or is none')
    const plain = name.replaceAll('_', '-')
    if (reserved.test(plain)) return wrong('a header of this name has a meaning of its own')
    if (names.has(plain)) return wrong('this header was named before')
    names.add(plain)
    if (!reader.take('=')) return wrong('= is missing')
    const path = reader.path()
    if (path === null) return wrong('the name of a claim is missing')
    headers.push({ name, path })
  } while (reader.take(','))
  return reader.done() ? headers : wrong(unexpected)
}

const unexpected = 'something else was expected; what contains = , ; . or " stands in double quotes'

/**
 * Headers that frame the message, that say how and where it goes, or by which the gateway itself is judged: a claim must
 * not be able to speak for them.
 */
const reserved =
  /^(connection|keep-alive|te|trailer|transfer-encoding|upgrade|expect|http2-settings|host|content-.*|(set-)?cookie.*|.*authorization|(x-)?proxy-.*|dpop|via|origin|referer|sec-.*|forwarded|x-(forwarded|real|original|rewrite|http-method|method|csrf|activity)(-.*)?|--proto--)$/

/** Whether all rules hold. Text is not taken apart: `scope` is one value. */
export function satisfies(claims: Claims, rules: readonly ClaimRule[]): boolean {
  return rules.every(({ path, values }) => {
    const claim = claimAt(claims, path)
    const elements: readonly unknown[] = Array.isArray(claim) ? claim : [claim]
    return elements.some(element => isScalar(element) && values.includes(String(element)))
  })
}

const maximumLength = 4096

/**
 * What the headers say of a user, fit to be sent: visible ASCII and blanks within; all else, and `%`, is percent-encoded
 * UTF-8, so that no claim ends its header and begins another. Lists are joined by commas (one within an element is
 * encoded), objects are JSON. A claim that is missing or empty, and one of more than 4096 characters, has no header.
 */
export function claimHeaderValues(claims: Claims, headers: readonly ClaimHeader[]): Record<string, string> {
  const values = headers.map(({ name, path }) => [name, headerValue(claimAt(claims, path))] as const)
  return Object.fromEntries(values.filter(([, value]) => value !== '' && value.length <= maximumLength))
}

/** The claims, by their outermost names, that must be at hand for all this. */
export function claimsNamed(rules: readonly ClaimRule[], headers: readonly ClaimHeader[]): string[] {
  return [...new Set([...rules, ...headers].map(({ path }) => path[0] ?? ''))]
}

function headerValue(claim: unknown): string {
  if (claim === undefined || claim === null) return ''
  if (isScalar(claim)) return encoded(String(claim))
  if (!Array.isArray(claim) || !claim.every(isScalar)) return encoded(JSON.stringify(claim))
  return claim.map(element => encoded(String(element)).replaceAll(',', '%2C')).join(',')
}

function encoded(value: string): string {
  // Encoding makes nothing shorter, and what is too long is left out as a whole.
  if (value.length > maximumLength) return value
  return value.replace(/[^\x20-\x24\x26-\x7e]|^ | $/gu, percentEncoded)
}

function percentEncoded(text: string): string {
  return Buffer.from(text)
    .toString('hex')
    .toUpperCase()
    .replace(/../g, byte => `%${byte}`)
}

/** Own members of objects only: neither of a list nor of a prototype. */
function claimAt(claims: Claims, path: readonly string[]): unknown {
  return path.reduce<unknown>((value, name) => {
    const inside = typeof value === 'object' && value !== null && !Array.isArray(value) && Object.hasOwn(value, name)
    return inside ? (value as Claims)[name] : undefined
  }, claims)
}

function isScalar(value: unknown): boolean {
  return ['string', 'number', 'boolean'].includes(typeof value)
}

function place(reader: WordReader): string {
  return `at character ${reader.position()}`
}
