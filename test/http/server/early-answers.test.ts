import tap, { type Test, test } from 'tap'
import { rawRequest } from '../../support/browser.ts'
import { startGateway } from '../../support/gateway.ts'
import { startProvider } from '../../support/provider.ts'

const provider = await startProvider()
const env = { PUBLIC_URL: 'https://app.test', CORS_ORIGINS: 'https://spa.app.test', SPA_DIR: 'src/demo/spa' }
const gateway = await startGateway({ provider, env })
tap.teardown(async () => {
  await gateway.close()
  await provider.close()
})
const ask = (lines: string) => rawRequest(gateway.port, `${lines.replaceAll('\n', '\r\n')}\r\n\r\n`, { idleMs: 200 })

function ownAnswer(t: Test, answer: string, status: number, label: string) {
  t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), label)
  t.match(answer, /\r\nstrict-transport-security: max-age=31536000; includeSubDomains\r\n/i, label)
  t.match(answer, /\r\nx-content-type-options: nosniff\r\n/i, label)
  t.match(answer, /\r\nreferrer-policy: no-referrer\r\n/i, label)
  t.match(answer, /\r\ncontent-security-policy: [^\r]*frame-ancestors 'none'/i, label)
  t.match(answer, /\r\nvary: [^\r]*Origin/i, label)
}

test('every answer of the gateway says https for a year, no framing and no sniffing, whoever gives it', async t => {
  const host = 'Host: app.test\nConnection: close'
  ownAnswer(t, await ask(`GET /bff/login/failed HTTP/1.1\n${host}`), 200, 'a page')
  ownAnswer(t, await ask(`GET / HTTP/1.1\n${host}`), 200, 'the SPA')
  ownAnswer(t, await ask(`GET /bff/logout HTTP/1.1\n${host}`), 302, 'a redirect')
  ownAnswer(t, await ask(`GET /bff/login?returnUrl=//x HTTP/1.1\n${host}`), 400, 'a fault')
  ownAnswer(t, await ask(`GET /bff/user HTTP/1.1\nX-CSRF: 1\n${host}`), 401, 'no session')
  ownAnswer(t, await ask(`GET /bff/user HTTP/1.1\n${host}`), 403, 'no header')
  ownAnswer(t, await ask(`GET /bff/none HTTP/1.1\n${host}`), 404, 'nothing')
  ownAnswer(t, await ask(`PUT /bff/user HTTP/1.1\n${host}`), 405, 'another method')
  ownAnswer(t, await ask(`GET /%zz HTTP/1.1\n${host}`), 400, 'a path that cannot be decoded')
  ownAnswer(t, await ask('GET / HTTP/1.1\nHost: evil.test\nConnection: close'), 400, 'another host')
  ownAnswer(t, await ask('GET / HTTP/1.1\nConnection: close'), 400, 'no host')
  ownAnswer(t, await ask(`GET / HTTP/1.1\n${host}\nX: ${'x'.repeat(20_000)}`), 431, 'long headers')
  ownAnswer(t, await ask(`GET / HTTP/1.1\n${host}\nContent-Length: x`), 400, 'broken framing')
  ownAnswer(t, await ask(`POST /bff/backchannel HTTP/1.1\n${host}\nExpect: magic`), 400, 'an odd expectation')
})

// TRACE repeats cookies, CONNECT opens a tunnel, and a method that nobody knows may be a route of somebody behind.
test('methods that are not for a gateway are refused, and end nothing', async t => {
  const host = 'Host: app.test\nConnection: close'
  for (const method of ['TRACE', 'PROPFIND', 'PURGE', 'QUERY', 'M-SEARCH'])
    t.match(await ask(`${method} /bff/user HTTP/1.1\n${host}\nX-CSRF: 1`), /^HTTP\/1\.1 (400|405) /, method)
  ownAnswer(t, await ask(`TRACE / HTTP/1.1\n${host}`), 405, 'TRACE')
  ownAnswer(t, await ask(`TRACK / HTTP/1.1\n${host}`), 400, 'TRACK')
  ownAnswer(t, await ask(`FOO / HTTP/1.1\n${host}`), 400, 'FOO')
  ownAnswer(t, await ask(`get / HTTP/1.1\n${host}`), 400, 'get')
  ownAnswer(t, await ask(`OPTIONS * HTTP/1.1\n${host}`), 400, 'OPTIONS *')
  ownAnswer(t, await ask('CONNECT evil.test:443 HTTP/1.1\nHost: evil.test:443'), 405, 'CONNECT')
  ownAnswer(t, await ask(`CONNECT /bff/user HTTP/1.1\n${host}`), 405, 'CONNECT of a path')
  t.match(await ask(`PRI * HTTP/2.0\n\nSM\n`), /^HTTP\/1\.1 400 /, 'HTTP/2')
  t.match(await ask(`GET /bff/none HTTP/1.1\n${host}`), /^HTTP\/1\.1 404 /, 'and the gateway lives')
})

test('plain http on this machine is not asked to become https', async t => {
  const local = await startGateway({ provider })
  t.teardown(local.close)
  for (const path of ['/bff/none', '/%zz', '/bff/user'])
    t.notMatch(await rawRequest(local.port, `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`), /strict-transport/i)
  t.notMatch(await rawRequest(local.port, 'FOO / HTTP/1.1\r\n\r\n'), /strict-transport|vary/i)
})
