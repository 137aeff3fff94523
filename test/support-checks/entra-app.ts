import { createHash, randomBytes } from 'node:crypto'
import { createBrowser, type TestBrowser } from '../support/browser.ts'
import { readJwt } from '../support/entra/jwt.ts'
import type { TestEntra } from '../support/entra.ts'
import { throughProvider } from '../support/login.ts'
import type { Json } from '../support/provider.ts'

/** An answer of the token endpoint. */
export interface TokenAnswer {
  status: number
  headers: Headers
  text: string
  json: Json
  /** Claims of the ID token, and of the access token. */
  idToken: Json
  accessToken: Json
  refreshToken: string
}

/** Params of a request; undefined takes out what would be there otherwise. */
type Params = Record<string, string | undefined>

export const redirectUri = 'http://localhost:4711/bff/callback'

/** The smallest honest app: what a gateway would do, by hand. */
export function createApp(entra: TestEntra, home = entra.tenants[0] ?? '') {
  const verifier = randomBytes(32).toString('base64url')
  const challenge = createHash('sha256').update(verifier).digest('base64url')
  const at = (end: string, authority = home) => `${entra.origin}/${authority}/${end}`
  const defined = (params: Params) =>
    new URLSearchParams(Object.entries(params).filter((entry): entry is [string, string] => entry[1] !== undefined))

  const authorizeUrl = (params: Params = {}, authority = home): string => {
    const query = defined({
      client_id: entra.clientId,
      response_type: 'code',
      redirect_uri: redirectUri,
      scope: 'openid profile offline_access api://a/x',
      state: 'state-1',
      nonce: 'nonce-1',
      code_challenge: challenge,
      code_challenge_method: 'S256',
      ...params,
    })
    return `${at('oauth2/v2.0/authorize', authority)}?${query}`
  }

  /** Goes to Entra, logs in where a form is shown, and stops at the callback. */
  const signIn = async (
    { user = 'alice', authority = home, ...params }: Params = {},
    browser: TestBrowser = createBrowser(),
  ): Promise<URL> => {
    entra.autoLogin = user
    const atCallback = (url: URL) => url.origin !== entra.origin
    const page = await browser.navigate(authorizeUrl(params, authority), { stopBefore: atCallback })
    entra.autoLogin = undefined
    if (page.headers.location === undefined) throw new Error(`no callback: ${page.status} ${page.text}`)
    return new URL(page.headers.location)
  }

  const token = async (
    params: Params,
    { authority = home, headers = {} }: { authority?: string | undefined; headers?: Record<string, string> } = {},
  ): Promise<TokenAnswer> => {
    const body = defined({ client_id: entra.clientId, client_secret: entra.clientSecret, ...params })
    const response = await fetch(at('oauth2/v2.0/token', authority), { method: 'POST', body, headers })
    const text = await response.text()
    const isJson = response.headers.get('content-type')?.startsWith('application/json')
    const json = isJson ? (JSON.parse(text) as Json) : {}
    const read = (value: unknown) => readJwt(String(value))?.payload ?? {}
    return {
      status: response.status,
      headers: response.headers,
      text,
      json,
      idToken: read(json.id_token),
      accessToken: read(json.access_token),
      refreshToken: String(json.refresh_token),
    }
  }

  const redeem = (callback: URL, params: Params = {}, authority?: string, headers?: Record<string, string>) =>
    token(
      {
        grant_type: 'authorization_code',
        code: callback.searchParams.get('code') ?? '',
        redirect_uri: redirectUri,
        code_verifier: verifier,
        ...params,
      },
      { authority, ...(headers && { headers }) },
    )

  return {
    at,
    authorizeUrl,
    signIn,
    token,
    redeem,
    /** From nothing to tokens. */
    login: async (params: Params = {}) =>
      redeem(
        await signIn(params),
        { scope: params.scope ?? 'openid profile offline_access api://a/x' },
        params.authority,
      ),
    refresh: (refreshToken: string, params: Params = {}, authority?: string) =>
      token(
        { grant_type: 'refresh_token', refresh_token: refreshToken, scope: 'openid api://a/.default', ...params },
        { authority },
      ),
    document: async (path: string) => {
      const response = await fetch(`${entra.origin}/${path}`)
      return { status: response.status, headers: response.headers, json: (await response.json()) as Json }
    },
    throughProvider: (browser: TestBrowser, url: string) =>
      browser.navigate(url).then(page => throughProvider(browser, page, entra)),
  }
}
