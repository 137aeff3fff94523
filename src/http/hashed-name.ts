/**
 * Whether a file's name carries a hash of its content, as bundlers write them: `index-BX3kZ1aQ.js` (Vite, Rollup),
 * `main.3f2a9c1b.chunk.js` (webpack, Rspack, Parcel), `main-ABCDEF12.css` (Angular, esbuild).
 *
 * In doubt it does not. About one in six of Vite's names reads like words (`DiwrgTda`, `SemiBold`) and is not recognised:
 * that costs a conditional request, while a word taken for a hash would keep a stale file in browsers for a year.
 */
export function carriesHash(name: string): boolean {
  if (/\.html?$/i.test(name)) return false
  const isCode = /\.(m?js|css)(\.map)?$/.test(name)
  return name
    .split('.')
    .slice(0, -1)
    .some((part, index) => endsInHex(part) || endsInHash(part, index === 0, isCode))
}

function endsInHex(part: string): boolean {
  const hex = /(?:^|[-_])([0-9a-f]{8,64})$/.exec(part)?.[1] ?? ''
  return /\d/.test(hex) && /[a-f]/.test(hex)
}

/** Eight characters after a dash or a dot: of base64url, or upper-case letters and digits (base32). */
function endsInHash(part: string, isFirst: boolean, isCode: boolean): boolean {
  const [, start, hash] = /^(|.*-)([\w-]{8})$/.exec(part) ?? []
  if (hash === undefined) return false
  // Nuxt's files have no other name than their hash.
  if (start === '' && isFirst && !isCode) return false
  const isBase32 = /^[A-Z\d]{8}$/.test(hash) && /[A-Z]/.test(hash)
  if (isBase32 && isCode && start !== '') return true
  const mixed = /[a-z]/.test(hash) && /[A-Z]/.test(hash)
  return (mixed || isBase32) && runsIn(hash) >= 4
}

/** How often a text changes its kind of character: words do so seldom, random text in every other place. */
function runsIn(text: string): number {
  return text.match(/[A-Z]?[a-z]+|[A-Z]+|\d+|[-_]/g)?.length ?? 0
}
