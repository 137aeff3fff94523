import { Pool } from 'undici'
import type { GatewayError } from '../../core/errors.ts'
import { type Done, exchange, type UpstreamRequest } from './exchange.ts'
import { unusable } from './faults.ts'

/** The connections to one upstream. */
export interface UpstreamClient {
  /**
   * A client that leaves before its answer is complete takes the request along. One that is repeatable is sent once more, on
   * a connection of its own, when the first one ended without a byte in answer; nothing else ever is. Errors, of the
   * answer's body too, are {@link GatewayError}s.
   */
  request(request: UpstreamRequest, done: Done<GatewayError>): void
  destroy(): void
}

/** How an upstream is reached. */
export interface UpstreamClientOptions {
  origin: string
  /** Milliseconds until response headers, and for each standstill of a response that is no event stream. */
  timeoutMs: number
  /** Certificate authority in the place of those that Node knows. */
  ca: Buffer | undefined
}

/** A connection that is not there after this will not come; a shorter time limit of the upstream goes first. */
const connectTimeoutMs = 10_000

/**
 * Opens a connection when all others are busy, and keeps it for as long as the upstream does. Fewer connections, or several
 * requests at a time on each, save nothing that can be measured, and let a slow answer hold up others (README, Performance).
 */
export function createUpstreamClient({ origin, timeoutMs, ca }: UpstreamClientOptions): UpstreamClient {
  const options: Pool.Options = {
    connect: { timeout: Math.min(timeoutMs, connectTimeoutMs), ...(ca !== undefined && { ca }) },
    headersTimeout: timeoutMs,
    // undici's own would also end an event stream that is quiet.
    bodyTimeout: 0,
  }
  const kept = new Pool(origin, options)
  /** Its connections serve one request each. */
  const fresh = new Pool(origin, options)

  return {
    request(request, done) {
      exchange(kept, request, { timeoutMs, reset: false }, (failure, answer) => {
        if (failure === null) return done(null, answer)
        if (!failure.unheard || !request.repeatable) return done(unusable(failure.error))
        exchange(fresh, request, { timeoutMs, reset: true }, (again, answer) =>
          done(again === null ? null : unusable(again.error), answer),
        )
      })
    },
    destroy() {
      void kept.destroy()
      void fresh.destroy()
    },
  }
}
