import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** How the way of published messages fails, while commands and their answers go through. */
export type PublishFault = 'dead' | 'half-open' | 'late'

/** A gateway's way to Redis on which what is published can be kept from it. */
export interface PublishLink {
  readonly url: string
  /** `dead`: subscriptions are cut and refused; `half-open`: nothing comes any more; `late`: it comes after so long. */
  fail(fault: PublishFault): void
  mend(): void
  /** How many bytes of published messages came through or were kept back. */
  readonly published: number
  close(): Promise<void>
}

/** By how much messages are late, in milliseconds. */
export const lateByMs = 3000

export async function startPublishLink(redis: { port: number }): Promise<PublishLink> {
  const sockets = new Set<Socket>()
  const subscribers = new Set<Socket>()
  let fault: PublishFault | null = null
  let published = 0

  const server = createServer(near => {
    const far = connect(redis.port, '127.0.0.1')
    near.on('data', chunk => {
      if (/\bsubscribe\b/i.test(chunk.toString('latin1'))) subscribers.add(near)
      if (fault === 'dead' && subscribers.has(near)) near.destroy()
      else far.write(chunk)
    })
    far.on('data', chunk => {
      if (subscribers.has(near)) published += chunk.length
      if (fault === null || !subscribers.has(near)) near.write(chunk)
      else if (fault === 'late') setTimeout(() => near.write(chunk), lateByMs)
    })
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        other.destroy()
      })
    }
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))

  return {
    url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`,
    get published() {
      return published
    },
    fail(kind) {
      fault = kind
      if (kind === 'dead') for (const socket of subscribers) socket.destroy()
    },
    mend() {
      fault = null
    },
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      }),
  }
}
