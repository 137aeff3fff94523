import type { FastifyRequest } from 'fastify'

/** The query as it stands in the request, with repetitions. */
export function queryOf(request: FastifyRequest): URLSearchParams {
  const target = request.raw.url ?? ''
  const mark = target.indexOf('?')
  return new URLSearchParams(mark < 0 ? '' : target.slice(mark + 1))
}
