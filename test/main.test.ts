import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { test } from 'tap'
import { freePort } from './support/free-port.ts'
import { startProvider } from './support/provider.ts'
import { startRedis } from './support/redis.ts'

const main = join(process.cwd(), 'build/src/main.js')

function start(environment: Record<string, string>): ChildProcess & { output: () => string } {
  const child = spawn(process.execPath, [main], { env: { PATH: process.env.PATH, ...environment }, stdio: 'pipe' })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', data => {
      output += data
    })
  return Object.assign(child, { output: () => output })
}

async function answers(url: string, status: number): Promise<Record<string, unknown>> {
  for (let tries = 0; tries < 100; tries += 1) {
    const response = await fetch(url).catch(() => null)
    if (response?.status === status) return (await response.json()) as Record<string, unknown>
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  throw new Error(`${url} never answered ${status}`)
}

test('a faulty configuration ends with code 2, all faults, and no secret', async t => {
  const child = start({
    OIDC_CLIENT_SECRET: 'canary',
    SESSION_KEYS: 'canary',
    OIDC_ISUER: 'canary',
    NODE_ENV: 'production',
  })
  const [code] = await once(child, 'close')
  t.equal(code, 2)
  for (const name of [
    'OIDC_ISSUER is required',
    'OIDC_CLIENT_ID is required',
    'SESSION_KEYS must be',
    'OIDC_ISUER is not',
  ])
    t.match(child.output(), name)
  t.notMatch(child.output(), 'canary')
})

test('the process is ready when Redis and the provider answer, alive without them, and ends when told', async t => {
  const [provider, redis, port, adminPort] = await Promise.all([startProvider(), startRedis(), freePort(), freePort()])
  t.teardown(() => Promise.all([provider.close(), redis.stop()]))
  // What is told to be ready before it takes requests is sent requests that are refused.
  redis.pause()
  const child = start({
    ...provider.env(),
    REDIS_URL: redis.url,
    HOST: '127.0.0.1',
    PORT: String(port),
    ADMIN_PORT: String(adminPort),
    PUBLIC_URL: `http://localhost:${port}`,
  })
  t.teardown(() => child.kill('SIGKILL'))
  const internal = `http://127.0.0.1:${adminPort}`
  t.match(await answers(`${internal}/readyz`, 503), { status: 'starting' })
  redis.resume()
  t.match(await answers(`${internal}/readyz`, 200), { status: 'ok', checks: { store: 'ok', provider: 'ok' } })
  t.equal((await fetch(`http://127.0.0.1:${port}/`)).status, 404)
  redis.pause()
  t.match(await answers(`${internal}/readyz`, 503), { status: 'unavailable', checks: { store: 'unavailable' } })
  t.match(await answers(`${internal}/healthz`, 200), { status: 'ok' })
  redis.resume()
  await answers(`${internal}/readyz`, 200)
  for (const path of ['/healthz', '/readyz', '/metrics'])
    t.equal((await fetch(`http://127.0.0.1:${port}${path}`)).status, 404, `${path} is not public`)
  child.kill('SIGTERM')
  const [code] = await once(child, 'close')
  t.equal(code, 0)
})

test('a port in use is told plainly', async t => {
  const [provider, adminPort] = await Promise.all([startProvider(), freePort()])
  t.teardown(provider.close)
  const child = start({
    ...provider.env(),
    PORT: String(provider.port),
    HOST: '127.0.0.1',
    ADMIN_PORT: String(adminPort),
  })
  const [code] = await once(child, 'close')
  t.equal(code, 1)
  t.match(child.output(), /cannot listen: .*EADDRINUSE/)
})
