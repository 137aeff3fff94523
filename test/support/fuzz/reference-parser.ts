/** A request as the strictest reader of RFC 9112 finds it. */
export interface ReadRequest {
  method: string
  target: string
  body: string
}

/** What some bytes say. */
export interface Reading {
  requests: ReadRequest[]
  /**
   * What follows the last of them: nothing; something that no two readers need to agree on, after which nothing may be
   * served; part of a request; or whatever, since the last of them was the last of the connection.
   */
  end: 'nothing' | 'fault' | 'part' | 'closed'
}

const token = /^[\w!#$%&'*+.^`|~-]+$/
const fieldValue = /^[\t\x20-\x7e\x80-\xff]*$/

/** Reads requests from bytes (as latin1) and takes nothing that could be read in another way. */
export function readStrictly(bytes: string): Reading {
  const requests: ReadRequest[] = []
  let rest = bytes
  for (;;) {
    // Line ends before a request are nothing (RFC 9112 §2.2), also half of one: some refuse them, nobody takes them for more.
    rest = rest.replace(/^[\r\n]+/, '')
    if (rest === '') return { requests, end: 'nothing' }
    const head = headOf(rest)
    if (typeof head === 'string') return { requests, end: head }
    const body = bodyOf(rest.slice(head.length), head)
    if (typeof body === 'string') return { requests, end: body }
    requests.push({ method: head.method, target: head.target, body: body.text })
    rest = rest.slice(head.length + body.length)
    if (head.last) return { requests, end: 'closed' }
  }
}

interface Head {
  method: string
  target: string
  all(name: string): string[]
  length: number
  last: boolean
  version: string
}

function headOf(text: string): Head | 'fault' | 'part' {
  const end = text.indexOf('\r\n\r\n')
  const lines = (end < 0 ? text : text.slice(0, end)).split('\r\n')
  const fields: [string, string][] = []
  // RTSP has the framing of HTTP, and Node's parser does not tell which of them it was.
  const [, method = '', target = '', version = ''] =
    /^(\S+) +(\S+) +(?:HTTP|RTSP)\/(1\.[01])$/.exec(lines[0] ?? '') ?? []
  if (method === '' || !token.test(method)) return end < 0 && lines.length === 1 ? 'part' : 'fault'
  for (const [at, line] of lines.slice(1).entries()) {
    const colon = line.indexOf(':')
    const [name, value] = [line.slice(0, Math.max(0, colon)), line.slice(colon + 1).replace(/^[\t ]+|[\t ]+$/g, '')]
    if (!token.test(name) || !fieldValue.test(value)) return end < 0 && at === lines.length - 2 ? 'part' : 'fault'
    fields.push([name.toLowerCase(), value])
  }
  if (end < 0) return 'part'
  const all = (wanted: string) => fields.filter(([name]) => name === wanted).map(([, value]) => value)
  if (all('host').length !== 1) return 'fault'
  const connection = all('connection')
    .join(',')
    .toLowerCase()
    .split(/[\s,]+/)
  const last = connection.includes('close') || (version === '1.0' && !connection.includes('keep-alive'))
  return { method, target, all, length: end + 4, last, version }
}

/** The body of a request, and how long it is on the wire. */
function bodyOf(text: string, { all, version }: Head): { text: string; length: number } | 'fault' | 'part' {
  const [lengths, codings] = [all('content-length'), all('transfer-encoding')]
  if (lengths.length + codings.length > 1) return 'fault'
  if (codings.length === 1)
    return codings[0]?.toLowerCase() === 'chunked' && version === '1.1' ? chunksOf(text) : 'fault'
  if (lengths.length === 0) return { text: '', length: 0 }
  if (!/^\d{1,15}$/.test(lengths[0] ?? '')) return 'fault'
  const length = Number(lengths[0])
  return text.length < length ? 'part' : { text: text.slice(0, length), length }
}

function chunksOf(text: string): { text: string; length: number } | 'fault' | 'part' {
  let [at, body] = [0, '']
  for (;;) {
    const line = lineAt(text, at)
    if (line === null) return 'part'
    const [, digits = ''] = /^([\da-f]{1,12})(?:;[\t\x20-\x7e\x80-\xff]*)?$/i.exec(line) ?? []
    if (digits === '') return 'fault'
    const size = Number.parseInt(digits, 16)
    at += line.length + 2
    if (size === 0) break
    if (text.length < at + size + 2) return 'part'
    body += text.slice(at, at + size)
    at += size
    if (text.slice(at, at + 2) !== '\r\n') return 'fault'
    at += 2
  }
  for (;;) {
    const line = lineAt(text, at)
    if (line === null) return 'part'
    at += line.length + 2
    if (line === '') return { text: body, length: at }
    const colon = line.indexOf(':')
    if (!token.test(line.slice(0, Math.max(0, colon))) || !fieldValue.test(line.slice(colon + 1))) return 'fault'
  }
}

function lineAt(text: string, at: number): string | null {
  const end = text.indexOf('\r\n', at)
  return end < 0 ? null : text.slice(at, end)
}
