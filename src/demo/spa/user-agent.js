const browsers = [
  ['Edge', /\bEdg(?:e|A|iOS)?\//],
  ['Opera', /\b(?:OPR|Opera)\//],
  ['Samsung Internet', /\bSamsungBrowser\//],
  ['Firefox', /\b(?:Firefox|FxiOS)\//],
  ['Chrome', /(?:\bChrome|HeadlessChrome|\bCriOS)\//],
  ['Safari', /\bVersion\/[\d.]+ .*\bSafari\//],
]

const systems = [
  ['iPhone', /\biPhone\b/],
  ['iPad', /\biPad\b/],
  ['Android', /\bAndroid\b/],
  ['Windows', /\bWindows\b/],
  ['ChromeOS', /\bCrOS\b/],
  ['macOS', /\bMac OS X\b|\bMacintosh\b/],
  ['Linux', /\bLinux\b|\bX11\b/],
]

const firstMatch = (table, text) => table.find(([, pattern]) => pattern.test(text))?.[0]

/**
 * A user agent in words, like “Chrome on Linux”. Good for telling one's own devices apart, and for nothing else.
 *
 * @param {string} userAgent
 * @returns {{ name: string, kind: 'desktop' | 'mobile' | 'other' }}
 */
export function summarize(userAgent) {
  const system = firstMatch(systems, userAgent)
  const browser = firstMatch(browsers, userAgent)
  const program = /^(?!Mozilla\/)([\w.-]+)/.exec(userAgent)?.[1]
  const kind = /\b(?:iPhone|iPad|Android|Mobile)\b/.test(userAgent) ? 'mobile' : browser ? 'desktop' : 'other'
  const what = browser ?? program ?? 'Unknown browser'
  return { name: system ? `${what} on ${system}` : what, kind }
}
