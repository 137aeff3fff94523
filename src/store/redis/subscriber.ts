import type { Redis } from 'ioredis'
import { type LinkOptions, openLink, openNode, type RedisAddress, restMs } from './address.ts'
import { type LinkListener, nameOf, type RedisCommands } from './client.ts'

/** The link on which other replicas are heard. */
export interface Subscriber {
  /** Begins anew: the server may be another by now. */
  follow(): void
  disconnect(): void
}

/** A server that hangs, or is cut off, closes no link: one that does not answer is left after this and a command's time. */
const checkEveryMs = 2000

/**
 * Subscribes to a channel, on a link of its own, and does so again on each new link.
 *
 * In a cluster any node tells what was published at any other. One that is lost is followed by another, drawn by lot. ioredis
 * has a subscriber for clusters, which forgets a subscription that was cut off and stays with a node that hangs.
 */
export function createSubscriber(options: {
  address: RedisAddress
  commands: RedisCommands
  channel: string
  onMessage: (message: string) => void
  listener: Pick<LinkListener, 'onError' | 'onReady'>
  /** From 0 to 1. */
  random: () => number
}): Subscriber {
  const { address, commands, channel, onMessage, listener, random } = options
  let link: Redis
  let attempts = 0
  let timer: NodeJS.Timeout | undefined
  let closed = false

  const openSome = (): { opened: Redis; name: string } => {
    // An end is the end: the next attempt may have to go elsewhere.
    const single: LinkOptions = { retryStrategy: () => null, maxRetriesPerRequest: null }
    const seeds = address.cluster
    if (seeds === undefined) return { opened: openLink(address, single), name: 'subscriber' }
    const known = commands.cluster?.nodes('all').map(({ options: { host = '', port = 0 } }) => ({ host, port })) ?? []
    const nodes = known.length > 0 ? known : seeds
    const node = nodes[Math.floor(random() * nodes.length)] ?? nodes[0]
    if (node === undefined) throw new TypeError('a cluster has nodes')
    const opened = openNode(address, node, single)
    return { opened, name: `subscriber at ${nameOf(opened)}` }
  }

  const open = () => {
    const { opened, name } = openSome()
    link = opened
    opened.on('error', error => listener.onError(name, error))
    opened.on('message', (_channel, message) => onMessage(message))
    opened.on('ready', () => {
      opened.subscribe(channel).then(
        () => {
          attempts = 0
          listener.onReady(name)
        },
        error => {
          // What it may not hear, for lack of a permission, would be missed by nobody.
          listener.onError(name, error)
          opened.disconnect()
        },
      )
    })
    const check = setInterval(() => {
      if (opened.status === 'ready') opened.ping().catch(() => opened.disconnect())
    }, checkEveryMs)
    check.unref()
    opened.once('end', () => {
      clearInterval(check)
      if (closed) return
      attempts += 1
      timer = setTimeout(open, restMs(attempts))
    })
  }
  open()

  return {
    follow: () => link.disconnect(),
    disconnect() {
      closed = true
      clearTimeout(timer)
      link.disconnect()
    },
  }
}
