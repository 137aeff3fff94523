import { BlockList, isIP, SocketAddress } from 'node:net'
import type { FastifyBaseLogger, FastifyInstance, FastifyRequest } from 'fastify'
import { createRepeats } from '../repeats.ts'

/** Who sends a request, as far as that is known for sure. */
export interface Client {
  /** The first address on the way here that no trusted proxy stands behind. */
  address: string
  /** That address and the trusted hops after it, ending in the peer: what `X-Forwarded-For` to an upstream shall be. */
  chain: readonly string[]
}

/** Whether an address is one of the trusted proxies. */
export type Trusts = (address: string) => boolean

const client = Symbol('client')

declare module 'fastify' {
  interface FastifyRequest {
    readonly client: Client
    [client]: Client | null
  }
}

/** Makes a set of addresses and CIDRs, IPv4 and IPv6. */
export function createTrusts(networks: readonly string[]): Trusts {
  if (networks.length === 0) return () => false
  const list = new BlockList()
  for (const network of networks) {
    const [address = '', prefix] = network.split('/')
    const family = isIP(address) === 6 ? 'ipv6' : 'ipv4'
    if (prefix === undefined) list.addAddress(address, family)
    else list.addSubnet(address, Number(prefix), family)
  }
  return address => list.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4')
}

/**
 * Finds the client from the peer of the connection and `X-Forwarded-For`, read from the right for as long as trusted
 * proxies wrote it: whatever stands left of the first other address anybody may have made up (RFC 7239 §8.1). An entry
 * that is no address ends the walk at the last good one.
 */
export function findClient(peer: string, forwardedFor: string, trusts: Trusts): Client {
  let address = canonical(peer) ?? peer
  const chain = [address]
  for (let end = forwardedFor.length; end > 0 && trusts(address); ) {
    const comma = forwardedFor.lastIndexOf(',', end - 1)
    const earlier = addressOf(forwardedFor.slice(comma + 1, end))
    if (earlier === null) break
    chain.push(earlier)
    address = earlier
    end = comma
  }
  return { address, chain: chain.reverse() }
}

/** Gives each request its `client`, and warns of forwarding headers from peers that are not to be believed. */
export function registerClientAddress(
  app: FastifyInstance,
  { trusts, log }: { trusts: Trusts; log: Pick<FastifyBaseLogger, 'warn'> },
): void {
  app.decorateRequest(client, null)
  app.decorateRequest('client', {
    getter(this: FastifyRequest) {
      this[client] ??= findClient(peerOf(this), String(this.headers['x-forwarded-for'] ?? ''), trusts)
      return this[client]
    },
  })
  const repeats = createRepeats(() => performance.now())
  const warn = (peer: string) => {
    // One line for all peers: they are as many as an attacker has addresses.
    const repeated = repeats('forwarded')
    if (repeated === null) return
    log.warn(
      { peer, variable: 'TRUSTED_PROXIES', ...(repeated > 0 && { repeated }) },
      'forwarding headers are ignored, since their sender is not one of TRUSTED_PROXIES',
    )
  }
  app.addHook('onRequest', (request, _reply, done) => {
    // Asked now, whoever it is: a connection that is closed, as by what follows this request, does not tell any more.
    const peer = peerOf(request)
    if (isForwarded(request) && !trusts(canonical(peer) ?? peer)) warn(canonical(peer) ?? peer)
    done()
  })
}

/** The address of the other end of the connection, as trusted proxies are compared with it. */
export function peerAddress(request: FastifyRequest): string {
  const peer = peerOf(request)
  return canonical(peer) ?? peer
}

/** What rate limits count by: an IPv4 address, or the /64 of an IPv6 address, which is what one subscriber gets. */
export function rateKeyOf(address: string): string {
  if (isIP(address) !== 6) return address
  const [head = '', tail] = (canonical(address) ?? address).split('::')
  const groups = head.split(':').filter(Boolean)
  const after = tail?.split(':').filter(Boolean) ?? []
  const zeros = tail === undefined ? 0 : 8 - groups.length - after.length
  return [...groups, ...Array.from({ length: zeros }, () => '0'), ...after].slice(0, 4).join(':')
}

function peerOf(request: FastifyRequest): string {
  return request.raw.socket.remoteAddress ?? ''
}

function isForwarded({ headers }: FastifyRequest): boolean {
  return (
    headers['x-forwarded-for'] !== undefined ||
    headers['x-forwarded-proto'] !== undefined ||
    headers['x-forwarded-host'] !== undefined ||
    headers['x-forwarded-port'] !== undefined ||
    headers.forwarded !== undefined
  )
}

/** The address in an entry of `X-Forwarded-For`, which some proxies write with a port: `1.2.3.4:5678`, `[::1]:80`. */
function addressOf(entry: string): string | null {
  const text = entry.trim()
  const [, bracketed, plain] = /^(?:\[([^\]]{1,60})\](?::\d{1,5})?|([\d.]{7,15}):\d{1,5})$/.exec(text) ?? []
  return canonical(bracketed ?? plain ?? text)
}

/** One spelling for each address: lower case, shortest, without zone, and IPv4 where it is IPv4 written as IPv6. */
function canonical(text: string): string | null {
  const family = isIP(text)
  if (family === 0) return null
  if (family === 4) return text
  const [bare = ''] = text.split('%')
  const { address } = new SocketAddress({ address: bare, family: 'ipv6' })
  const mapped = address.startsWith('::ffff:') ? address.slice('::ffff:'.length) : ''
  return isIP(mapped) === 4 ? mapped : address
}
