import type { BrowserResponse, TestBrowser } from './browser.ts'
import type { Json, TestProvider } from './provider.ts'
import { type Stage, sessionCookie } from './stage.ts'

/** A session at the gateway, and what the provider calls it. */
export interface KnownSession {
  browser: TestBrowser
  cookie: string
  sid: string
  sub: string
  refreshToken: string
}

/** What a JWT says. */
export const claimsOf = (token: string): Json =>
  JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString())

/** The claims of the ID token that the provider handed out last. */
export const lastIdToken = (provider: TestProvider): Json => claimsOf([...provider.issued.idTokens].at(-1) ?? '')

/** Logs in, and notes by what names the provider knows the session. */
export async function knownSession(
  stage: Pick<Stage, 'provider' | 'loggedIn'>,
  user: string,
  enter: (user: string) => Promise<TestBrowser> = stage.loggedIn,
): Promise<KnownSession> {
  const browser = await enter(user)
  const { sid, sub } = lastIdToken(stage.provider)
  return {
    browser,
    cookie: browser.jar.get(sessionCookie) ?? '',
    sid: String(sid),
    sub: String(sub),
    refreshToken: [...stage.provider.issued.refreshTokens].at(-1) ?? '',
  }
}

/** Sends a logout token as a provider does: no cookie, no header of ours. */
export function sendLogoutToken(browser: TestBrowser, token: string, at = ''): Promise<BrowserResponse> {
  return browser.post(`${at}/bff/backchannel`, { body: new URLSearchParams({ logout_token: token }), cookies: [] })
}

/** Keeps back what the token endpoint answers from now on, tokens already issued, until it is released. */
export function holdTokenResponses(provider: TestProvider): () => void {
  let release = () => {}
  const held = new Promise<void>(resolve => {
    release = resolve
  })
  provider.tamper.tokenResponse = async response => {
    await held
    return response
  }
  return () => release()
}
