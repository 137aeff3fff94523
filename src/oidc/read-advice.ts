import type { Advice } from '../core/advice.ts'
import { guidForm, isGuid } from '../core/authority.ts'
import { advice, type Place } from './advice.ts'

/**
 * What the operator can be told of an error answer: its likely cause and mend, the provider's number and the two ids by
 * which its support finds the request. The description itself may name users and is not repeated.
 */
export function readAdvice(answer: unknown, place: Place): Advice {
  const { error, error_codes, error_description, trace_id, correlation_id } = (answer ?? {}) as Record<string, unknown>
  const description = typeof error_description === 'string' ? error_description : ''
  const code = numberOf(error_codes) ?? /^(?:AADSTS|AADB2C)\d{3,8}\b/.exec(description)?.[0]
  const known = code === undefined ? undefined : advice.providerCode(code)
  const traceId = guid(trace_id) ?? guidIn(description, 'Trace ID')
  const correlationId = guid(correlation_id) ?? guidIn(description, 'Correlation ID')
  return {
    ...(known ?? (typeof error === 'string' ? advice.standard(error, place) : undefined)),
    ...(code !== undefined && { providerCode: code }),
    ...(traceId !== undefined && { traceId }),
    ...(correlationId !== undefined && { correlationId }),
  }
}

/** The first of Entra ID's numbers of which something is known, or else the first. */
function numberOf(codes: unknown): string | undefined {
  if (!Array.isArray(codes)) return undefined
  const names = codes
    .slice(0, 10)
    .filter(code => Number.isSafeInteger(code) && code > 0 && code < 1e8)
    .map(code => `AADSTS${code}`)
  return names.find(name => advice.providerCode(name) !== undefined) ?? names[0]
}

function guid(value: unknown): string | undefined {
  return isGuid(value) ? value : undefined
}

function guidIn(text: string, label: 'Trace ID' | 'Correlation ID'): string | undefined {
  return new RegExp(`\\b${label}: (${guidForm})(?![\\w-])`, 'i').exec(text.slice(0, 4096))?.[1]
}

/** Names of algorithms that may be repeated: a header can say anything. */
const algorithms = /^(?:(?:HS|RS|PS|ES)(?:256|384|512)|ES256K|EdDSA|Ed25519|none)$/

/** What an ID token is refused for: a claim or a fault, and the algorithm if that is it. */
export function idTokenAdvice(what: string, algorithm?: unknown): Advice {
  if (typeof algorithm === 'string' && algorithms.test(algorithm)) return advice.algorithm(algorithm)
  return advice.idToken(what) ?? {}
}

/** What the error of a connection says. */
export function networkAdvice(error: unknown): Advice {
  const chain = [error, error instanceof Error ? error.cause : undefined]
  const codes = chain.flatMap(each =>
    each instanceof Error ? ['code' in each && typeof each.code === 'string' ? each.code : '', each.name] : [],
  )
  return codes.map(code => advice.network(code)).find(known => known !== undefined) ?? {}
}
