import type { Config, Fault } from './load.ts'

/** The rules between the settings of Redis, each with a sentence for the operator. */
export function redisFaults(config: Config): Fault[] {
  const { redisUrl, redisCluster, redisSentinels, redisSentinelMaster, redisSentinelPassword, redisCaFile } = config
  const faults: Fault[] = []
  const fault = (variable: string, problem: string, example?: string) =>
    void faults.push({ variable, problem, example })

  if (redisUrl === undefined) {
    const needs = [
      ['REDIS_CLUSTER', redisCluster],
      ['REDIS_SENTINELS', redisSentinels],
      ['REDIS_CA_FILE', redisCaFile],
    ] as const
    for (const [variable, value] of needs) {
      if (value !== undefined) fault(variable, 'needs REDIS_URL, which gives scheme and credentials')
    }
  } else if (redisCaFile !== undefined && redisUrl.protocol !== 'rediss:') {
    fault('REDIS_CA_FILE', 'is of no use with a REDIS_URL that is redis://: rediss:// has TLS')
  }
  if (redisCluster !== undefined && redisSentinels !== undefined)
    fault('REDIS_SENTINELS', 'is given beside REDIS_CLUSTER: Redis is the one or the other')
  if (redisCluster !== undefined && !/^\/?0?$/.test(redisUrl?.pathname ?? ''))
    fault('REDIS_URL', 'must not name a database beside REDIS_CLUSTER: a cluster has but one')
  if (redisSentinels !== undefined && redisSentinelMaster === undefined)
    fault('REDIS_SENTINEL_MASTER', 'is required with REDIS_SENTINELS', 'mymaster')
  if (redisSentinels === undefined && redisSentinelMaster !== undefined)
    fault('REDIS_SENTINEL_MASTER', 'is given without REDIS_SENTINELS, who would know it')
  if (redisSentinels === undefined && redisSentinelPassword !== undefined)
    fault('REDIS_SENTINEL_PASSWORD', 'is given without REDIS_SENTINELS, who would ask for it')
  return faults
}
