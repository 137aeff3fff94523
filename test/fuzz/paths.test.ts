import fc from 'fast-check'
import tap, { test } from 'tap'
import { readingsOf, routeOf, targetAt, targets } from '../support/fuzz/paths.ts'
import { holds } from '../support/fuzz/runs.ts'
import { prefixes, routes, startFuzzStage, type Who } from '../support/fuzz/stage.ts'

const stage = await startFuzzStage(tap)
const who = fc.constantFrom<Who>('nobody', 'user', 'admin')
const method = fc.constantFrom('GET', 'GET', 'GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND')

// The gateway takes a path for the route that everybody may use and gives it that route's token; what stands behind decodes
// or cleans it up once more, and serves what only administrators may have.
test('route, policy, token and the path behind agree, whoever reads the path', async t => {
  const reached = Object.fromEntries(prefixes.map(prefix => [prefix, 0]))
  const runs = await holds(t, 'every path', {
    runs: 1500,
    cases: fc.record({ target: targets(`127.0.0.1:${stage.evil.port}`), who, method }),
    async check({ target, who, method }) {
      // As UTF-8 on the wire, where blanks around a target are none of it.
      const sent = Buffer.from(target.replace(/^ +| +$/g, '')).toString('latin1')
      const bytes = `${method} ${sent} HTTP/1.1\r\n${stage.lines(who)}Connection: close\r\n\r\n`
      const { answer, arrivals } = await stage.ask(bytes, who)
      if (answer === undefined) throw new Error('there was no answer')
      for (const { prefix, request } of arrivals) {
        reached[prefix] = (reached[prefix] ?? 0) + 1
        const path = sent.split('?', 1)[0] ?? ''
        for (const reading of readingsOf(path))
          if (routeOf(reading) !== prefix) throw new Error(`${prefix} got what reads as ${reading}`)
        const { base } = routes[prefix]
        const [pathBehind = ''] = request.url.split('?', 1)
        for (const reading of readingsOf(pathBehind))
          if (base !== '' && reading !== base && !reading.startsWith(`${base}/`))
            throw new Error(`${prefix} got ${request.url}, which may lead to ${reading}`)
        if (request.url !== targetAt(prefix, sent)) throw new Error(`${prefix} got ${request.url}`)
        if (request.method !== method) throw new Error(`${prefix} got ${request.method}`)
      }
    },
  })
  for (const prefix of prefixes)
    t.ok((reached[prefix] ?? 0) > runs / 200, `${prefix} was reached ${reached[prefix]} times of ${runs}`)
})
