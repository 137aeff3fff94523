import { randomInt } from 'node:crypto'

/** No vowels and no digits: whoever makes up the address of a page can put neither words nor telephone numbers on it. */
const letters = 'bcdfghjkmnpqrstvwxz'

/** A new reference, which a page shows and a line of the log repeats: `kfzt-qwbn`. */
export function newReference(): string {
  const part = () => Array.from({ length: 4 }, () => letters[randomInt(letters.length)]).join('')
  return `${part()}-${part()}`
}

/** Whether a text has the form of a reference. */
export function isReference(text: string | null): text is string {
  return text !== null && new RegExp(`^[${letters}]{4}-[${letters}]{4}$`).test(text)
}
