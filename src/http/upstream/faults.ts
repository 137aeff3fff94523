import type { IncomingHttpHeaders } from 'node:http'
import { GatewayError } from '../../core/errors.ts'

/** What a failure is to the client; one of the request's own body is that already. */
export function unusable(cause: Error): GatewayError {
  if (cause instanceof GatewayError) return cause
  return timeouts.includes(codeOf(cause)) ? upstreamTimeout({ cause }) : badUpstream({ cause })
}

/** 502: what the upstream said, or that it said nothing, is of no use to anybody. `detail` and `cause` go to the log. */
export function badUpstream(details: { detail?: string; cause?: unknown } = {}): GatewayError {
  return new GatewayError('bad_upstream', 'The API gave no usable answer.', details)
}

/** 504: the upstream may still be at it. */
export function upstreamTimeout(details: { cause?: unknown } = {}): GatewayError {
  return new GatewayError('upstream_timeout', 'The API did not answer in time.', details)
}

/** Whether the other side ended the connection. */
export function isCut(error: Error): boolean {
  return ['UND_ERR_SOCKET', 'ECONNRESET', 'EPIPE'].includes(codeOf(error))
}

/** What makes an answer one that its readers could take in different ways, beside what undici refuses; or null. */
export function ambiguityOf(
  statusCode: number,
  { 'transfer-encoding': coding }: IncomingHttpHeaders,
): GatewayError | null {
  if (statusCode > 599) return badUpstream({ detail: 'the status is none (RFC 9110 §15)' })
  // Any other is read to the end of the connection, and would reach the client as if it were not coded.
  if (coding !== undefined && !/^chunked$/i.test(String(coding)))
    return badUpstream({ detail: 'the transfer coding is not known here (RFC 9112 §6.1)' })
  return null
}

/** An answer of which nothing has come for the time limit of its upstream. */
export class Standstill extends Error {
  readonly code = standstillCode

  constructor() {
    super('the answer stands still')
  }
}

function codeOf(error: Error): string {
  return String('code' in error ? error.code : undefined)
}

const standstillCode = 'UPSTREAM_STANDSTILL'
const timeouts = ['UND_ERR_HEADERS_TIMEOUT', 'UND_ERR_CONNECT_TIMEOUT', 'ETIMEDOUT', standstillCode]
