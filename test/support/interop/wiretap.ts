import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createRelay, readBody, withoutFraming } from '../provider/relay.ts'

/** A request to the provider and its answer, as they went over the wire. */
export interface Exchange {
  method: string
  path: string
  query: URLSearchParams
  headers: Record<string, string | string[] | undefined>
  /** The fields of a posted form. */
  form: URLSearchParams
  status: number
  location: string | undefined
  /** Of the answer. */
  text: string
}

/** An address in front of a provider; whatever passes is written down and not changed. */
export interface Wiretap {
  readonly url: string
  readonly exchanges: Exchange[]
  /** Those to this path so far. */
  at(path: string): Exchange[]
  close(): Promise<void>
}

/** Starts a wiretap on 127.0.0.1 in front of a port there. */
export async function startWiretap(target: number): Promise<Wiretap> {
  const relay = createRelay(target)
  const exchanges: Exchange[] = []
  const server = createServer(async (message, res) => {
    try {
      const sent = await readBody(message)
      const { method = 'GET', url = '/', rawHeaders, headers } = message
      const reply = await relay.send(method, url, rawHeaders, sent)
      const { pathname, searchParams } = new URL(url, 'http://provider')
      const kept = withoutFraming(reply.rawHeaders)
      const at = kept.findIndex((name, index) => index % 2 === 0 && name.toLowerCase() === 'location')
      exchanges.push({
        method,
        path: pathname,
        query: searchParams,
        headers,
        form: new URLSearchParams(method === 'POST' ? sent.toString() : ''),
        status: reply.status,
        location: at < 0 ? undefined : kept[at + 1],
        text: reply.body.toString(),
      })
      res.writeHead(reply.status, kept).end(reply.body)
    } catch {
      res.destroy()
    }
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    exchanges,
    at: path => exchanges.filter(exchange => exchange.path === path),
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
        relay.close()
      }),
  }
}
