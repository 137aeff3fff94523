import tap, { test } from 'tap'
import { rawRequest } from '../../support/browser.ts'
import { startGateway } from '../../support/gateway.ts'
import { startProvider } from '../../support/provider.ts'
import { startUpstream } from '../../support/upstream.ts'

const [provider, upstream] = await Promise.all([startProvider(), startUpstream()])
const gateway = await startGateway({
  provider,
  upstreams: { '/open': upstream.url },
  env: { UPSTREAM_U0_AUTH: 'none', UPSTREAM_U0_WEBSOCKET: 'true' },
})
tap.teardown(async () => {
  await gateway.close()
  await Promise.all([provider.close(), upstream.close()])
})
tap.beforeEach(() => upstream.clear())

const host = `Host: localhost:${gateway.port}\r\n`
const canary = `GET /open/smuggled HTTP/1.1\r\n${host}\r\n`
const ask = (bytes: string, port = gateway.port, idleMs = 300) => rawRequest(port, bytes, { idleMs })
const statuses = (answers: string) =>
  [...answers.matchAll(/HTTP\/1\.1 (\d+) [A-Z]/g)].map(([, status]) => Number(status))
const reached = () => upstream.requests.map(({ method, url }) => `${method} ${url}`)
const chunks = '0\r\n\r\n'

// A proxy in front that goes by the other one of two readings takes the second request for the body of the first, and lets
// it through unseen, with whatever it adds of its own.
const refused: Record<string, string> = {
  'a coding like chunked': `POST /open/x HTTP/1.1\r\n${host}Transfer-Encoding: xchunked\r\n\r\n${chunks}`,
  'no coding': `GET /open/x HTTP/1.1\r\n${host}Transfer-Encoding: identity\r\n\r\n`,
  'an empty coding': `POST /open/x HTTP/1.1\r\n${host}Transfer-Encoding:\r\n\r\n`,
  'a coding before chunked': `POST /open/x HTTP/1.1\r\n${host}Transfer-Encoding: gzip, chunked\r\n\r\n${chunks}`,
  'two codings': `POST /open/x HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n${chunks}`,
  'chunked twice': `POST /open/x HTTP/1.1\r\n${host}Transfer-Encoding: chunked, chunked\r\n\r\n${chunks}`,
  'a coding in HTTP/1.0': `POST /open/x HTTP/1.0\r\n${host}Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}`,
  'a length after the coding': `POST /open/x HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n${chunks}`,
  'a length before the coding': `POST /open/x HTTP/1.1\r\n${host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n${chunks}`,
  'two lengths': `POST /open/x HTTP/1.1\r\n${host}Content-Length: 0\r\nContent-Length: 0\r\n\r\n`,
  'a signed length': `POST /open/x HTTP/1.1\r\n${host}Content-Length: +0\r\n\r\n`,
  'a list of lengths': `POST /open/x HTTP/1.1\r\n${host}Content-Length: 0, 0\r\n\r\n`,
  'an empty length': `POST /open/x HTTP/1.1\r\n${host}Content-Length:\r\n\r\n`,
  'a blank before the colon': `POST /open/x HTTP/1.1\r\n${host}Transfer-Encoding : chunked\r\n\r\n${chunks}`,
  'a folded line': `POST /open/x HTTP/1.1\r\n${host}Transfer-Encoding:\r\n chunked\r\n\r\n${chunks}`,
  'a bare LF': `GET /open/x HTTP/1.1\r\n${host}A: b\nC: d\r\n\r\n`,
  'two hosts': `GET /open/x HTTP/1.1\r\n${host}${host}\r\n`,
  'two hosts of which one is ours': `GET /open/x HTTP/1.1\r\n${host}HOST: evil.test\r\n\r\n`,
  'an odd expectation beside': `POST /open/x HTTP/1.1\r\n${host}Expect: magic\r\nTransfer-Encoding: gzip, chunked\r\n\r\n${chunks}`,
  'a path that cannot be decoded beside': `POST /%zz HTTP/1.1\r\n${host}Transfer-Encoding: gzip, chunked\r\n\r\n${chunks}`,
}

for (const [name, bytes] of Object.entries(refused)) {
  test(`${name}: one refusal, and nothing after it is served`, async t => {
    const answers = await ask(bytes + canary.repeat(2))
    t.same(statuses(answers), [400])
    t.match(answers, /\r\nconnection: close\r\n/i)
    t.match(answers, /\r\n\r\n\{"type":"urn:coatcheck:problem:bad_request"/)
    t.same(reached(), [])
  })
}

test('other versions are refused, and no version', async t => {
  for (const bytes of [
    'GET /open/x\r\n\r\n',
    `GET /open/x HTTP/2.0\r\n${host}\r\n`,
    `GET /open/x HTTP/0.9\r\n${host}\r\n`,
  ]) {
    t.same(statuses(await ask(bytes)), [400], bytes)
    t.same(statuses(await ask(bytes + canary)), [400], bytes)
  }
  t.same(reached(), [])
})

test('what follows the last request of a connection is not served, and takes nothing from its answer', async t => {
  upstream.respond = (_request, response) => void setTimeout(() => response.end('late'), 100)
  const last = `GET /open/last HTTP/1.1\r\n${host}Connection: close\r\n\r\n`
  t.match(await ask(last + canary), /^HTTP\/1\.1 200 [\s\S]*\r\n\r\nlate$/)
  t.same(reached(), ['GET /last'])
})

// A proxy in front would give the second answer to whoever asks next on that connection.
test('a request that was refused for its head has no second answer for its body', async t => {
  const head = `GET /open/x HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\n`
  t.same(statuses(await ask(`${head}x\r\n${canary}`)), [400])
  t.same(reached(), [])
})

test('what is refused in the middle leaves what came before it', async t => {
  const before = `GET /open/before HTTP/1.1\r\n${host}\r\n`
  t.same(statuses(await ask(`${before}${refused['two hosts']}${canary}`, gateway.port, 1500)), [200, 400])
  t.same(reached(), ['GET /before'])
})

test('upgrades are held against the same rules', async t => {
  const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\n'
  const handshake = 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n'
  const lines = `${host}${upgrade}${handshake}Origin: http://localhost:${gateway.port}\r\n`
  for (const extra of [host, 'Transfer-Encoding: gzip, chunked\r\n', 'Transfer-Encoding: chunked\r\n'])
    t.same(statuses(await ask(`GET /open/ws HTTP/1.1\r\n${lines}${extra}\r\n${canary}`)), [400], extra)
  t.same(statuses(await ask(`GET /open/ws HTTP/2.0\r\n${lines}\r\n${canary}`)), [400], 'another version')
  await ask(`${refused['two hosts']}GET /open/ws HTTP/1.1\r\n${lines}\r\n`)
  t.same(reached(), [])
  t.same(statuses(await ask(`GET /open/ws HTTP/1.1\r\n${lines}\r\n`)), [400], 'the upstream has no websockets')
  t.same(reached(), ['GET /ws'], 'and was asked')
})

// Node hands over the connection of an upgrade although answers to earlier requests are still to go over it. To give it to
// a second answer is an error, which nobody catches: one packet ended the process, without a session.
test('an upgrade behind a request without an answer ends the connection, and nothing else', async t => {
  const upgrade = `GET /open/2 HTTP/1.1\r\n${host}Connection: Upgrade\r\nUpgrade: x\r\n\r\n`
  upstream.respond = (_request, response) => void setTimeout(() => response.end('late'), 100)
  t.same(statuses(await ask(`GET /open/1 HTTP/1.1\r\n${host}\r\n${upgrade}`)), [])
  t.notOk(statuses(await ask(`GET /open/1 HTTP/1.1\r\n${host}Expect: magic\r\n\r\n${upgrade}`)).includes(200))
  t.notOk(reached().includes('GET /2'))
  t.same(statuses(await ask(upgrade)), [200], 'the gateway lives, and may ignore an upgrade')
})

test('what is plain is served: chunked in any case, and one request after the other', async t => {
  const chunked = (coding: string) =>
    `POST /open/x HTTP/1.1\r\n${host}Transfer-Encoding: ${coding}\r\n\r\n3;a=b\r\nabc\r\n${chunks}`
  const several = chunked('chunked') + chunked('Chunked') + canary
  t.same(statuses(await ask(several, gateway.port, 1500)), [200, 200, 200])
  t.same(
    upstream.requests.map(({ url, body }) => [url, body.toString()]),
    [
      ['/x', 'abc'],
      ['/x', 'abc'],
      ['/smuggled', ''],
    ],
  )
  t.same(statuses(await ask(`GET /open/x HTTP/1.0\r\n${host}\r\n`)), [200])
})

test('the internal listener holds requests against the same rules', async t => {
  const port = Number(new URL(gateway.internalUrl).port)
  const next = `GET /healthz HTTP/1.1\r\n${host}\r\n`
  t.same(statuses(await ask(`GET /healthz HTTP/1.1\r\n${host}${host}\r\n${next}`, port)), [400])
  const upgrade = `GET /healthz HTTP/1.1\r\n${host}Connection: Upgrade\r\nUpgrade: x\r\n\r\n`
  t.same(statuses(await ask(upgrade, port)), [200], 'there are no upgrades there')
})
