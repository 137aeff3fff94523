/** Reads a setting word by word; words may stand in double quotes, with `\"` and `\\` inside. */
export interface WordReader {
  /** A claim's path: names separated by dots; null when there is none here. */
  path(): string[] | null
  /** A word that goes up to `=`, `,` or `;`, without the blanks around it; null when there is none here. */
  word(): string | null
  /** Whether this mark comes next; it is passed over. */
  take(mark: string): boolean
  /** Whether nothing is left. */
  done(): boolean
  /** How many characters were read, counted from one at the next. */
  position(): number
}

const quoted = /^\s*"((?:[^"\\]|\\["\\])*)"\s*/
const bareWord = /^\s*([^\s=,;"][^=,;"]*)/
const bareName = /^\s*([^\s.=,;"][^.=,;"]*)/

export function createWordReader(text: string): WordReader {
  let rest = text
  const read = (bare: RegExp): string | null => {
    const inQuotes = quoted.exec(rest)
    const match = inQuotes ?? bare.exec(rest)
    if (match === null) return null
    rest = rest.slice(match[0].length)
    const word = match[1] ?? ''
    return inQuotes === null ? word.trimEnd() : word.replace(/\\(.)/g, '$1')
  }
  const take = (mark: string): boolean => {
    const found = rest.startsWith(mark)
    if (found) rest = rest.slice(mark.length)
    return found
  }
  return {
    path() {
      const names: string[] = []
      do {
        const name = read(bareName)
        if (name === null) return null
        names.push(name)
      } while (take('.'))
      return names
    },
    word: () => read(bareWord),
    take,
    done: () => rest.trim() === '',
    position: () => text.length - rest.length + 1,
  }
}
