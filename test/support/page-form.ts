/** A form found in a page, with its hidden and pre-filled fields. */
export interface PageForm {
  action: string
  method: string
  fields: URLSearchParams
  /** Names of all inputs, filled or not. */
  names: string[]
}

/** The first form of an HTML page, null when it has none; good for the plain pages of tests, not for any HTML. */
export function formOf(html: string): PageForm | null {
  const found = /<form\b([^>]*)>([\s\S]*?)<\/form>/i.exec(html)
  if (!found) return null
  const fields = new URLSearchParams()
  const names: string[] = []
  for (const [tag] of (found[2] ?? '').matchAll(/<input\b[^>]*>/gi)) {
    const name = attribute(tag, 'name')
    if (name === undefined) continue
    names.push(name)
    const value = attribute(tag, 'value')
    if (value !== undefined) fields.append(name, value)
  }
  const head = found[1] ?? ''
  return {
    action: attribute(head, 'action') ?? '',
    method: attribute(head, 'method')?.toUpperCase() ?? 'GET',
    fields,
    names,
  }
}

/** The page with the target and the fields of its first form replaced. */
export function withForm(html: string, action: string, fields: URLSearchParams): string {
  const inputs = [...fields].map(
    ([name, value]) => `<input type="hidden" name="${escapeHtml(name)}" value="${escapeHtml(value)}"/>`,
  )
  const form = `<form method="post" action="${escapeHtml(action)}">${inputs.join('')}</form>`
  return html.replace(/<form\b[\s\S]*?<\/form>/i, () => form)
}

function attribute(tag: string, name: string): string | undefined {
  const found = new RegExp(`\\s${name}\\s*=\\s*(?:"([^"]*)"|'([^']*)')`, 'i').exec(` ${tag}`)
  return found ? unescapeHtml(found[1] ?? found[2] ?? '') : undefined
}

const entities: Record<string, string> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" }

const unescapeHtml = (text: string) =>
  text.replace(/&(?:#x([\da-f]+)|#(\d+)|(amp|lt|gt|quot|apos));/gi, (_all, hex, decimal, name) =>
    name
      ? (entities[name.toLowerCase()] ?? '')
      : String.fromCodePoint(hex ? Number.parseInt(hex, 16) : Number(decimal)),
  )

const escapeHtml = (text: string) => text.replace(/[&<>"']/g, char => `&#${char.codePointAt(0)};`)
