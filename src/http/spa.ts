import { realpath } from 'node:fs/promises'
import { basename, join, resolve, sep } from 'node:path'
import fastifyStatic from '@fastify/static'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { BadRequest, GatewayError } from '../core/errors.ts'
import { percentDecoded } from '../core/percent.ts'
import { hasControlCharacter, isBelow } from '../core/return-url.ts'
import { carriesHash } from './hashed-name.ts'

/** What the SPA may load and do when `SPA_CSP` does not say. Inline styles are let in, since component libraries write them. */
export const defaultPolicy = [
  "default-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data: blob:",
  "font-src 'self' data:",
  "object-src 'none'",
  "base-uri 'self'",
  "form-action 'self'",
  "frame-ancestors 'none'",
].join('; ')

/** Where the SPA is, and what is not its own. */
export interface SpaOptions {
  /** With an `index.html`. */
  directory: string
  /** Sent as it is; {@link defaultPolicy} without it. */
  contentSecurityPolicy: string | undefined
  /** That browsers come back by https alone; nothing for an application that is not served so. */
  transportSecurity: Readonly<Record<string, string>>
  /** Path prefixes that answer scripts: nothing below them is ever a file or a page of the SPA. */
  scriptPaths: readonly string[]
}

/** The SPA's static files. */
export interface Spa {
  register(app: FastifyInstance): Promise<void>
  /**
   * Sends `index.html` to a person who opens a page that is no file, so that the SPA's own routes can be bookmarked. For
   * anything else it is `otherwise`: a missing script must stay a 404, and so must what is missing below a script path.
   */
  openPage(request: FastifyRequest, reply: FastifyReply, otherwise: () => void): void
}

/** Serves a directory as the SPA: at every path that is no endpoint, never a dotfile, and never a file outside of it. */
export function createSpa(options: SpaOptions): Spa {
  const root = resolve(options.directory)
  const policy = options.contentSecurityPolicy ?? defaultPolicy
  const isForScripts = (path: string) => options.scriptPaths.some(prefix => isBelow(path, prefix))

  // No handler here returns its reply: for each promise of one, fastify listens once more for the end of the answer.
  const send = (reply: FastifyReply, path: string, otherwise: () => void) => {
    placeOf(root, path)
      .then(place => {
        if (place !== 'inside') return otherwise()
        const others = reply.getHeader('vary')
        reply.header('vary', others === undefined ? 'accept-encoding' : `${others}, accept-encoding`)
        reply.sendFile(path)
      })
      .catch(error => void reply.send(error))
  }

  return {
    async register(app) {
      await app.register(fastifyStatic, {
        root,
        serve: false,
        preCompressed: true,
        cacheControl: false,
        setHeaders(response, path) {
          response.setHeader('cache-control', cacheControl(basename(path)))
          response.setHeader('content-security-policy', policy)
          response.setHeader('referrer-policy', 'no-referrer')
          response.setHeader('x-content-type-options', 'nosniff')
          for (const [name, value] of Object.entries(options.transportSecurity)) response.setHeader(name, value)
        },
      })
      app.get('/*', (request, reply) => {
        const path = pathOf(request)
        const otherwise = () => void reply.callNotFound()
        if (isForScripts(path) || isHidden(path)) otherwise()
        else send(reply, path, otherwise)
      })
      app.route({
        method: ['POST', 'PUT', 'PATCH', 'DELETE'],
        url: '/*',
        onRequest(request, reply) {
          if (isForScripts(pathOf(request))) return void reply.callNotFound()
          reply.header('allow', 'GET, HEAD')
          throw new GatewayError('method_not_allowed', 'The method is not allowed here.')
        },
        handler() {},
      })
    },

    openPage(request, reply, otherwise) {
      const isNavigation = ['GET', 'HEAD'].includes(request.method) && request.headers.accept?.includes('text/html')
      if (!isNavigation) return otherwise()
      const path = pathOf(request)
      const namesFile = path.slice(path.lastIndexOf('/')).includes('.')
      if (namesFile || isForScripts(path) || isHidden(path)) otherwise()
      else send(reply, '/index.html', otherwise)
    },
  }
}

/**
 * The path of a request, decoded.
 * @throws BadRequest when a segment is no name of a file: it holds a separator or a control character, or is `.` or `..`.
 * One reader would take `..%2f` for a name, and the next for the way out.
 */
function pathOf(request: FastifyRequest): string {
  const segments = (request.url.split('?', 1)[0] ?? '').split('/').map(percentDecoded)
  const odd = (name: string) => name === '.' || name === '..' || /[\\/]/.test(name) || hasControlCharacter(name)
  if (segments.some(name => name === null || odd(name))) throw new BadRequest('The path is not one of a file.')
  return segments.join('/')
}

/** Whether a name on the way begins with a dot. What sites tell about themselves is public (RFC 8615 §3). */
function isHidden(path: string): boolean {
  return path.split('/').some((name, index) => name.startsWith('.') && !(index === 1 && name === '.well-known'))
}

/** Where everything is that may be sent for a path, when links are followed. */
async function placeOf(root: string, path: string): Promise<'inside' | 'outside' | 'absent'> {
  // Looked up each time: where `root` is a link itself, a release moves it.
  const home = await realpath(root).catch(() => null)
  if (home === null) return 'absent'
  const names = [path, join(path, 'index.html')].flatMap(name => [name, `${name}.br`, `${name}.gz`])
  const found = await Promise.all(names.map(name => realpath(join(root, name)).catch(whyNot)))
  const targets = found.filter(target => target !== 'absent')
  if (targets.length === 0) return 'absent'
  return targets.every(target => target === home || target.startsWith(home + sep)) ? 'inside' : 'outside'
}

/** What is not there cannot lead anywhere; what cannot be looked at must not be sent. */
function whyNot(error: NodeJS.ErrnoException): 'absent' | 'refused' {
  return ['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'].includes(error.code ?? '') ? 'absent' : 'refused'
}

/** A page is always fetched anew, since it names the files of its release; those with a hash never change. */
function cacheControl(name: string): string {
  const plain = name.replace(/\.(br|gz)$/, '')
  if (plain === 'index.html') return 'no-store'
  return carriesHash(plain) ? 'public, max-age=31536000, immutable' : 'no-cache'
}
