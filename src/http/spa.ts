import { basename, resolve } from 'node:path'
import fastifyStatic from '@fastify/static'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { isBelow } from '../core/return-url.ts'

/** Serves the SPA's files. A navigation that names no file gets `index.html`, so that the SPA's own routes can be bookmarked. */
export async function registerSpa(
  app: FastifyInstance,
  options: { directory: string; transportSecurity: Record<string, string> },
): Promise<void> {
  await app.register(fastifyStatic, {
    root: resolve(options.directory),
    cacheControl: false,
    setHeaders(response, path) {
      response.setHeader('cache-control', basename(path) === 'index.html' ? 'no-store' : 'no-cache')
      response.setHeader('content-security-policy', "frame-ancestors 'none'")
      response.setHeader('referrer-policy', 'no-referrer')
      response.setHeader('x-content-type-options', 'nosniff')
      for (const [name, value] of Object.entries(options.transportSecurity)) response.setHeader(name, value)
    },
  })
}

/** Whether a request that matched nothing is a person opening a page of the SPA: a missing script must stay a 404. */
export function opensPage(request: FastifyRequest, scriptPaths: readonly string[]): boolean {
  const path = request.url.split('?', 1)[0] ?? ''
  return (
    request.method === 'GET' &&
    (request.headers.accept?.includes('text/html') ?? false) &&
    !(path.split('/').at(-1) ?? '').includes('.') &&
    !scriptPaths.some(prefix => isBelow(path, prefix))
  )
}
