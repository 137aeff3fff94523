import { connect } from 'node:net'

/** How the other side took some bytes. */
export interface Exchange {
  /** All that came back, as latin1. */
  text: string
  /** Whether the other side closed of its own accord, before we hung up. */
  closed: boolean
}

/** No answer, and no end of the connection, for this long is a hang. */
const patienceMs = 5000

/**
 * Sends bytes (latin1) on a connection of their own, and reads until the other side closes it.
 *
 * @param hangUp hangs up after the bytes: at once, or after so many milliseconds
 * @throws when the connection is still open 5 s later
 */
export function exchange(port: number, bytes: string, hangUp: 'never' | number = 'never'): Promise<Exchange> {
  return new Promise((resolve, reject) => {
    const received: Buffer[] = []
    let hungUp = false
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    const end = () => {
      hungUp = true
      socket.end()
    }
    const later = hangUp === 'never' ? undefined : setTimeout(end, hangUp)
    const limit = setTimeout(() => {
      socket.destroy()
      reject(new Error(`the connection hangs, after ${JSON.stringify(Buffer.concat(received).toString('latin1'))}`))
    }, patienceMs)
    const finish = () => {
      clearTimeout(limit)
      clearTimeout(later)
      socket.destroy()
      resolve({ text: Buffer.concat(received).toString('latin1'), closed: !hungUp })
    }
    socket.on('connect', () => socket.write(Buffer.from(bytes, 'latin1')))
    socket.on('data', chunk => received.push(chunk))
    socket.on('end', finish)
    socket.on('close', finish)
    // A reset is an end, too.
    socket.on('error', () => undefined)
  })
}

/** One answer on the wire. */
export interface Answer {
  status: number
  /** Lower-case names. */
  headers: [name: string, value: string][]
  body: string
}

/**
 * The answers in what a server sent before it closed, read to the letter (RFC 9112).
 *
 * @param methods of the requests, in order; what is beyond them counts as GET
 * @param brokenOff whether the last answer may be incomplete
 * @throws when it is no HTTP
 */
export function answersIn(text: string, methods: readonly string[], brokenOff = false): Answer[] {
  const answers: Answer[] = []
  let rest = text
  while (rest !== '') {
    const end = rest.indexOf('\r\n\r\n')
    if (end < 0 && brokenOff) break
    const [start = '', ...lines] = rest.slice(0, Math.max(0, end)).split('\r\n')
    const status = Number(/^HTTP\/1\.1 ([1-5]\d\d) [\x20-\x7e]*$/.exec(start)?.[1] ?? 0)
    if (status === 0) throw new Error(`no status line: ${JSON.stringify(rest.slice(0, 200))}`)
    const headers = lines.map((line): [string, string] => {
      const [, name = '', value = ''] = /^([\w!#$%&'*+.^`|~-]+): ?([\t\x20-\x7e\x80-\xff]*)$/.exec(line) ?? []
      if (name === '') throw new Error(`no header line: ${JSON.stringify(line)}`)
      return [name.toLowerCase(), value]
    })
    rest = rest.slice(end + 4)
    if (status < 200) continue
    const all = (wanted: string) => headers.filter(([name]) => name === wanted).map(([, value]) => value)
    const [lengths, codings] = [all('content-length'), all('transfer-encoding')]
    if (lengths.length + codings.length > 1) throw new Error(`two ways to frame an answer: ${JSON.stringify(headers)}`)
    let body = ''
    if (methods[answers.length] === 'HEAD' || status === 204 || status === 304) body = ''
    else if (lengths[0] !== undefined) {
      if (!/^\d+$/.test(lengths[0])) throw new Error(`no length: ${lengths[0]}`)
      body = rest.slice(0, Number(lengths[0]))
      if (body.length < Number(lengths[0]) && !brokenOff) throw new Error(`a short body: ${JSON.stringify(text)}`)
      rest = rest.slice(body.length)
    } else if (codings[0] !== undefined) {
      const length = chunkedLength(rest)
      if (length === null && !brokenOff) throw new Error(`chunks without an end: ${JSON.stringify(text)}`)
      body = rest.slice(0, length ?? rest.length)
      rest = rest.slice(body.length)
    } else {
      body = rest
      rest = ''
    }
    answers.push({ status, headers, body })
  }
  return answers
}

/** How long a chunked body is on the wire, its end included; null when it is cut off, or none. */
function chunkedLength(text: string): number | null {
  for (let at = 0; ; ) {
    const [line = '', digits = ''] = /^([\da-f]{1,8})\r\n/.exec(text.slice(at, at + 10)) ?? []
    if (line === '') return null
    const next = at + line.length + Number.parseInt(digits, 16) + 2
    if (text.slice(next - 2, next) !== '\r\n') return null
    if (/^0+$/.test(digits)) return next
    at = next
  }
}
