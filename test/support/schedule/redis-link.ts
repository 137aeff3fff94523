import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** How a link fails: broken off; nothing comes through for a while; or what is asked gets there, and no answer back. */
export type LinkFault = 'cut' | 'stall' | 'deaf'

/** A gateway's way to Redis, which can fail. */
export interface RedisLink {
  readonly url: string
  fail(fault: LinkFault): void
  mend(): void
  /** Whether a name as long as those of lease holders ever went this way. */
  hasSent(name: string): boolean
  close(): Promise<void>
}

/** Listens on a port of its own and passes everything on. */
export async function startRedisLink(redis: { port: number }): Promise<RedisLink> {
  const pairs = new Set<readonly [near: Socket, far: Socket]>()
  const names = new Set<string>()
  let fault: LinkFault | null = null

  const breakOff = () => {
    for (const pair of pairs) for (const socket of pair) socket.destroy()
  }
  const server = createServer(near => {
    if (fault === 'cut' || fault === 'deaf') return void near.destroy()
    const far = connect(redis.port, '127.0.0.1')
    const pair = [near, far] as const
    pairs.add(pair)
    let tail = ''
    near.on('data', chunk => {
      const text = tail + chunk.toString('latin1')
      for (const [name] of text.matchAll(/(?<![\w-])[\w-]{43}(?![\w-])/g)) names.add(name)
      tail = text.slice(-43)
      if (!far.destroyed) far.write(chunk)
    })
    far.on('data', chunk => {
      if (!near.destroyed && fault !== 'deaf') near.write(chunk)
    })
    for (const socket of pair) {
      socket.setNoDelay(true)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        pairs.delete(pair)
        for (const each of pair) each.destroy()
      })
      if (fault === 'stall') socket.pause()
    }
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))

  return {
    url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`,
    fail(kind) {
      fault = kind
      if (kind === 'cut') breakOff()
      if (kind === 'stall') for (const pair of pairs) for (const socket of pair) socket.pause()
    },
    mend() {
      // Answers that were kept back never come: for their askers the link broke.
      if (fault === 'deaf') breakOff()
      fault = null
      for (const pair of pairs) for (const socket of pair) socket.resume()
    },
    hasSent: name => names.has(name),
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        breakOff()
      }),
  }
}
