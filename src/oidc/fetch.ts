import { EnvHttpProxyAgent, fetch, type RequestInit } from 'undici'
import { ProviderUnavailable } from '../core/errors.ts'
import { advice } from './advice.ts'
import { networkAdvice } from './read-advice.ts'

/** A call to the provider. It resolves only to an answer that is complete, bounded and worth reading. */
export type ProviderFetch = (url: string, init?: FetchInit) => Promise<Response>

/** The parts of a request that openid-client sets. */
interface FetchInit {
  method?: string
  headers?: Record<string, string>
  body?: unknown
}

/** Bounds of one provider call. */
export interface FetchLimits {
  /** For connection, headers and body together. */
  timeoutMs: number
  maxBytes: number
}

const defaultLimits: FetchLimits = { timeoutMs: 10_000, maxBytes: 512 * 1024 }

/**
 * Makes the only way from the gateway to the provider: no redirects (a redirected token request would hand out the
 * client secret), one deadline for the whole exchange, a bounded body, `HTTPS_PROXY` and `NO_PROXY` honoured.
 *
 * @throws {ProviderUnavailable} on network errors, the deadline, a body over the limit, 429 and 5xx: no definite answer
 */
export function createProviderFetch(limits: Partial<FetchLimits> = {}): ProviderFetch {
  const { timeoutMs, maxBytes } = { ...defaultLimits, ...limits }
  const dispatcher = new EnvHttpProxyAgent()

  return async (url, init = {}) => {
    // Nothing is used up by being read.
    const acts = init.method !== undefined && init.method !== 'GET'
    const request: RequestInit = {
      ...(init as RequestInit),
      redirect: 'manual',
      dispatcher,
      signal: AbortSignal.timeout(timeoutMs),
    }
    try {
      const response = await fetch(url, request)
      if (response.status === 429 || response.status >= 500) {
        await response.body?.cancel()
        throw new ProviderUnavailable({
          detail: `${new URL(url).pathname} answered ${response.status}`,
          advice: advice.status(response.status),
          ...retryAfterOf(response.headers.get('retry-after')),
          // Only these two are said before any work is done.
          ambiguous: acts && response.status !== 429 && response.status !== 503,
        })
      }
      const body = await readBounded(response.body, maxBytes, acts)
      const bodiless = response.status === 204 || response.status === 304
      return new Response(bodiless ? null : body, { status: response.status, headers: [...response.headers] })
    } catch (error) {
      if (error instanceof ProviderUnavailable) throw error
      const ambiguous = acts && !isUnsent(error)
      throw new ProviderUnavailable({
        detail: `${new URL(url).pathname} could not be fetched`,
        advice: networkAdvice(error),
        cause: error,
        ambiguous,
      })
    }
  }
}

/** Whether a request surely never left: there was no connection to send it on. */
function isUnsent(error: unknown): boolean {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined
  return unsentCodes.some(known => known === code)
}

const unsentCodes = ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'UND_ERR_CONNECT_TIMEOUT']

async function readBounded(
  stream: AsyncIterable<Uint8Array> | null,
  maxBytes: number,
  ambiguous: boolean,
): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of stream ?? []) {
    size += chunk.byteLength
    if (size > maxBytes)
      throw new ProviderUnavailable({ detail: `the answer is larger than ${maxBytes} bytes`, ambiguous })
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

/** Only the form in seconds (RFC 9110 §10.2.3), within an hour. */
function retryAfterOf(header: string | null): { retryAfter?: number } {
  return header !== null && /^\d{1,6}$/.test(header) ? { retryAfter: Math.min(Number(header), 3600) } : {}
}

/** The JSON in an answer's body, which stays to be read again; null when it is none. */
export async function jsonOf(response: Response): Promise<unknown> {
  return response
    .clone()
    .json()
    .catch(() => null)
}
