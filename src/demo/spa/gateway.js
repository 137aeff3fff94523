/**
 * One request to the gateway. Never throws: status 0 means that there was no answer at all.
 *
 * @param {string} path
 * @param {{ method?: string, json?: unknown, passive?: boolean }} [options]
 *   `passive`: the page asks by itself; the gateway must not take it for the user
 */
export async function ask(path, { method = 'GET', json, passive = false } = {}) {
  const startedAt = performance.now()
  const headers = { accept: 'application/json', 'X-CSRF': '1' }
  if (passive) headers['X-Activity'] = 'passive'
  if (json !== undefined) headers['content-type'] = 'application/json'
  try {
    const response = await fetch(path, { method, headers, body: JSON.stringify(json), cache: 'no-store' })
    const text = await response.text()
    const isJson = /\bjson\b/.test(response.headers.get('content-type') ?? '')
    return {
      status: response.status,
      ok: response.ok,
      body: isJson && text ? JSON.parse(text) : text,
      retryAfter: Number(response.headers.get('retry-after')) || undefined,
      ms: Math.round(performance.now() - startedAt),
    }
  } catch {
    return { status: 0, ok: false, body: '', ms: Math.round(performance.now() - startedAt) }
  }
}

/** Whether the gateway, or something behind it, is out for a moment: the session stays what it was. */
export const isOutage = answer => answer.status === 0 || answer.status === 503

/** Seconds to wait before the next try, by what the gateway says and how often it was tried. */
export const pauseBefore = (attempt, answer) => answer.retryAfter ?? Math.min(1 + attempt, 10)

/** Resolves after so many seconds. */
export const wait = seconds => new Promise(resolve => setTimeout(resolve, seconds * 1000))

/**
 * Where to sign in and come back to this very page.
 *
 * @param {string} [loginUrl] the gateway's own suggestion, from a 401
 */
export function signInUrl(loginUrl = '/bff/login') {
  const url = new URL(loginUrl, location.origin)
  url.searchParams.set('returnUrl', location.pathname + location.search + location.hash)
  return url.href
}
