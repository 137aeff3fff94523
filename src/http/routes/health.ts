import type { FastifyInstance } from 'fastify'

/** What readiness looks at; each check rejects when its part cannot serve. */
export interface HealthDeps {
  checks: Record<string, () => Promise<void>>
  phase: () => Phase
}

/** Where the gateway is in its life: it takes requests only while it is `serving`. */
export type Phase = 'starting' | 'serving' | 'stopping'

/**
 * `GET /healthz`: the process lives. `GET /readyz`: it can serve logins and calls; 503 names what cannot, without saying
 * where it is. An orchestrator restarts on the first and routes by the second: a Redis outage must not restart gateways.
 */
export function registerHealth(app: FastifyInstance, deps: HealthDeps): void {
  app.get('/healthz', async () => ({ status: 'ok' }))

  app.get('/readyz', async (_request, reply) => {
    const names = Object.keys(deps.checks)
    const results = await Promise.allSettled(Object.values(deps.checks).map(check => check()))
    const states = names.map((name, index) => [name, results[index]?.status === 'fulfilled' ? 'ok' : 'unavailable'])
    const phase = deps.phase()
    const ready = phase === 'serving' && states.every(([, state]) => state === 'ok')
    return reply.code(ready ? 200 : 503).send({
      status: phase !== 'serving' ? phase : ready ? 'ok' : 'unavailable',
      checks: Object.fromEntries(states),
    })
  })
}
