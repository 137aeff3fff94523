import type { ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { eventually } from './eventually.ts'
import { freePort } from './free-port.ts'
import { endServer, launch, redisServer, startRedis, type TestRedis } from './redis.ts'

/** A Redis with two replicas, watched by three sentinels, two of which suffice to replace it. */
export interface TestSentinels {
  readonly nodes: readonly TestRedis[]
  /** The sentinels as `REDIS_SENTINELS` takes them. */
  readonly list: string
  readonly masterName: string
  readonly password: string
  /** Whom the sentinels take for the master. */
  master(): Promise<TestRedis>
  /** Resolves when all that was written so far is on both replicas, too. */
  replicated(): Promise<void>
  stop(): Promise<void>
}

const masterName = 'main'

/** @param password of the sentinels themselves */
export async function startSentinels(password: string): Promise<TestSentinels> {
  const dir = mkdtempSync(join(tmpdir(), 'redis-sentinel-'))
  const quick = ['--repl-diskless-sync-delay', '0', '--repl-ping-replica-period', '1', '--dir', dir]
  const first = await startRedis({ args: [...quick, '--dbfilename', 'first.rdb'] })
  const others = await Promise.all(
    ['second', 'third'].map(name =>
      startRedis({ args: [...quick, '--dbfilename', `${name}.rdb`, '--replicaof', '127.0.0.1', `${first.port}`] }),
    ),
  )
  const nodes = [first, ...others]
  const sentinels = await Promise.all([1, 2, 3].map(index => startSentinel(dir, index, first.port, password)))
  const [asked] = sentinels as [(typeof sentinels)[number], ...typeof sentinels]
  const master = async () => {
    const reply = (await asked.client.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', masterName)) as [string, string]
    return nodes.find(({ port }) => String(port) === reply[1]) ?? first
  }
  const complete = async () => {
    const reply = await Promise.all(
      sentinels.map(({ client }) => client.call('SENTINEL', 'MASTER', masterName) as Promise<Record<string, string>>),
    )
    return reply.every(about => {
      const text = JSON.stringify(about)
      return /"num-slaves"[,:]"2"/.test(text) && /"num-other-sentinels"[,:]"2"/.test(text)
    })
  }
  const caughtUp = async () =>
    (await Promise.all(others.map(({ client }) => client.info('replication')))).every(about =>
      about.includes('master_link_status:up'),
    )
  if (!(await eventually(caughtUp, 30_000))) throw new Error('the replicas do not catch up')
  if (!(await eventually(complete, 30_000))) throw new Error('the sentinels do not find each other')
  return {
    nodes,
    list: sentinels.map(({ port }) => `127.0.0.1:${port}`).join(', '),
    masterName,
    password,
    master,
    async replicated() {
      const { client } = await master()
      await client.publish('any', '')
      await client.wait(2, 2000)
    },
    async stop() {
      for (const { client } of sentinels) client.disconnect()
      await Promise.all(sentinels.map(({ server }) => endServer(server, 'SIGKILL')))
      await Promise.all(nodes.map(node => node.stop()))
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

async function startSentinel(
  dir: string,
  index: number,
  masterPort: number,
  password: string,
): Promise<{ server: ChildProcess; port: number; client: Redis }> {
  const port = await freePort()
  const file = join(dir, `sentinel-${index}.conf`)
  writeFileSync(
    file,
    [
      `port ${port}`,
      'bind 127.0.0.1',
      `dir ${dir}`,
      `requirepass ${password}`,
      `sentinel monitor ${masterName} 127.0.0.1 ${masterPort} 2`,
      `sentinel down-after-milliseconds ${masterName} 4000`,
      `sentinel failover-timeout ${masterName} 5000`,
      '',
    ].join('\n'),
  )
  const server = await launch(redisServer(), [file, '--sentinel'], '+monitor master')
  if (server === null) throw new Error('the port of a sentinel was taken')
  const client = new Redis({ port, password, maxRetriesPerRequest: 2, retryStrategy: () => 50 })
  client.on('error', () => undefined)
  return { server, port, client }
}
