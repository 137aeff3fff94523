import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { eventually } from './eventually.ts'
import { freePort } from './free-port.ts'
import { startRedis, type TestRedis } from './redis.ts'

/** A Redis Cluster of the test's own: three masters, each with a replica. */
export interface TestCluster {
  readonly nodes: readonly TestRedis[]
  /** The nodes as `REDIS_CLUSTER` takes them. */
  readonly list: string
  /** Those that serve slots now. */
  masters(): Promise<TestRedis[]>
  /** The one that serves a key's slot now, as the others see it. */
  masterOf(key: string): Promise<TestRedis>
  slotOf(key: string): Promise<number>
  idOf(node: TestRedis): Promise<string>
  /** All keys, from whichever master has them. */
  keys(): Promise<string[]>
  /** Resolves when all that was written so far is on the replicas, too. */
  replicated(): Promise<void>
  /** Moves a slot to another master; `during` runs when about half of its keys have gone over. */
  moveSlot(slot: number, to: TestRedis, during: () => Promise<void>): Promise<void>
  stop(): Promise<void>
}

const masterCount = 3
const slots = 16_384

/** Starts one; a master that is silent for longer than the time limit counts as gone, and its replica takes over. */
export async function startCluster(nodeTimeoutMs = 1000): Promise<TestCluster> {
  const dir = mkdtempSync(join(tmpdir(), 'redis-cluster-'))
  const nodes = await Promise.all(
    Array.from({ length: 2 * masterCount }, (_, index) => startNode(dir, index, nodeTimeoutMs)),
  )
  const idOf = async (node: TestRedis) => String(await node.client.cluster('MYID'))

  await form(nodes, idOf)

  const slotOf = async (key: string) =>
    Number(await Promise.any(nodes.map(node => node.client.cluster('KEYSLOT', key))))
  const masterOfSlot = async (slot: number) => {
    for (const node of nodes) {
      const ranges = await node.client.cluster('SLOTS').catch(() => null)
      const range = ranges?.find(([from, to]) => Number(from) <= slot && slot <= Number(to))
      const port = (range?.[2] as [string, number] | undefined)?.[1]
      const master = nodes.find(candidate => candidate.port === port)
      if (master !== undefined) return master
    }
    throw new Error(`nobody serves slot ${slot}`)
  }
  const cluster: TestCluster = {
    nodes,
    list: nodes.map(({ port }) => `127.0.0.1:${port}`).join(','),
    slotOf,
    idOf,
    async masters() {
      const roles = await Promise.all(nodes.map(node => node.client.role().catch(() => ['gone'])))
      return nodes.filter((_node, index) => roles[index]?.[0] === 'master')
    },
    masterOf: async key => masterOfSlot(await slotOf(key)),
    async keys() {
      const all = await Promise.all((await cluster.masters()).map(node => node.keys()))
      return all.flat()
    },
    async replicated() {
      for (const node of await cluster.masters()) {
        // WAIT is about the offset of this client's last write.
        await node.client.publish('any', '')
        await node.client.wait(1, 2000)
      }
    },
    async moveSlot(slot, to, during) {
      const from = await masterOfSlot(slot)
      const [fromId, toId] = await Promise.all([idOf(from), idOf(to)])
      await to.client.cluster('SETSLOT', slot, 'IMPORTING', fromId)
      await from.client.cluster('SETSLOT', slot, 'MIGRATING', toId)
      const keys = (await from.client.cluster('GETKEYSINSLOT', slot, 1000)) as string[]
      const half = Math.ceil(keys.length / 2)
      const move = (names: string[]) =>
        names.length === 0 ? null : from.client.migrate('127.0.0.1', to.port, '', 0, 5000, 'KEYS', ...names)
      await move(keys.slice(0, half))
      await during()
      await move(keys.slice(half))
      await move((await from.client.cluster('GETKEYSINSLOT', slot, 1000)) as string[])
      for (const node of [to, from]) await node.client.cluster('SETSLOT', slot, 'NODE', toId)
    },
    async stop() {
      await Promise.all(nodes.map(node => node.stop()))
      rmSync(dir, { recursive: true, force: true })
    },
  }
  return cluster
}

async function startNode(dir: string, index: number, nodeTimeoutMs: number): Promise<TestRedis> {
  return await startRedis({
    args: [
      ...['--cluster-enabled', 'yes', '--dir', dir, '--cluster-config-file', `nodes-${index}.conf`],
      ...['--cluster-port', `${await freePort()}`, '--cluster-node-timeout', `${nodeTimeoutMs}`],
      ...['--cluster-replica-validity-factor', '0', '--cluster-allow-replica-migration', 'no'],
      ...['--repl-diskless-sync-delay', '0', '--repl-ping-replica-period', '1'],
    ],
  })
}

/** Makes six servers one cluster. */
async function form(nodes: TestRedis[], idOf: (node: TestRedis) => Promise<string>): Promise<void> {
  const share = Math.ceil(slots / masterCount)
  const [first] = nodes as [TestRedis, ...TestRedis[]]
  const all = (holds: (node: TestRedis) => Promise<boolean>) => async () =>
    (await Promise.all(nodes.map(node => holds(node).catch(() => false)))).every(Boolean)
  const within = async (what: string, holds: () => Promise<boolean>) => {
    if (!(await eventually(holds, 30_000))) throw new Error(`the cluster does not come up: ${what}`)
  }
  for (const [index, { client }] of nodes.entries()) {
    await client.cluster('SET-CONFIG-EPOCH', index + 1)
    if (index < masterCount) {
      const last = Math.min(slots, (index + 1) * share) - 1
      await client.cluster('ADDSLOTSRANGE', index * share, last)
    }
    const bus = (await client.config('GET', 'cluster-port')) as string[]
    await first.client.cluster('MEET', '127.0.0.1', nodes[index]?.port ?? 0, bus[1] ?? '')
  }
  const info = async (node: TestRedis) => String(await node.client.cluster('INFO'))
  await within(
    'they meet',
    all(async node => /cluster_known_nodes:6\b/.test(await info(node))),
  )
  for (const [index, node] of nodes.entries()) {
    const master = nodes[index - masterCount]
    if (master === undefined) continue
    const id = await idOf(master)
    await within('a replica knows its master', () =>
      node.client.cluster('REPLICATE', id).then(
        () => true,
        () => false,
      ),
    )
  }
  await within(
    'it is whole',
    all(async node => /cluster_state:ok/.test(await info(node))),
  )
  await within(
    'the replicas have caught up',
    all(async node => !(await node.client.info('replication')).includes('master_link_status:down')),
  )
}
