import type { KoaContextWithOIDC } from 'oidc-provider'
import { guidOf } from './keys.ts'

/** One front-channel logout call, as it was answered. */
export interface FrontchannelCall {
  url: string
  /** Undefined when there was no answer. */
  status: number | undefined
  body: string
  headers: Headers | undefined
}

/** What a logout needs. */
export interface LogoutDeps {
  clientId: string
  /** Front-channel logout addresses of the registered apps. */
  logoutUrls: string[]
  calls: FrontchannelCall[]
  /** The `login_hint` of an account. */
  hintOf(user: string): string
}

/**
 * Ends Entra's own session and tells the apps. Without the `login_hint` of the account, a page asks which account is
 * meant: nothing has ended until it is answered.
 */
export function createLogout(deps: LogoutDeps) {
  /** Tells every app, as the browser's invisible frames would: without cookies and without `iss`. */
  const tellApps = async (sid: string): Promise<void> => {
    const tell = async (logoutUrl: string) => {
      const url = new URL(logoutUrl)
      url.searchParams.set('sid', sid)
      const response = await fetch(url, { redirect: 'manual', signal: AbortSignal.timeout(5000) }).catch(
        () => undefined,
      )
      const body = (await response?.text().catch(() => '')) ?? ''
      deps.calls.push({ url: url.href, status: response?.status, body, headers: response?.headers })
    }
    await Promise.all(deps.logoutUrls.map(tell))
  }

  const page = async (ctx: KoaContextWithOIDC): Promise<void> => {
    const { session, params } = ctx.oidc
    const account = session?.accountId
    if (!session || account === undefined) throw new Error('a logout without a session')
    const hint = deps.hintOf(account)
    if (params?.logout_hint !== hint) {
      ctx.body = picker({ ...params, logout_hint: hint })
      return
    }
    const sid = session.sidFor(deps.clientId)
    await session.destroy()
    if (sid !== undefined) await tellApps(guidOf('sid', sid))
    const back = params?.post_logout_redirect_uri
    if (typeof back !== 'string') {
      ctx.body = '<html><body><p id="logged-out">You signed out of your account.</p></body></html>'
      return
    }
    const target = new URL(back)
    if (typeof params?.state === 'string') target.searchParams.set('state', params.state)
    ctx.redirect(target.href)
  }
  return { page, tellApps }
}

/** Which account is meant; sending the form goes on, closing the page leaves everything as it was. */
function picker(params: Record<string, unknown>): string {
  const inputs = Object.entries(params)
    .filter((entry): entry is [string, string] => typeof entry[1] === 'string')
    .map(
      ([name, value]) =>
        `<input type="hidden" name="${name}" value="${value.replaceAll('&', '&amp;').replaceAll('"', '&quot;')}">`,
    )
  return `<html><head><title>Pick an account</title></head><body><form id="account-picker" method="post" action="">${inputs.join('')}<button>Sign out</button></form></body></html>`
}
