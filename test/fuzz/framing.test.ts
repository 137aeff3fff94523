import tap, { test } from 'tap'
import { connections, placeholder } from '../support/fuzz/framing.ts'
import { readStrictly } from '../support/fuzz/reference-parser.ts'
import { holds } from '../support/fuzz/runs.ts'
import { routes, startFuzzStage } from '../support/fuzz/stage.ts'
import { answersIn, exchange } from '../support/fuzz/wire.ts'

const stage = await startFuzzStage(tap)
const { port } = stage.gateway
const lines = stage.lines('user')
let number = 100_000

// What the gateway takes for a request of its own, a proxy in front of it has let through as the body of another one: past
// its rules, and with the next user's connection. So nothing may be served that the strictest reader does not find.
test('no request is served that is not plainly one', async t => {
  let [plain, faults, served] = [0, 0, 0]
  const plainly = new Map<string, string[]>()
  const own = new Set<string>()
  const runs = await holds(t, 'every way to say where requests end', {
    runs: 1800,
    cases: connections(lines),
    async check(written) {
      number += 1
      const bytes = written.replaceAll(placeholder, String(number))
      const { requests, end } = readStrictly(bytes)
      // Who does not know that a request is at fault may wait for more of it; nothing comes.
      const hangUp = end === 'fault' ? 1000 : end === 'part' ? 100 : 'never'
      const { text } = await exchange(port, bytes, hangUp)
      const methods = requests.map(({ method }) => method)
      const answers = answersIn(text, [...methods, methodAfter(bytes, requests.length)], true)
      const statuses = answers.map(({ status }) => status)
      if (statuses.some(status => status >= 500)) throw new Error(`the answers are ${statuses}`)
      if (answers.length > requests.length + (end === 'closed' || end === 'nothing' ? 0 : 1))
        throw new Error(`${requests.length} requests, then ${end}, had the answers ${statuses}`)
      for (const { method, target, body } of requests) {
        const name = `${method} ${target}`
        plainly.set(name, [...(plainly.get(name) ?? []), body])
      }
      own.add(String(number))
      // Of an earlier connection, too, which has been closed meanwhile.
      for (const { prefix, request } of stage.arrivals('user', true)) {
        served += 1
        const target = prefix + request.url.slice(routes[prefix].base.length)
        const name = `${request.method} ${target}`
        const bodies = plainly.get(name) ?? []
        // The beginning of one that turns out to be at fault may have gone on; it never ends.
        const partial = !request.complete && own.has(/\/own-(\d+)$/.exec(target)?.[1] ?? '')
        if (bodies.length === 0 && !partial) throw new Error(`${end}, but ${prefix} was asked ${name}`)
        if (!request.complete) continue
        const at = bodies.indexOf(request.body.toString('latin1'))
        if (at < 0) throw new Error(`a body became ${JSON.stringify(request.body.toString('latin1'))}`)
        bodies.splice(at, 1)
      }
      if (end === 'fault') faults += 1
      if (end === 'closed' && answers.length === requests.length && statuses.every(status => status === 200)) plain += 1
    },
  })
  t.ok(plain > runs / 40, `${plain} of ${runs} were plain and were served to the end`)
  t.ok(faults > runs / 5, `${faults} of ${runs} were at fault`)
  t.ok(served > runs / 5, `${served} requests were served`)
})

test('a client that leaves at any byte leaves nothing behind', async t => {
  const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n'
  const key = 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n'
  const all = [
    `POST /api/x HTTP/1.1\r\n${lines}Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX-T: v\r\n\r\n`,
    `PUT /open/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcde`,
    `GET /open/x HTTP/1.1\r\nHost: localhost\r\nOrigin: ${stage.gateway.url}\r\n${upgrade}${key}\r\n`,
  ]
  let tried = 0
  for (const bytes of all) {
    for (let end = 1; end < bytes.length; end += 8) {
      const few = Array.from({ length: Math.min(8, bytes.length - end) }, (_, at) => end + at)
      const exchanges = await Promise.all(few.map(length => exchange(port, bytes.slice(0, length), 0)))
      for (const { text } of exchanges) {
        const statuses = answersIn(text, [], true).map(({ status }) => status)
        if (statuses.length > 1 || statuses.some(status => status >= 500)) t.fail(`${end} bytes: ${statuses}`)
      }
      tried += few.length
      for (const { request } of stage.arrivals('user', true))
        if (request.complete && request.method !== 'GET' && !/^abc(de)?$/.test(request.body.toString()))
          t.fail(`the upstream took ${request.body} for a whole body`)
    }
  }
  t.ok(tried > 400, `${tried} ends`)
})

/** The method of the request at fault after so many others: one HEAD that is refused for its head has no body in its answer. */
function methodAfter(bytes: string, requests: number): string {
  const targets = [...bytes.matchAll(/(?:^|\n)([A-Z]+)[ \t]+\S+[ \t]+HTTP/g)]
  return targets[requests]?.[1] ?? ''
}
