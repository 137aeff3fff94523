import type { BrowserResponse, Navigation, TestBrowser } from './browser.ts'
import { formOf } from './page-form.ts'

/** Who logs in, and where to. */
export interface LoginOptions {
  /** Any name is a user of the provider. */
  user?: string
  returnUrl?: string
  /** The gateway's `BFF_PATH`. */
  bffPath?: string
  /** Further query of the login endpoint, e.g. `prompt`. */
  params?: Record<string, string>
}

/**
 * Logs a user in as a person would: the gateway's login endpoint, the provider's form (not shown to somebody the
 * provider still knows), the callback, and where that leads. The chain has every answer; nothing is asserted.
 */
export async function login(
  browser: TestBrowser,
  gatewayUrl: string,
  provider: { issuer: string },
  { user = 'alice', returnUrl, bffPath = '/bff', params = {} }: LoginOptions = {},
): Promise<Navigation> {
  const url = new URL(`${bffPath}/login`, gatewayUrl)
  if (returnUrl !== undefined) url.searchParams.set('returnUrl', returnUrl)
  for (const [name, value] of Object.entries(params)) url.searchParams.set(name, value)
  return throughProvider(browser, await browser.navigate(url.href), provider, user)
}

/**
 * Goes on from a page of the provider: fills in the login form, lets pages that submit themselves do so (a form_post
 * answer, a logout, a change of account), and stops at the first page that is not the provider's or has no form.
 */
export async function throughProvider(
  browser: TestBrowser,
  start: Navigation,
  provider: { issuer: string },
  user = 'alice',
): Promise<Navigation> {
  const { origin } = new URL(provider.issuer)
  const chain: BrowserResponse[] = [...start.chain]
  let page = start
  for (let pages = 0; pages < 10; pages += 1) {
    const form = page.url.startsWith(`${origin}/`) ? formOf(page.text) : null
    if (!form) return { ...page, chain }
    const fields: Record<string, string> = form.names.includes('login') ? { login: user, password: 'any' } : {}
    page = await browser.submit(page, fields)
    chain.push(...page.chain)
  }
  throw new Error(`the provider's pages do not end, the last is ${page.url}`)
}
