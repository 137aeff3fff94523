import { createBrowser } from '../../support/browser.ts'
import { throughProvider } from '../../support/login.ts'
import { startProvider } from '../../support/provider.ts'
import { type Ground, startCoatcheck, startCountedRedis } from '../ground.ts'
import { cpuMs } from '../process.ts'
import { figure, type Section } from '../report.ts'
import { median } from '../statistics.ts'

const atATime = 8

interface Round {
  loginsPerSecond: number
  cpuPer1000: number
  redisCpuPer1000: number
  redisRun: number
  busy: number
}

/** Whole logins: the gateway, the provider's pages, the callback with its token request, and back. */
export async function loginsSection(ground: Ground): Promise<Section> {
  const [rounds, logins] = ground.quick ? [5, 40] : [7, 200]
  const provider = await startProvider()
  ground.toStop.push(provider.close)
  const redis = await startCountedRedis(ground)
  const env = { ...provider.env(), RATE_LIMIT_LOGIN: '999999/s' }
  const { pid, port } = await startCoatcheck(ground, redis, { env })
  const url = `http://localhost:${port}`

  let users = 0
  const logIn = async () => {
    users += 1
    const user = `user-${users}`
    provider.autoLogin = user
    const browser = createBrowser({ origin: url })
    const end = await throughProvider(browser, await browser.navigate(`${url}/bff/login?returnUrl=/in`), provider, user)
    if (browser.jar.get('__Host-coatcheck') === undefined) throw new Error(`a login failed: ${end.status} ${end.url}`)
  }
  const logInMany = async (count: number) => {
    let left = count
    const loop = async () => {
      while (left > 0) {
        left -= 1
        await logIn()
      }
    }
    await Promise.all(Array.from({ length: atATime }, loop))
    // The provider's journal is of no use here.
    provider.clear()
  }

  ground.say('warming up: logins')
  await logInMany(2 * logins)
  const results: Round[] = []
  for (let round = 0; round < rounds; round += 1) {
    const before = { at: performance.now(), cpu: cpuMs(pid), redisCpu: redis.cpuMs(), commands: await redis.commands() }
    await logInMany(logins)
    const seconds = (performance.now() - before.at) / 1000
    const cpu = cpuMs(pid) - before.cpu
    const commands = await redis.commands()
    results.push({
      loginsPerSecond: logins / seconds,
      cpuPer1000: (cpu / logins) * 1000,
      redisCpuPer1000: ((redis.cpuMs() - before.redisCpu) / logins) * 1000,
      redisRun: (commands.run - before.commands.run) / logins,
      busy: cpu / (seconds * 1000),
    })
    ground.say(`round ${round + 1} of ${rounds}: ${(logins / seconds).toFixed(0)} logins/s`)
  }
  const of = (field: keyof Round) => median(results.map(result => result[field]))
  const head = ['', 'measured/s', 'CPU ms a login', 'one core could/s', 'Redis CPU ms', 'Redis cmds run', 'core busy']
  const row = [
    'a login',
    figure(of('loginsPerSecond')),
    figure(of('cpuPer1000') / 1000),
    figure(1_000_000 / of('cpuPer1000')),
    figure(of('redisCpuPer1000') / 1000),
    figure(of('redisRun')),
    `${(of('busy') * 100).toFixed(0)}%`,
  ]
  return {
    title: 'Logins, one core',
    tables: [{ head, rows: [row] }],
    goals: [],
    notes: [
      'The code flow with PKCE, ID token and UserInfo. The provider of the tests is what holds the measured rate down; what the gateway could do is told by its CPU.',
    ],
    figures: results,
  }
}
