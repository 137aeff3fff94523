import type { FastifyInstance } from 'fastify'
import { BadRequest } from '../core/errors.ts'

/**
 * Refuses what no route should ever see: a target that is not a path (`GET http://evil.test/`, `//evil.test`), in which a
 * host could hide, and a request that a TLS terminator in front of an https origin says it took over plain http. That
 * header only ever serves to refuse, so it need not be trusted.
 */
export function registerTargetChecks(app: FastifyInstance, options: { publicOrigin: URL }): void {
  const https = options.publicOrigin.protocol === 'https:'
  app.addHook('onRequest', async request => {
    const target = request.raw.url ?? ''
    if (!target.startsWith('/') || target.startsWith('//') || target.includes('\\'))
      throw new BadRequest('The request target must be a path.')
    const scheme = String(request.headers['x-forwarded-proto'] ?? '')
      .split(',')[0]
      ?.trim()
      .toLowerCase()
    if (https && scheme === 'http') throw new BadRequest('This application is only served over https.')
  })
}
