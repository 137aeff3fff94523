import type { Cluster, Redis } from 'ioredis'
import { type Lifetimes, tombstoneMs, warningMs } from '../store.ts'
import { openCluster, openLink, type RedisAddress, restMs } from './address.ts'
import { neverThere } from './keys.ts'
import { createScripts } from './scripts.ts'

type Argument = string | number | Buffer
type Script = (key: string, ...args: Argument[]) => Promise<unknown>

type Scripts = Record<
  | 'createSession'
  | 'touchSessions'
  | 'queueRevocation'
  | 'settleRevocation'
  | 'getSessionBuffer'
  | 'peekSessionBuffer'
  | 'endSessionBuffer'
  | 'sweepBuffer'
  | 'claimRevocationsBuffer'
  | 'beginRefreshBuffer'
  | 'renewRefresh'
  | 'saveRefresh'
  | 'abandonRefresh'
  | 'takeOnceBuffer'
  | 'countUp'
  | 'addToIndex'
  | 'markIndexEnded',
  Script
>

/** What the store asks of ioredis, with the gateway's scripts as commands; those named `…Buffer` answer with buffers. */
export type RedisClient = Pick<Redis, 'get' | 'set' | 'del' | 'exists' | 'zrem' | 'zrange'> & Scripts

/** What becomes of the links to Redis. */
export interface LinkListener {
  /** A link broke, or could not be made; `name` tells links apart. */
  onError(name: string, error: Error): void
  onReady(name: string): void
  /** Commands may go to another server from now on, which need not know all that the one before did. */
  onAnotherServer(): void
}

/** The link on which commands go. */
export interface RedisCommands {
  client: RedisClient
  /** The nodes of the cluster as far as they are known; none without a cluster. */
  cluster: Cluster | null
  /** Resolves when there is anybody to talk to: in a cluster, any of its masters. */
  ping(): Promise<unknown>
  /** What each master says of itself in a section of INFO. */
  info(section: string): Promise<string[]>
  close(): void
}

/**
 * Connects to Redis and keeps on trying. Commands wait for no link that is broken.
 */
export function createRedisCommands(
  address: RedisAddress,
  lifetimes: Lifetimes,
  listener: LinkListener,
): RedisCommands {
  const scripts = createScripts({ tombstoneMs, warningMs: warningMs(lifetimes) })
  if (address.cluster !== undefined) {
    const cluster = openCluster(address, address.cluster)
    cluster.on('error', error => listener.onError('cluster', error))
    cluster.on('ready', () => listener.onReady('cluster'))
    cluster.on('node error', (error, name) => listener.onError(name, error))
    const seen = new Set<string>()
    cluster.on('+node', (node: Redis) => {
      writeTogether(node)
      node.on('ready', () => {
        const name = nameOf(node)
        listener.onReady(name)
        // It may have been started anew, and know less than it did.
        if (seen.has(name)) listener.onAnotherServer()
        seen.add(name)
      })
    })
    watchMasters(cluster, listener)
    define(cluster, scripts.ofKeys, 1)
    define(cluster, scripts.ofBuckets, 2)
    guardBuckets(cluster as unknown as Scripts, Object.keys(scripts.ofBuckets))
    return {
      client: cluster as unknown as RedisClient,
      cluster,
      async ping() {
        if (cluster.status !== 'ready') throw new Error('the cluster is not ready')
        return await Promise.any(cluster.nodes('master').map(node => node.ping()))
      },
      info: section => Promise.all(cluster.nodes('master').map(node => node.info(section))),
      close: () => cluster.disconnect(),
    }
  }

  const client = openLink(address, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    retryStrategy: restMs,
    // After a failover the name may stand for another server by now (the first word of a refusal is its code).
    reconnectOnError: error => /^READONLY\b/.test(error.message),
  })
  writeTogether(client)
  client.on('error', error => listener.onError('server', error))
  let links = 0
  client.on('ready', () => {
    listener.onReady('server')
    links += 1
    if (links > 1) listener.onAnotherServer()
  })
  // Word from a sentinel that comes while the next link is being made ends ioredis's attempts for good.
  let closed = false
  client.on('end', () => {
    if (!closed) setTimeout(() => closed || client.connect().catch(() => {}), restMs(1))
  })
  define(client, scripts.ofKeys, 1)
  define(client, scripts.ofBuckets, 1)
  return {
    client: client as Redis & Scripts,
    cluster: null,
    ping: () => client.ping(),
    info: async section => [await client.info(section)],
    close() {
      closed = true
      client.disconnect()
    },
  }
}

/** How a node is called in a cluster. */
export const nameOf = ({ options }: Redis) => `${options.host}:${options.port}`

function define(client: Redis | Cluster, scripts: Record<string, string>, numberOfKeys: number): void {
  for (const [name, lua] of Object.entries(scripts)) client.defineCommand(name, { lua, numberOfKeys })
}

/**
 * What many requests ask in one turn of the event loop goes out in one write, which is what a command costs most. Each
 * command stays one of its own, with its own answer, error and time limit.
 */
function writeTogether(link: Redis): void {
  const send = link.sendCommand.bind(link)
  link.sendCommand = (command, ...rest) => {
    const { stream } = link
    if (stream?.writableCorked === 0) {
      stream.cork()
      setImmediate(() => stream.uncork())
    }
    return send(command, ...rest)
  }
}

/**
 * While a slot moves to another node its keys are on either, and a script that finds one missing would fail halfway or tell
 * of a session that it never was. A node looks only at the keys that it is told of: two that never exist make it refuse
 * (ASK here, TRYAGAIN there) for as long as the move takes, before anything is run.
 */
function guardBuckets(client: Scripts, names: string[]): void {
  for (const name of names.flatMap(script => [script, `${script}Buffer`]) as (keyof Scripts)[]) {
    const run: Script = client[name].bind(client)
    client[name] = (bucket, ...args) => run(bucket, neverThere(bucket), ...args)
  }
}

function watchMasters(cluster: Cluster, listener: LinkListener): void {
  let known = ''
  cluster.on('refresh', () => {
    const masters = cluster.nodes('master').map(nameOf).sort().join(' ')
    if (masters === known) return
    const another = known !== ''
    known = masters
    if (another) listener.onAnotherServer()
  })
}
