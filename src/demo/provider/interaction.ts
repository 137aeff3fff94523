import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import type Provider from 'oidc-provider'
import type { InteractionResults } from 'oidc-provider'
import { accountByCredentials, accountByLogin, accountBySubject, demoAccounts } from './accounts.ts'
import { chooserPage, signInPage } from './pages.ts'

interface Deps {
  provider: Provider
  /** The host of the app that users sign in to, as shown to them. */
  clientHost: string
}

/** The pages between an authorization request and its answer: sign in, choose an account. Consent is not asked for. */
export function interactionRoutes({ provider, clientHost }: Deps): FastifyPluginAsync {
  const detailsOf = (request: FastifyRequest, reply: FastifyReply) =>
    provider.interactionDetails(request.raw, reply.raw)

  async function finish(request: FastifyRequest, reply: FastifyReply, result: InteractionResults) {
    reply.hijack()
    await provider.interactionFinished(request.raw, reply.raw, result)
  }

  return async server => {
    server.addContentTypeParser(
      'application/x-www-form-urlencoded',
      { parseAs: 'string', bodyLimit: 4096 },
      (_request, body, done) => done(null, new URLSearchParams(String(body))),
    )

    server.get<{ Querystring: { as?: string } }>('/interaction/:uid', async (request, reply) => {
      const { uid, prompt, params, session } = await detailsOf(request, reply)
      if (prompt.name === 'consent') return finish(request, reply, { consent: {} })

      const present = accountBySubject(session?.accountId)
      if (prompt.name === 'select_account' && present && request.query.as !== 'another') {
        const { name, email } = present.claims
        return reply.send(chooserPage({ uid, clientHost, name: String(name), email: String(email) }))
      }
      const hint = typeof params.login_hint === 'string' ? params.login_hint : undefined
      const suggested = hint === undefined ? (present ?? demoAccounts[0]) : accountByLogin(hint)
      const login = hint ?? suggested?.username ?? ''
      return reply.send(signInPage({ uid, clientHost, login, password: suggested?.password ?? '' }))
    })

    server.post('/interaction/:uid', async (request, reply) => {
      const { uid, prompt } = await detailsOf(request, reply)
      const form = request.body instanceof URLSearchParams ? request.body : new URLSearchParams()
      const answered = { [prompt.name]: {} }

      if (form.get('action') === 'cancel') {
        return finish(request, reply, { error: 'access_denied', error_description: 'the user cancelled' })
      }
      if (form.get('action') === 'continue' && prompt.name === 'select_account') return finish(request, reply, answered)

      const login = form.get('login') ?? ''
      const account = accountByCredentials(login, form.get('password') ?? '')
      if (account) {
        return finish(request, reply, { ...answered, login: { accountId: account.claims.sub, amr: ['pwd'] } })
      }
      const fault = 'That user name and password do not match. Please try again.'
      return reply.code(401).send(signInPage({ uid, clientHost, login, password: '', fault }))
    })
  }
}
