import { percentDecoded } from './percent.ts'

/** Outcome of a look at a request target: null when it is sound, else a sentence that is fit for the browser. */
export type PathCheck = (target: string) => string | null

const ambiguous = 'The path could be read in two ways.'
/** Nobody means more; each level is another pass over the path. */
const maximumLevels = 5

/** What most requests look like: nothing in it means anything else to anybody, but for capitals. */
const plainTarget = /^(?=\/)(?:\/[\w~!$&'()*+,=:@-]+(?:\.+[\w~!$&'()*+,=:@-]+)*)*\/?(?:\?[!"$-~]*)?$/
/** What browsers send in a path as it is: visible ASCII without `"#<>?\` and the backtick. */
const pathCharacters = /^[!$-;=@-[\]-_a-~]*$/
const queryCharacters = /^[!"$-~]*$/
const loosePercent = /%(?![0-9a-f]{2})/i
/** `.` and `..`, also with more dots and blanks, which some drop, or before what some cut off. */
const dotSegment = /\/ *\.[. ]*(?=[/;?#]|$)/

/**
 * The one rule for what is routed, judged and forwarded: a path is never normalised, it is refused where somebody behind
 * could read another path in it than the gateway does. What is sound goes on byte for byte.
 *
 * Every reading that servers are known for must belong to the same prefix as the path as it stands: decoded any number of
 * times, an encoded slash taken for a slash, path parameters, trailing dots and blanks dropped, empty segments dropped,
 * letters in either case, cut at an encoded `?` or `#` (OWASP ASVS 1.1.1, 1.5.3). Linear in the length of the target.
 *
 * @param prefixes the paths of the gateway's endpoints and of all upstreams, no two alike but for case; `/` is the rest
 */
export function createPathCheck(prefixes: readonly string[]): PathCheck {
  const folded = prefixes.map(prefix => plainest(prefix))
  const depth = Math.max(1, ...folded.map(prefix => prefix.split('/').length - 1))
  const foldedOf = new Map<string | undefined, string>(prefixes.map(prefix => [prefix, plainest(prefix)]))

  /** What is wrong with a path as it is read after some decoding. */
  const faultOf = (reading: string, owner: string | undefined): string | null => {
    if (hasControlCharacter(reading)) return 'The path encodes a control character.'
    if (reading.includes('\\')) return 'The path has a backslash.'
    if (dotSegment.test(reading)) return 'The path has a dot segment.'
    return ownerOf(plainest(reading, depth), folded) === foldedOf.get(owner) ? null : ambiguous
  }

  return target => {
    const queryAt = target.indexOf('?')
    const path = queryAt < 0 ? target : target.slice(0, queryAt)
    const owner = ownerOf(path, prefixes)
    if (plainTarget.test(target)) return ownerOf(path.toLowerCase(), folded) === foldedOf.get(owner) ? null : ambiguous
    const spelling = misspelt(path, queryAt < 0 ? '' : target.slice(queryAt + 1))
    if (spelling !== null) return spelling

    let reading = path
    for (let level = 0; ; level += 1) {
      const fault = faultOf(reading, owner)
      if (fault !== null) return fault
      const next = level === 0 ? percentDecoded(reading) : decodeLoosely(reading)
      if (next === null) return "The path's percent-encoding is not UTF-8."
      if (next === reading) return null
      if (level === maximumLevels) return 'The path is percent-encoded too many times.'
      // A slash that is encoded within a parameter is dropped with it, or is a slash.
      const early = withoutParameters(reading)
      if (withoutParameters(next) !== withoutParameters(decodeLoosely(early))) return ambiguous
      reading = next
    }
  }
}

/** The longest of the prefixes under which a path lies, on a segment boundary; `/` holds every path. */
export function ownerOf(path: string, prefixes: readonly string[]): string | undefined {
  let owner: string | undefined
  for (const prefix of prefixes) {
    const below = prefix === '/' || path === prefix || (path.startsWith(prefix) && path[prefix.length] === '/')
    if (below && (owner === undefined || prefix.length > owner.length)) owner = prefix
  }
  return owner
}

/** What is wrong with a target before anything is decoded. */
function misspelt(path: string, query: string): string | null {
  if (!path.startsWith('/')) return 'The request target must be a path.'
  if (path.includes('//')) return 'The path has an empty segment.'
  if (path.includes('\\')) return 'The path has a backslash.'
  if (!pathCharacters.test(path)) return 'The path has characters that must be percent-encoded.'
  if (loosePercent.test(path)) return 'The path has a percent sign that encodes nothing.'
  return queryCharacters.test(query) ? null : 'The query has characters that must be percent-encoded.'
}

/**
 * The first segments of a path, each less everything that some server drops. Each step brings a segment only nearer to a
 * plain name, so whoever takes but some of the steps, or ends the path at an encoded `?` or `#`, sees no other prefix than
 * who takes none, if who takes all does not.
 */
function plainest(path: string, depth = Number.POSITIVE_INFINITY): string {
  const names: string[] = []
  for (const segment of path.split('/')) {
    const name = withoutTrailing(segment.split(/[;?#]/, 1)[0] ?? '')
    if (name !== '') names.push(name)
    if (names.length === depth) break
  }
  // Both ways, since some letters have a twin in ASCII in one of them only (the Kelvin sign, the long s).
  return `/${names.join('/').toUpperCase().toLowerCase()}`
}

/** A name as Windows takes it: trailing dots and blanks are none of it. */
function withoutTrailing(name: string): string {
  let end = name.length
  while (end > 0 && (name[end - 1] === '.' || name[end - 1] === ' ')) end -= 1
  return name.slice(0, end)
}

function withoutParameters(path: string): string {
  return path.includes(';') ? path.replace(/;[^/]*/g, '') : path
}

/** Decodes what can be decoded: a percent sign that stands for itself must not hide what comes after it. */
function decodeLoosely(path: string): string {
  return path.replace(
    /(?:%[0-9a-f]{2})+/gi,
    run => percentDecoded(run) ?? run.replace(/%[0-7][0-9a-f]/gi, decodeURIComponent),
  )
}

function hasControlCharacter(path: string): boolean {
  for (let index = 0; index < path.length; index += 1) {
    const code = path.charCodeAt(index)
    if (code < 0x20 || code === 0x7f) return true
  }
  return false
}
