/** Markup that needs no further escaping. Only the `html` tag makes it. */
export interface Html {
  readonly markup: string
}

const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }

function render(value: unknown): string {
  if (value === undefined || value === null || value === false) return ''
  if (Array.isArray(value)) return value.map(render).join('')
  if (typeof value === 'object' && 'markup' in value) return String(value.markup)
  return String(value).replace(/[&<>"']/g, char => entities[char] ?? char)
}

/** Template tag: every value is escaped, unless it is markup made by this tag; lists are joined, nothing is nothing. */
export function html(strings: TemplateStringsArray, ...values: unknown[]): Html {
  return { markup: strings.reduce((page, text, at) => page + render(values[at - 1]) + text) }
}

/** Markup that comes from oidc-provider itself, taken as it is. */
export function trusted(markup: string): Html {
  return { markup }
}
