import { Cluster, Redis, type RedisOptions } from 'ioredis'
import type { Endpoint } from '../../core/address.ts'

/** What can be said of a link. */
export type LinkOptions = Omit<RedisOptions, 'replyMapping'>

/** Where Redis is, and how it is run. */
export interface RedisAddress {
  /** Scheme, credentials and database; host and port, too, unless one of the lists below stands for them. */
  url: URL
  ca?: Buffer | undefined
  /** Some nodes of a Redis Cluster. */
  cluster?: readonly Endpoint[] | undefined
  sentinel?: { nodes: readonly Endpoint[]; master: string; password: string | undefined } | undefined
}

/** Commands give up after this, so that a hanging Redis is a 503 and not a hanging request. */
const commandTimeoutMs = 2000

/**
 * How long a broken link rests between two attempts: far less than replicas give each other, after an outage, to write the
 * activity they remember.
 */
const longestRestMs = 500

/** How long a link rests before its next attempt. */
export const restMs = (attempt: number) => Math.min(50 * attempt, longestRestMs)

/** A master that hangs while its links stay open shows in no error: its successor is looked for this often. */
const lookForMastersMs = 2000

/**
 * Options of every link, whatever it is for. Nothing is sent again: after a cut link ioredis would repeat what was under
 * way, and a repeated GETDEL tells its caller that the transaction never was.
 */
function common({ url, ca }: RedisAddress): LinkOptions {
  return {
    ...(url.username !== '' && { username: decodeURIComponent(url.username) }),
    ...(url.password !== '' && { password: decodeURIComponent(url.password) }),
    ...(url.protocol === 'rediss:' && { tls: ca === undefined ? {} : { ca } }),
    autoResendUnfulfilledCommands: false,
    autoResubscribe: false,
    connectTimeout: commandTimeoutMs,
    commandTimeout: commandTimeoutMs,
    // A link on which nothing comes back is dead, even if nobody says so.
    socketTimeout: commandTimeoutMs + 1000,
    // One more command that an operator would have to permit.
    disableClientInfo: true,
  }
}

/** Opens a link to a server: the one that the URL names, or the master that the sentinels name at this moment. */
export function openLink(address: RedisAddress, options: LinkOptions): Redis {
  const { url, sentinel } = address
  const shared = { ...common(address), db: Number(url.pathname.slice(1)) || 0, ...options }
  if (sentinel === undefined) {
    const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
    return new Redis({ ...shared, host, port: Number(url.port || 6379) })
  }
  return new Redis({
    ...shared,
    sentinels: [...sentinel.nodes],
    name: sentinel.master,
    ...(sentinel.password !== undefined && { sentinelPassword: sentinel.password }),
    ...(shared.tls !== undefined && { sentinelTLS: shared.tls, enableTLSForSentinelMode: true }),
    sentinelCommandTimeout: commandTimeoutMs,
    sentinelRetryStrategy: restMs,
    // Sentinels say when the master changes: one that merely was replaced would go on answering.
    failoverDetector: true,
    sentinelReconnectStrategy: restMs,
  })
}

/** Opens a link to one node of a cluster. */
export function openNode(address: RedisAddress, node: Endpoint, options: LinkOptions): Redis {
  return new Redis({ ...common(address), ...options, ...node })
}

/**
 * Opens a cluster.
 *
 * Commands that a node refused, and so did not run, are tried again for as long as a command may take: MOVED, ASK,
 * TRYAGAIN, CLUSTERDOWN. Those whose link broke are not: they may have run.
 */
export function openCluster(address: RedisAddress, nodes: readonly Endpoint[]): Cluster {
  const cluster = new Cluster([...nodes], {
    redisOptions: common(address),
    retryDelayOnFailover: 0,
    slotsRefreshTimeout: commandTimeoutMs / 2,
    clusterRetryStrategy: restMs,
    // Names stay names: certificates are for them.
    dnsLookup: (host, callback) => callback(null, host),
  })
  const send = cluster.sendCommand.bind(cluster)
  // A node that is being connected to has its commands wait, within their time. What waits for a cluster would wait for ever.
  cluster.sendCommand = (command, ...rest) => {
    if (cluster.status === 'ready' || command.name === 'cluster') return send(command, ...rest)
    command.reject(new Error('the cluster is not ready'))
    return command.promise
  }
  // ioredis's own timer may outlive the cluster.
  const looking = setInterval(() => cluster.status === 'ready' && cluster.refreshSlotsCache(), lookForMastersMs)
  looking.unref()
  cluster.once('end', () => clearInterval(looking))
  return cluster
}
