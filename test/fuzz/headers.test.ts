import fc from 'fast-check'
import tap, { test } from 'tap'
import {
  breaks,
  cookieLines,
  forgedLines,
  honestLines,
  type Line,
  nominations,
  onlyValue,
  provenance,
} from '../support/fuzz/headers.ts'
import { holds } from '../support/fuzz/runs.ts'
import { prefixes, routes, startFuzzStage, type Who } from '../support/fuzz/stage.ts'

const stage = await startFuzzStage(tap)
const who = fc.constantFrom<Who>('nobody', 'user', 'admin')
const prefix = fc.constantFrom(...prefixes)
const paths = fc.constantFrom('/api/x', '/api/admin/x', '/open/x', '/maybe/x', '/bff/user', '/bff/none', '/nothing')
const methods = fc.constantFrom('GET', 'GET', 'GET', 'HEAD', 'POST', 'DELETE', 'OPTIONS')
const wire = (lines: readonly Line[]) => lines.map(({ name, value }) => `${name}: ${value}\r\n`).join('')

// An API that believes a header that says who the user is believes whoever can get such a header through to it.
test('no header that speaks for the gateway gets past it, whatever it looks like and whatever Connection names', async t => {
  let kept = 0
  const runs = await holds(t, 'every set of headers', {
    runs: 1500,
    cases: fc.record({
      path: paths,
      method: methods,
      who,
      forgery: forgedLines,
      honest: honestLines,
      nominated: nominations,
    }),
    async check({ path, method, who, forgery, honest, nominated }) {
      const connection = `Connection: ${['close', ...nominated].join(', ')}\r\n`
      const lines = stage.lines(who) + wire(forgery) + wire(honest) + connection
      const { answer, arrivals } = await stage.ask(`${method} ${path} HTTP/1.1\r\n${lines}\r\n`, who)
      if (answer === undefined) throw new Error('there was no answer')
      const [arrival] = arrivals
      if (arrival === undefined) return
      const names = nominated.map(name => name.toLowerCase())
      for (const { name, value } of honest) {
        const seen = arrival.request.headers[name.toLowerCase()]
        const wanted = names.includes(name.toLowerCase()) ? undefined : value
        if (seen !== wanted) throw new Error(`${name}: ${value} became ${seen}`)
        kept += wanted === undefined ? 0 : 1
      }
    },
  })
  t.ok(kept > runs / 10, `${kept} other headers came through`)
})

// One line for the gateway, two for whoever is behind it.
test('a line that is broken within is refused', async t => {
  await holds(t, 'every broken line', {
    runs: 400,
    cases: fc.record({ who, prefix, breaks, before: fc.constantFrom('', 'x', '"'), inName: fc.boolean() }),
    async check({ who, prefix, breaks, before, inName }) {
      const line = inName ? `X-A${before}${breaks}X-B: c` : `X-A: ${before}${breaks}X-B: c`
      const bytes = `GET ${prefix}/x HTTP/1.1\r\n${stage.lines(who)}${line}\r\nConnection: close\r\n\r\n`
      const { answer, arrivals } = await stage.ask(bytes, who)
      if (arrivals.length > 0) throw new Error('it reached an upstream')
      if (answer !== undefined && answer.status !== 400) throw new Error(`the answer is ${answer.status}`)
    },
  })
})

// Two cookies of one name, or one whose name only looks like it, may be a neighbour's under the same domain.
test('a session is what one cookie names to the letter, and nothing else', async t => {
  const [name = '', token = ''] = stage.cookies.user.split('=')
  let known = 0
  const runs = await holds(t, 'every Cookie header', {
    runs: 1000,
    cases: fc.record({ cookies: cookieLines(name, token), prefix: fc.constantFrom('/api', '/maybe', '/open') }),
    async check({ cookies, prefix }) {
      const lines = stage.lines('nobody') + cookies.map(line => `Cookie: ${line}\r\n`).join('')
      const found = onlyValue(cookies, name) === token
      const who = found ? 'user' : 'nobody'
      const { answer, arrivals } = await stage.ask(`GET ${prefix}/x HTTP/1.1\r\n${lines}Connection: close\r\n\r\n`, who)
      const allowed = found || prefix !== '/api'
      if (lines.length > 12_000 && answer?.status === 431) return
      if (answer?.status !== (allowed ? 200 : 401))
        throw new Error(`${answer?.status} with ${found ? 'a' : 'no'} session`)
      if (arrivals.length !== (allowed ? 1 : 0)) throw new Error('the answer is not about what happened')
      known += found ? 1 : 0
    },
  })
  t.ok(known > runs / 20, `${known} of ${runs} name the session`)
})

test('who does not come from the application is refused, with a session and without', async t => {
  const own = stage.gateway.url
  let passed = 0
  const runs = await holds(t, 'every word about where a request comes from', {
    runs: 1000,
    cases: fc.record({
      from: provenance(own),
      prefix,
      who,
      method: fc.constantFrom('GET', 'HEAD', 'POST', 'PUT', 'DELETE'),
      type: fc.constantFrom(
        '',
        'text/plain',
        'application/json',
        'multipart/form-data',
        'application/x-www-form-urlencoded',
      ),
      mode: fc.constantFrom('', 'cors', 'no-cors', 'navigate', 'websocket'),
    }),
    async check({ from: { origins, sites, csrf }, prefix, who, method, type, mode }) {
      const cookie = who === 'nobody' ? '' : `Cookie: ${stage.cookies[who]}\r\n`
      const lines = wire([
        ...origins.map(value => ({ name: 'Origin', value })),
        ...sites.map(value => ({ name: 'Sec-Fetch-Site', value })),
        ...csrf.map(value => ({ name: 'X-CSRF', value })),
        ...(type === '' ? [] : [{ name: 'Content-Type', value: type }]),
        ...(mode === '' ? [] : [{ name: 'Sec-Fetch-Mode', value: mode }]),
      ])
      const body = method === 'POST' || method === 'PUT' ? 'Content-Length: 2\r\n\r\n{}' : '\r\n'
      const head = `${method} ${prefix}/x HTTP/1.1\r\nHost: localhost:${stage.gateway.port}\r\n${cookie}${lines}`
      const { answer, arrivals } = await stage.ask(`${head}Connection: close\r\n${body}`, who)
      const ours =
        csrf.join() === '1' && origins.every(value => value === own) && sites.every(value => value === 'same-origin')
      const { session } = routes[prefix]
      // A browser sends each of them once; whoever repeats them may be refused, and must be without the right ones.
      const repeated = origins.length > 1 || sites.length > 1 || csrf.length > 1
      const arrived = arrivals.length === 1
      if (session !== 'none' && !ours && (arrived || answer?.status !== 403)) throw new Error(`${answer?.status}`)
      if (session === 'none' && !arrived) throw new Error(`no rule, and yet ${answer?.status}`)
      const admitted = session === 'optional' || (prefix === '/api' && who !== 'nobody')
      if (ours && !repeated && admitted && !arrived) throw new Error(`${answer?.status} for the application itself`)
      passed += ours && arrived ? 1 : 0
    },
  })
  t.ok(passed > runs / 50, `${passed} of ${runs} passed`)
})
