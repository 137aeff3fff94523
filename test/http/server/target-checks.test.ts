import fastify from 'fastify'
import { type Test, test } from 'tap'
import { createPathCheck } from '../../../src/core/request-path.ts'
import { createTrusts, registerClientAddress } from '../../../src/http/server/client-address.ts'
import { registerTargetChecks } from '../../../src/http/server/target-checks.ts'
import { rawRequest } from '../../support/browser.ts'

interface Line {
  level: string
  msg: string
  peer?: string
  repeated?: number
}

/** A server with nothing but the checks, and its warnings. */
async function startChecked(t: Test, { publicUrl = 'https://app.example', trusted = [] as string[] } = {}) {
  const warnings: object[] = []
  const log = { warn: (fields: object) => void warnings.push(fields) }
  const app = fastify({ http: { requireHostHeader: false } })
  const trusts = createTrusts(trusted)
  registerClientAddress(app, { trusts, log })
  registerTargetChecks(app, { publicOrigin: new URL(publicUrl), trusts, checkPath: createPathCheck([]) })
  app.get('/', async request => request.client)
  await app.listen({ host: '127.0.0.1', port: 0 })
  t.teardown(() => app.close())
  const { port } = app.server.address() as { port: number }
  const ask = async (lines: string[], start = 'GET / HTTP/1.1') => {
    const answer = await rawRequest(port, `${[start, ...lines, 'Connection: close'].join('\r\n')}\r\n\r\n`)
    return Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1] ?? 0)
  }
  return { ask, port, warnings: warnings as Line[] }
}

// A link, a cache or a virtual host that goes by the Host would serve the attacker's name with the application's content.
test('the host must be the application, and well-formed', async t => {
  const { ask } = await startChecked(t)
  const good = ['app.example', 'APP.example', 'app.example:443', 'app.example:1', 'localhost', 'localhost:8080']
  for (const host of [...good, 'x.localhost', '127.0.0.1:80', '10.1.2.3', '[::1]', '[fd00::1]:8080'])
    t.equal(await ask([`Host: ${host}`]), 200, host)
  const bad = ['evil.test', '', 'app.example.evil.test', 'evilapp.example', 'app.example.', 'user@app.example']
  const odd = [
    'app.example:x',
    'app.example:',
    'app.example:123456',
    'app example',
    'app.example/x',
    'app.example#',
    '[::1',
    '[x]',
    '[1.2.3.4]',
  ]
  for (const host of [
    ...bad,
    ...odd,
    'http://app.example',
    'app.example, app.example',
    'localhost.evil.test',
    '127.1',
    '0x7f.0.0.1',
    'evil.test#localhost',
  ])
    t.equal(await ask([`Host: ${host}`]), 400, host)
  t.equal(await ask([]), 400, 'missing')
  t.equal(await ask([], 'GET / HTTP/1.0'), 200, 'missing, where the version knows none')
  t.equal(await ask(['Host: evil.test'], 'GET / HTTP/1.0'), 400)
})

test('X-Forwarded-Host counts in its place when a trusted proxy sends it, and is nothing otherwise', async t => {
  const open = await startChecked(t)
  t.equal(await open.ask(['Host: app.example', 'X-Forwarded-Host: evil.test']), 200)
  t.equal(await open.ask(['Host: gateway.internal', 'X-Forwarded-Host: app.example']), 400)
  const { ask } = await startChecked(t, { trusted: ['127.0.0.0/8'] })
  t.equal(await ask(['Host: gateway.internal:8080', 'X-Forwarded-Host: app.example']), 200)
  t.equal(await ask(['Host: app.example']), 200)
  for (const host of ['evil.test', '', 'evil.test, app.example', 'app.example, evil.test', 'user@app.example'])
    t.equal(await ask(['Host: app.example', `X-Forwarded-Host: ${host}`]), 400, host)
  t.equal(await ask(['Host: user@x', 'X-Forwarded-Host: app.example']), 400)
  t.equal(await ask(['Host: app.example', 'X-Forwarded-Proto: http']), 400)
})

// TRACE answers with the request, cookies included (XST); CONNECT and the asterisk form are for proxies.
test('methods and targets that are not for a gateway are refused', async t => {
  const { ask } = await startChecked(t)
  for (const method of ['TRACE', 'PROPFIND', 'PURGE', 'LOCK', 'SEARCH', 'LINK', 'QUERY'])
    t.ok([400, 405].includes(await ask(['Host: app.example'], `${method} / HTTP/1.1`)), method)
  for (const start of ['OPTIONS *', 'GET http://evil.test/', 'GET //evil.test/', 'GET /\\evil.test'])
    t.equal(await ask(['Host: app.example'], `${start} HTTP/1.1`), 400, start)
})

test('forwarding headers that are not believed are warned of, once for many', async t => {
  const open = await startChecked(t)
  for (let count = 0; count < 20; count += 1)
    await open.ask(['Host: app.example', `X-Forwarded-For: 1.2.3.${count}`, 'Forwarded: for=1.2.3.4'])
  t.strictSame(open.warnings, [{ peer: '127.0.0.1', variable: 'TRUSTED_PROXIES' }])
  const trusted = await startChecked(t, { trusted: ['127.0.0.1'] })
  await trusted.ask(['Host: app.example', 'X-Forwarded-For: 1.2.3.4'])
  t.strictSame(trusted.warnings, [])
})

// Node counts to 2000 headers and forgets the rest: a check for one header then passes, and so does what it should stop.
test('headers that are too many are refused, not dropped', async t => {
  const { ask } = await startChecked(t)
  const many = (count: number) => Array.from({ length: count }, (_, index) => `X-${index}: 1`)
  t.equal(await ask(['Host: localhost', ...many(150)]), 200)
  for (const count of [200, 500, 2500]) t.equal(await ask(['Host: localhost', ...many(count)]), 431, String(count))
})
