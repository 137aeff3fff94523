import { styleText } from 'node:util'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'

/**
 * Tells, a line a request, which way it took, and how sessions end. Shows paths, statuses and presence: never a query, a
 * token or a cookie. What a page asks by itself, without its user, is left out.
 */
export interface Narrator {
  gateway(server: FastifyInstance): void
  /** Takes what the gateway's log says for the record. */
  audit(event: AuditRecord): void
  api(server: FastifyInstance): void
  provider(server: FastifyInstance): void
}

/** An audit event of the gateway, as its log has it. */
export interface AuditRecord {
  event?: unknown
  reason?: unknown
  outcome?: unknown
}

interface Options {
  print: (line: string) => void
  colour: boolean
  /** Name of the gateway's session cookie. */
  sessionCookie: string
  /** Where the API is mounted at the gateway. */
  apiPath: string
}

interface ApiVisit {
  method: string
  path: string
  way: string
  status: number
  at: number
  /** Tells the visit by itself, unless the gateway's line has told it by then. */
  alone: NodeJS.Timeout
}

const gatewaySteps: Record<string, string> = {
  '/bff/login': 'off to the provider',
  '/bff/callback': 'code traded for tokens, ticket handed out',
  '/bff/user': 'tells who is signed in, no token',
  '/bff/logout': 'ticket torn up, on to the provider',
  '/bff/activity': 'somebody is there: the idle clock starts over',
  '/bff/events': 'event stream, closed now',
  'DELETE /bff/sessions': 'all other tickets torn up',
  'DELETE /bff/sessions/…': 'another ticket torn up',
}

const providerSteps: Record<string, string> = {
  '/.well-known/openid-configuration': 'gateway reads the metadata',
  '/jwks': 'signing keys read',
  '/auth': 'browser asks for a login',
  '/auth/…': 'browser leaves with a code',
  '/interaction/…': 'browser at the sign-in page',
  '/token': 'gateway asks for tokens',
  '/token/revocation': 'gateway revokes the refresh token',
  '/me': 'gateway asks for UserInfo',
  '/session/end': 'browser signs out',
  '/session/end/confirm': 'browser is signed out',
}

const grantSteps: Record<string, string> = {
  authorization_code: 'gateway trades the code for tokens',
  refresh_token: 'gateway trades the refresh token for new ones',
}

const revocations: Record<string, string> = {
  revoked: 'refresh token revoked at the provider',
  pending: 'refresh token not revoked yet: the provider does not answer, tried again soon',
  not_supported: 'the provider revokes no tokens',
  gave_up: 'refresh token not revoked: given up',
}

/** A request at the API that no request at the gateway has explained by then came straight to the API. */
const aloneAfterMs = 500

/** Creates the narrator of one demo. Hook it to the three servers before they listen. */
export function createNarrator({ print, colour, sessionCookie, apiPath }: Options): Narrator {
  const visits: ApiVisit[] = []

  const paint = (name: 'green' | 'red' | 'yellow' | 'dim') => (text: string) => (colour ? styleText(name, text) : text)

  const tell = (method: string, path: string, way: string, status: number, reply: FastifyReply) => {
    const result = paint(status < 400 ? 'green' : 'red')(String(status))
    print(
      `${method.padEnd(6)} ${path.padEnd(24)} ${way} ${result} ${paint('dim')(`(${Math.round(reply.elapsedTime)} ms)`)}`,
    )
  }

  return {
    gateway(server) {
      server.addHook('onResponse', async (request, reply) => {
        const path = pathOf(request).replace(/^\/bff\/sessions\/.+/, '/bff/sessions/…')
        const unasked = /\.\w+$/.test(path) || (path.startsWith('/bff/') && isPassive(request))
        if (unasked && reply.statusCode < 400) return
        const ticket = request.headers.cookie?.includes(`${sessionCookie}=`) ? 'cookie in' : 'no cookie'
        const since = performance.now() - reply.elapsedTime
        const at = visits.findIndex(
          visit => visit.at >= since && visit.method === request.method && apiPath + visit.path === path,
        )
        const [visit] = at < 0 ? [] : visits.splice(at, 1)
        clearTimeout(visit?.alone)
        const step = gatewaySteps[`${request.method} ${path}`] ?? gatewaySteps[path]
        const answered = reply.statusCode < 400 ? (step ?? (path.startsWith(apiPath) ? '' : 'page')) : ''
        const end = visit ? `${visit.way} → demo API` : answered || 'gateway'
        tell(request.method, path, `${ticket} → ${end}`, reply.statusCode, reply)
      })
    },

    audit({ event, reason, outcome }) {
      const became = revocations[String(outcome)]
      if (event !== 'revocation' || became === undefined) return
      const what = reason === 'login_failed' ? 'login failed' : `session ended (${reason})`
      print(paint('yellow')(`${what} → ${became}`))
    },

    api(server) {
      server.addHook('onResponse', async (request, reply) => {
        const path = pathOf(request)
        const token = /^Bearer \S/i.test(request.headers.authorization ?? '') ? 'token out' : 'no token'
        const way = request.headers.cookie === undefined ? token : `${token}, cookie out`
        const { method } = request
        const status = reply.statusCode
        const visit: ApiVisit = {
          method,
          path,
          way,
          status,
          at: performance.now(),
          alone: setTimeout(() => {
            visits.splice(visits.indexOf(visit), 1)
            tell(method, path, `past the gateway: ${way} → demo API`, status, reply)
          }, aloneAfterMs).unref(),
        }
        visits.push(visit)
      })
    },

    provider(server) {
      server.addHook('onResponse', async (request, reply) => {
        const path = pathOf(request).replace(/^\/(auth|interaction)\/.+/, '/$1/…')
        if (!(path in providerSteps)) return
        const grant = grantSteps[String(reply.raw.getHeader('x-grant-type'))]
        tell(request.method, path, `demo provider: ${grant ?? providerSteps[path]}`, reply.raw.statusCode, reply)
      })
    },
  }
}

const isPassive = (request: FastifyRequest) =>
  request.headers['x-activity'] === 'passive' || /[?&]slide=false\b/.test(request.url)

const pathOf = (request: FastifyRequest) => request.url.split(/[?#]/, 1)[0] ?? ''
