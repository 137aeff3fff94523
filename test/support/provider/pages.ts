import type { IncomingMessage } from 'node:http'
import type Provider from 'oidc-provider'
import type { KoaContextWithOIDC } from 'oidc-provider'
import type { TestUsers } from './users.ts'

/** How somebody logged in, for the ID token. */
export interface Authentication {
  acr: string
  amr: string[]
}

/** A login as asked for: `acr` is the first one named by `acr_values` or the `claims` parameter. */
export function authenticateAsAsked(_login: string, params: Record<string, unknown>): Authentication {
  const acr = JSON.parse(String(params.claims ?? '{}')).id_token?.acr
  const [asked = '0'] = params.acr_values ? String(params.acr_values).split(' ') : (acr?.values ?? [acr?.value ?? '0'])
  return { acr: asked, amr: ['pwd'] }
}

/** What the login page needs. */
export interface LoginPageDeps {
  users: TestUsers
  /** A login name that is logged in without a form, if any. */
  autoLogin(): string | undefined
  authenticate(login: string, params: Record<string, unknown>): Authentication
}

/** Serves the login page: a form with `login` and `password` (any password will do), or `abort` to decline. */
export function addLoginPage(op: Provider, deps: LoginPageDeps): void {
  op.use(async (ctx, next) => {
    if (!/^\/login\/[\w-]+$/.test(ctx.path)) return next()
    const { params, prompt } = await op.interactionDetails(ctx.req, ctx.res)
    const form = ctx.method === 'POST' ? await readForm(ctx.req) : new URLSearchParams()
    const login = deps.autoLogin() ?? form.get('login')
    if (form.has('abort')) {
      ctx.respond = false
      const refusal = { error: 'access_denied', error_description: 'the user declined' }
      return op.interactionFinished(ctx.req, ctx.res, refusal, { mergeWithLastSubmission: false })
    }
    if (login) {
      ctx.respond = false
      const { acr, amr } = deps.authenticate(login, params)
      const result = { [prompt.name]: {}, login: { accountId: deps.users.get(login).sub, acr, amr } }
      return op.interactionFinished(ctx.req, ctx.res, result, { mergeWithLastSubmission: false })
    }
    ctx.type = 'html'
    ctx.body = page(
      'Log in',
      `<form id="login-form" method="post" action="${ctx.path}">
  <input name="login" autocomplete="off" autofocus><input name="password" type="password" autocomplete="off">
  <button type="submit">Log in</button>
</form>`,
    )
  })
}

/** The page of an RP-initiated logout: it goes on by itself, without a question. */
export function logoutPage(ctx: KoaContextWithOIDC, form: string): void {
  const answered = form.replace('</form>', '<input type="hidden" name="logout" value="yes"/></form>')
  ctx.body = page('Logging out', `${answered}<script>document.forms[0].submit()</script>`)
}

/** Where a logout ends that names no place to return to. */
export function loggedOutPage(ctx: KoaContextWithOIDC): void {
  ctx.body = page('Logged out', '<p id="logged-out">You are logged out.</p>')
}

/** The page of an error that cannot go back to the client; the error's fields as text. */
export function errorPage(ctx: KoaContextWithOIDC, out: object): void {
  ctx.type = 'html'
  ctx.body = page('Error', `<pre id="error">${JSON.stringify(out).replaceAll('<', '&lt;')}</pre>`)
}

const page = (title: string, body: string) =>
  `<!DOCTYPE html><html><head><meta charset="utf-8"><title>${title}</title></head><body>${body}</body></html>`

async function readForm(req: IncomingMessage): Promise<URLSearchParams> {
  const chunks: Buffer[] = []
  for await (const chunk of req) chunks.push(chunk)
  return new URLSearchParams(Buffer.concat(chunks).toString())
}
