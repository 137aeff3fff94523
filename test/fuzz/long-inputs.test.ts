import { monitorEventLoopDelay } from 'node:perf_hooks'
import tap, { test } from 'tap'
import { startFuzzStage, type Who } from '../support/fuzz/stage.ts'

const stage = await startFuzzStage(tap)

/** Near the 16 KB that the head of a request may have in all. */
const length = 15_000
const rounds = 6
/** What OWASP ASVS 1.3.12 would have of a regular expression, a parser takes for all of its input. */
const limitMs = 50

const filled = (piece: string, end = '') => piece.repeat(Math.floor(length / piece.length)).slice(0, length) + end
const header = (name: string, pieces: string[]) =>
  pieces.map(piece => ({ kind: name, target: '/maybe/x', lines: `${name}: ${filled(piece, '!')}\r\n` }))
const inTarget = (kind: string, start: string, pieces: string[]) =>
  pieces.map(piece => ({ kind, target: start + filled(piece, '!'), lines: '' }))

const inputs = [
  ...header('Cookie', [
    'a',
    ';',
    '; ',
    '=',
    'a=b; ',
    '__Host-coatcheck=x; ',
    '__Host-coatcheck',
    ' ',
    '"',
    '\xa0;',
    ';=',
  ]),
  ...header('Origin', ['a', 'http://', 'null ', '.', ':', '/', '@', 'localhost']),
  ...header('Accept', ['text/html,', ',', ';q=', '*/*;', ' ', '"', 'a/b;q=0.1, ']),
  ...header('Accept-Encoding', ['gzip,', ',', ' ', ';q=0', 'br;q=1, ']),
  ...header('Forwarded', ['for=', ';', ',', 'for="[', '\\"', 'for=1.2.3.4, ', ' ']),
  ...header('X-Forwarded-For', [',', ' ', '1.2.3.4,', ':', '[', '1.2.3.4:5, ', '::', ', ']),
  ...header('X-Forwarded-Host', [',', 'a.', 'localhost,', ' ', '[::1],']),
  ...header('X-Forwarded-Proto', [',', 'http,', ' ']),
  ...header('Connection', [',', 'a, ', ' ', 'x-a,', '\t']),
  ...header('Content-Type', ['a/', ';', ' ', 'a=b;', '"', 'text/html; ']),
  ...header('If-None-Match', ['W/"', ',', '"a", ', ' ']),
  ...header('Range', ['bytes=', ',', '0-1,', '-']),
  ...header('Upgrade', ['websocket,', ' ', ',']),
  ...header('Access-Control-Request-Headers', ['a, ', ',', ' ', 'x']),
  ...header('traceparent', ['0', '-', '00-']),
  ...inTarget('path', '/maybe/', [
    '/',
    '.',
    '../',
    '%2f',
    '%25',
    '%2525',
    ';',
    '/;',
    'a',
    '%20',
    '%C3%BC',
    '%ff',
    'A',
    '/.',
  ]),
  ...inTarget('path of the gateway', '/bff/', ['a', '%61', '/a', 'login', ':']),
  ...inTarget('path of nothing', '/', ['a', '/a', '%61', '.', '-']),
  ...inTarget('query', '/bff/login?', ['a', '&', '=', '%', 'returnUrl=', '+', 'a=b&', 'a[]=b&', '%2f']),
  ...inTarget('return URL', '/bff/login?returnUrl=', ['/', '%2f', '/..', '%5c', 'a', '%2e%2e%2f', '%09', '%']),
]

// One request with a header that is slow to read holds up everybody else, and needs no session.
test('nothing of 16 KB takes long to read, or holds up the others', async t => {
  const request = (target: string, lines: string, who: Who = 'user') =>
    `GET ${target} HTTP/1.1\r\n${stage.lines(who)}${lines}Connection: close\r\n\r\n`
  const timed = async (bytes: string, who: Who = 'user') => {
    const began = performance.now()
    const { answer } = await stage.ask(bytes, who)
    if (answer === undefined) throw new Error('there was no answer')
    return performance.now() - began
  }
  const worst = (times: number[]) => [...times].sort((one, other) => one - other)[Math.floor(times.length * 0.99)] ?? 0
  const [plain, long]: number[][] = [[], []]
  /** Of each input, the round in which the machine was least busy with other things. */
  const best = new Map<string, number>()
  const lag = monitorEventLoopDelay({ resolution: 5 })
  for (let round = 0; round < rounds; round += 1) {
    // The first one is for the compiler.
    if (round === 1) lag.enable()
    for (const { kind, target, lines } of inputs) {
      // A second cookie of the session's name is none of the two.
      const who = kind === 'Cookie' ? 'nobody' : 'user'
      const times = [await timed(request('/maybe/x', '')), await timed(request(target, lines, who), who)] as const
      if (round === 0) continue
      plain?.push(times[0])
      long?.push(times[1])
      const name = `${kind}: ${(lines || target).slice(0, 40).trim()}`
      best.set(name, Math.min(best.get(name) ?? Number.POSITIVE_INFINITY, times[1]))
    }
  }
  lag.disable()
  for (const [name, time] of best) if (time >= limitMs) t.fail(`${name} takes ${time.toFixed(1)} ms`)
  // A machine that is busy with other things is so for plain requests as well.
  const limit = limitMs + 2 * worst(plain ?? [])
  const worstLong = worst(long ?? [])
  t.ok(worstLong < limit, `p99 of ${best.size} inputs is ${worstLong.toFixed(1)} ms, of ${limit.toFixed(1)}`)
  const held = lag.percentile(99) / 1e6
  t.ok(held < limit, `p99 of what the others wait is ${held.toFixed(1)} ms, of ${limit.toFixed(1)}`)
})
