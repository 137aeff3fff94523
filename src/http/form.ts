import type { FastifyInstance, FastifyRequest } from 'fastify'

/** More than any token that a provider sends. */
const formLimit = 64 * 1024

/** Makes a scope of the server read forms, up to 64 KB (413), and nothing else (415). */
export function acceptForms(scope: FastifyInstance): void {
  scope.removeAllContentTypeParsers()
  scope.addContentTypeParser(
    'application/x-www-form-urlencoded',
    { parseAs: 'string', bodyLimit: formLimit },
    (_request, body, done) => done(null, new URLSearchParams(String(body))),
  )
}

/** The form in a request's body, with repetitions; empty when there is none. */
export function formOf(request: FastifyRequest): URLSearchParams {
  return request.body instanceof URLSearchParams ? request.body : new URLSearchParams()
}

/** The value of a parameter that was sent exactly once and is not empty, or null. */
export function onlyValue(parameters: URLSearchParams, name: string): string | null {
  const values = parameters.getAll(name)
  return values.length === 1 && values[0] ? values[0] : null
}
