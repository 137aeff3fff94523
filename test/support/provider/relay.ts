import { Agent, type IncomingMessage, request } from 'node:http'

/** An answer of the provider behind the front, held back in full. */
export interface Reply {
  status: number
  /** Names and values in turn, as they came. */
  rawHeaders: string[]
  body: Buffer
}

/** Carries requests to the provider behind the front. */
export interface Relay {
  send(method: string, url: string, rawHeaders: string[], body: Buffer): Promise<Reply>
  close(): void
}

/** A relay to a port on 127.0.0.1. */
export function createRelay(port: number): Relay {
  const agent = new Agent({ keepAlive: true })
  return {
    send: (method, url, rawHeaders, body) =>
      new Promise((resolve, reject) => {
        const headers = withoutFraming(rawHeaders)
        if (body.length > 0 || method === 'POST') headers.push('Content-Length', String(body.length))
        const outgoing = request({ agent, host: '127.0.0.1', port, method, path: url, headers: headers as never })
        outgoing.on('error', reject)
        outgoing.on('response', response => {
          readBody(response).then(
            bytes => resolve({ status: response.statusCode ?? 0, rawHeaders: response.rawHeaders, body: bytes }),
            reject,
          )
        })
        outgoing.end(body)
      }),
    close: () => agent.destroy(),
  }
}

/** The whole body of a message. */
export async function readBody(message: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of message) chunks.push(chunk)
  return Buffer.concat(chunks)
}

const framing = new Set(['connection', 'keep-alive', 'content-length', 'transfer-encoding', 'expect'])

/** Headers without those that belong to the connection. */
export function withoutFraming(rawHeaders: string[]): string[] {
  const kept: string[] = []
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    const [name = '', value = ''] = rawHeaders.slice(at, at + 2)
    if (!framing.has(name.toLowerCase())) kept.push(name, value)
  }
  return kept
}

/** The first value of a header, null when there is none. */
export function headerOf(rawHeaders: string[], name: string): string | null {
  const at = rawHeaders.findIndex((key, index) => index % 2 === 0 && key.toLowerCase() === name.toLowerCase())
  return at < 0 ? null : (rawHeaders[at + 1] ?? null)
}

/** The headers with one of them set to a single value. */
export function setHeader(rawHeaders: string[], name: string, value: string): string[] {
  const others = rawHeaders.filter((_, index) => rawHeaders[index - (index % 2)]?.toLowerCase() !== name.toLowerCase())
  return [...others, name, value]
}
