import { createDemoApi } from './api.ts'
import { demoDefaults } from './defaults.ts'
import { portFrom, startOrExit, stopOnSignal } from './serving.ts'

const { env } = process
const port = portFrom('PORT', env.PORT, 3001)

const api = createDemoApi({
  issuer: env.ISSUER || 'http://127.0.0.1:9080',
  audience: env.AUDIENCE || demoDefaults.audience,
  ...(env.JWKS_URL && { jwksUrl: env.JWKS_URL }),
})

stopOnSignal(api)
await startOrExit('demo API', { [port]: 'PORT' }, () => api.listen({ host: env.HOST || '0.0.0.0', port }))
console.log(`The demo API listens on port ${port}.`)
