import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { test } from 'tap'
import { eventually } from '../../support/eventually.ts'
import { startGateway } from '../../support/gateway.ts'
import { startProvider } from '../../support/provider.ts'
import { startUpstream } from '../../support/upstream.ts'

// A proxy in front keeps connections in stock. Node counts one that has not said anything yet as busy, and waits for it.
test('a gateway that stops waits for what is under way and for nothing else', async t => {
  const [provider, upstream] = await Promise.all([startProvider(), startUpstream()])
  const gateway = await startGateway({
    provider,
    env: { UPSTREAM_OPEN_PATH: '/open', UPSTREAM_OPEN_URL: upstream.url, UPSTREAM_OPEN_AUTH: 'none' },
  })
  t.teardown(() => Promise.all([provider.close(), upstream.close()]))
  let answer = () => {}
  upstream.respond = (_request, response) => {
    answer = () => response.end('answered')
  }
  const open = async (port: number, text: string) => {
    const socket = connect(port, 'localhost')
    socket.setEncoding('latin1')
    let heard = ''
    socket.on('data', chunk => (heard += chunk))
    socket.on('error', () => {})
    await once(socket, 'connect')
    if (text !== '') socket.write(text)
    return { socket, heard: () => heard }
  }
  const head = 'Host: localhost\r\n\r\n'
  const internalPort = Number(new URL(gateway.internalUrl).port)
  const idle = await Promise.all([
    open(gateway.port, ''),
    open(gateway.port, 'GET /bff/us'),
    open(gateway.port, `GET /bff/user HTTP/1.1\r\n${head}`),
  ])
  const internal = connect(internalPort, '127.0.0.1')
    .on('error', () => {})
    .resume()
  await once(internal, 'connect')
  const busy = await open(gateway.port, `GET /open/slow HTTP/1.1\r\n${head}`)
  t.ok(await eventually(() => upstream.requests.length === 1 && (idle[2]?.heard() ?? '').includes('403')))
  const closed = (socket: Socket) => eventually(() => socket.destroyed || socket.readableEnded)
  const closing = gateway.close()
  for (const { socket } of idle) t.ok(await closed(socket), 'an idle connection is closed')
  t.notOk(busy.socket.readableEnded)
  const answeredAt = performance.now()
  answer()
  await closing
  t.ok(performance.now() - answeredAt < 10_000, 'it does not wait for another request')
  t.ok(await eventually(() => /^HTTP\/1\.1 200[\s\S]*answered/.test(busy.heard())))
  t.ok(await closed(internal))
})
