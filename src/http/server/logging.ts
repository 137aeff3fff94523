import type { FastifyReply, FastifyRequest, FastifyServerOptions } from 'fastify'
import { GatewayError } from '../../core/errors.ts'

/** What of an error may be logged. Foreign messages and causes quote tokens, bodies and parameters, so they stay out. */
function describe(error: unknown): Record<string, unknown> {
  if (error instanceof GatewayError) {
    const cause = error.cause === undefined ? {} : { cause: describe(error.cause) }
    const advice = error.advice === undefined ? {} : { advice: error.advice }
    return { type: error.name, code: error.code, detail: error.detail ?? error.message, ...advice, ...cause }
  }
  if (!(error instanceof Error)) return { type: typeof error }
  const code = 'code' in error && typeof error.code === 'string' ? { code: error.code } : {}
  const cause = error.cause instanceof Error ? { cause: describe(error.cause) } : {}
  const frames = error.stack?.split('\n').filter(line => line.startsWith('    at ')) ?? []
  return { type: error.name, ...code, ...cause, stack: frames.map(frame => frame.trim()).slice(0, 8) }
}

/** Where log lines go. */
export interface LogStream {
  write(line: string): void
}

type LoggerOptions = Exclude<FastifyServerOptions['logger'], boolean | undefined>

/** How the log is written. */
export interface LogTarget {
  /** Stdout without it. */
  stream?: LogStream | undefined
  /** Whether other processes write to the same log: each line then tells whose it is. */
  severalProcesses?: boolean
}

/** A message that is left out where several processes would say the same. */
export const unsaid = ''

/** JSON logs with what could hold a secret left out: queries, headers, foreign error messages. */
export function loggerOptions(level: string, { stream, severalProcesses = false }: LogTarget = {}): LoggerOptions {
  return {
    level,
    ...(stream && { stream }),
    base: severalProcesses ? { pid: process.pid } : null,
    ...(severalProcesses && {
      hooks: {
        logMethod(parameters, method) {
          if (parameters[0] !== unsaid) method.apply(this, parameters)
        },
      },
    }),
    timestamp: () => `,"time":"${new Date().toISOString()}"`,
    formatters: { level: label => ({ level: label }) },
    serializers: {
      err: describe,
      req: (request: Partial<FastifyRequest>) => ({
        method: request.method,
        path: request.url?.split('?', 1)[0],
        // What the router refuses is logged before anybody is asked who sent it.
        address: request.client?.address ?? request.raw?.socket?.remoteAddress,
      }),
      res: (reply: FastifyReply) => ({ status: reply.statusCode }),
    } as never,
  }
}
