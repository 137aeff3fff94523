import { demoDefaults } from './defaults.ts'
import { createDemoProvider } from './provider.ts'
import { portFrom, startOrExit, stopOnSignal } from './serving.ts'

const { env } = process
const port = portFrom('PORT', env.PORT, 9080)
const app = 'http://localhost:8080'

const provider = createDemoProvider({
  issuer: env.ISSUER || `http://127.0.0.1:${port}`,
  clientId: env.CLIENT_ID || demoDefaults.clientId,
  clientSecret: env.CLIENT_SECRET || demoDefaults.clientSecret,
  redirectUri: env.REDIRECT_URI || `${app}/bff/callback`,
  postLogoutRedirectUri: env.POST_LOGOUT_REDIRECT_URI || `${app}/`,
  audience: env.AUDIENCE || demoDefaults.audience,
  accessTokenLifetime: demoDefaults.accessTokenLifetime,
})

stopOnSignal(provider)
await startOrExit('demo provider', { [port]: 'PORT' }, () => provider.listen({ host: env.HOST || '0.0.0.0', port }))
console.log(`The demo provider listens on port ${port}.`)
