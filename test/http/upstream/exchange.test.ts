import { EventEmitter } from 'node:events'
import type { ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import tap, { test } from 'tap'
import { createUpstreamClient } from '../../../src/http/upstream/client.ts'
import type { UpstreamAnswer } from '../../../src/http/upstream/exchange.ts'
import { startUpstream } from '../../support/upstream.ts'

const upstream = await startUpstream()
const timeoutMs = 500
const client = createUpstreamClient({ origin: upstream.url, timeoutMs, ca: undefined })
tap.teardown(async () => {
  client.destroy()
  await upstream.close()
})

/** Asks for a path on behalf of a client that stays. */
function ask(target: string): Promise<UpstreamAnswer> {
  const stays = Object.assign(new EventEmitter(), { destroyed: false }) as unknown as ServerResponse
  const request = { method: 'GET', target, headers: {}, body: null, repeatable: true, client: stays }
  return new Promise((resolve, reject) =>
    client.request(request, (failure, answer) => (answer === undefined ? reject(failure) : resolve(answer))),
  )
}

test('an answer that has come at once is whole, and one that has not is a stream', async t => {
  upstream.respond = (_request, response) => void response.end('{"a":1}')
  const small = await ask('/small')
  t.same(small.body, Buffer.from('{"a":1}'))
  upstream.respond = (_request, response) => {
    response.write('begun')
    setTimeout(() => response.end(', and ended'), 100)
  }
  const { body } = await ask('/slow')
  t.notOk(Buffer.isBuffer(body))
  const pieces: Buffer[] = []
  for await (const piece of body as AsyncIterable<Buffer>) pieces.push(piece)
  t.equal(Buffer.concat(pieces).toString(), 'begun, and ended')
})

// A download on a bad line, or behind a player that has buffered enough: the upstream would go on, were it let.
test('a reader may rest for longer than the upstream may stand still', async t => {
  const length = 8 * 1024 * 1024
  upstream.respond = (_request, response) => void response.end(Buffer.alloc(length, 'x'))
  const { body } = await ask('/large')
  if (Buffer.isBuffer(body)) return t.fail('it cannot have come at once')
  let read = 0
  for (let rests = 0; rests < 3; rests += 1) {
    await new Promise(resolve => body.once('readable', resolve))
    read += (body.read() as Buffer | null)?.length ?? 0
    await sleep(2 * timeoutMs)
  }
  for await (const piece of body as AsyncIterable<Buffer>) read += piece.length
  t.equal(read, length)
})

test('an upstream that stands still is given up, whatever was read of its answer', async t => {
  upstream.respond = (_request, response) => void response.writeHead(200, { 'content-length': 10 }).write('begun')
  const { body } = await ask('/stuck')
  const reading = async () => {
    for await (const _piece of body as AsyncIterable<Buffer>);
  }
  await t.rejects(reading(), { code: 'upstream_timeout' })
})
