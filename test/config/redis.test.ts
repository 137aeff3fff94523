import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import tap, { test } from 'tap'
import { ConfigError, type Environment, loadConfig } from '../../src/config/load.ts'
import { selfSigned } from '../support/self-signed.ts'

const minimal = { OIDC_ISSUER: 'https://idp.example', OIDC_CLIENT_ID: 'client', OIDC_CLIENT_SECRET: 'secret' }
const dir = mkdtempSync(join(tmpdir(), 'redis-config-'))
const ca = join(dir, 'ca.pem')
writeFileSync(ca, selfSigned('ec').cert)
tap.teardown(() => rmSync(dir, { recursive: true, force: true }))

const plain = { REDIS_URL: 'redis://user:canary-password@redis' }
const cluster = { ...plain, REDIS_CLUSTER: 'redis-1:6379, [::1]:6380' }
const sentinel = { ...plain, REDIS_SENTINELS: 'sentinel-1:26379', REDIS_SENTINEL_MASTER: 'main' }

function faultsOf(environment: Environment): ConfigError {
  try {
    loadConfig({ ...minimal, ...environment })
  } catch (error) {
    if (error instanceof ConfigError) return error
    throw error
  }
  return new ConfigError([])
}

test('Redis is one server, a cluster, or a master that sentinels know', async t => {
  for (const sound of [
    plain,
    cluster,
    { ...cluster, REDIS_URL: 'redis://redis/0' },
    sentinel,
    { ...sentinel, REDIS_URL: 'redis://redis/3', REDIS_SENTINEL_PASSWORD: 'canary-password' },
    { REDIS_URL: 'rediss://redis', REDIS_CA_FILE: ca },
  ])
    t.same(faultsOf(sound).faults, [], JSON.stringify(sound))
  t.same(loadConfig({ ...minimal, ...cluster }).redisCluster, [
    { host: 'redis-1', port: 6379 },
    { host: '::1', port: 6380 },
  ])
})

test('settings of Redis that contradict each other, or lack their other half, are refused by name', async t => {
  const cases: [environment: Environment, ...variables: string[]][] = [
    [{ ...cluster, ...sentinel }, 'REDIS_SENTINELS'],
    [{ ...cluster, REDIS_URL: 'redis://redis/1' }, 'REDIS_URL'],
    [{ REDIS_CLUSTER: 'a:1' }, 'REDIS_CLUSTER'],
    [{ REDIS_SENTINELS: 'a:1', REDIS_SENTINEL_MASTER: 'main' }, 'REDIS_SENTINELS'],
    [{ ...plain, REDIS_SENTINELS: 'a:1' }, 'REDIS_SENTINEL_MASTER'],
    [{ ...plain, REDIS_SENTINEL_MASTER: 'main' }, 'REDIS_SENTINEL_MASTER'],
    [{ ...plain, REDIS_SENTINEL_PASSWORD: 'canary-password' }, 'REDIS_SENTINEL_PASSWORD'],
    [{ ...cluster, REDIS_SENTINEL_PASSWORD: 'canary-password' }, 'REDIS_SENTINEL_PASSWORD'],
    [{ REDIS_CA_FILE: ca }, 'REDIS_CA_FILE'],
    [{ ...plain, REDIS_CA_FILE: ca }, 'REDIS_CA_FILE'],
  ]
  for (const [environment, ...variables] of cases) {
    const { faults, message } = faultsOf(environment)
    t.same(
      faults.map(({ variable }) => variable),
      variables,
      JSON.stringify(environment),
    )
    t.notMatch(message, 'canary-password', 'and without their values')
  }
  for (const list of ['redis', 'redis:', 'redis:0', 'redis:65536', 'redis://a:1', 'a:1;b:2', '[redis]:1', 'a:1,b', ','])
    t.match(faultsOf({ ...plain, REDIS_CLUSTER: list }).faults, [{ variable: 'REDIS_CLUSTER' }], list)
})
