import fastify from 'fastify'
import { type Test, test } from 'tap'
import { ownHeadersFor, registerProblems } from '../../../src/http/problem.ts'
import { createCors, registerCors } from '../../../src/http/server/cors.ts'

const own = 'https://app.example'
const spa = 'https://spa.example'

function startServer(t: Test, origins: string[]) {
  const app = fastify()
  app.decorate('ownHeaders', ownHeadersFor(new URL(own)))
  registerCors(app, { cors: createCors({ origins }), publicOrigin: own, audit: () => {} })
  registerProblems(app, {})
  const upstream = {
    'access-control-allow-origin': '*',
    'access-control-allow-credentials': 'true',
    'access-control-expose-headers': 'x-secret',
    'access-control-max-age': '99999',
    vary: 'Accept-Encoding',
    'x-total': '7',
  }
  app.route({
    method: ['GET', 'OPTIONS'],
    url: '/api',
    handler: async (_request, reply) => reply.headers(upstream).send(''),
  })
  app.get('/broken', async () => {
    throw new Error('broken')
  })
  t.teardown(() => app.close())
  return (method: 'GET' | 'OPTIONS', url: string, headers: Record<string, string>) =>
    app.inject({ method, url, headers })
}

const preflight = (origin: string) => ({
  origin,
  'access-control-request-method': 'PUT',
  'access-control-request-headers': 'x-csrf,content-type',
})
const strangers = ['null', '', '*', 'http://spa.example', 'https://spa.example:444', 'https://SPA.example']
const near = [
  'https://spa.example.evil.test',
  'https://evilspa.example',
  'https://x.spa.example',
  `${spa}/`,
  `${spa}, ${spa}`,
]

test('an origin of the list may call with credentials, and read the answer', async t => {
  const ask = startServer(t, [spa])
  for (const [url, status] of [
    ['/api', 200],
    ['/broken', 500],
    ['/nothing', 404],
  ] as const) {
    const answer = await ask('GET', url, { origin: spa })
    t.equal(answer.statusCode, status)
    t.match(answer.headers, {
      'access-control-allow-origin': spa,
      'access-control-allow-credentials': 'true',
      vary: /(^|, )Origin$/,
    })
    t.equal(answer.headers['access-control-max-age'], undefined)
  }
  const { headers } = await ask('GET', '/api', { origin: spa })
  t.equal(headers.vary, 'Accept-Encoding, Origin')
  t.match(headers['access-control-expose-headers'], /x-total/)
  t.notMatch(headers['access-control-expose-headers'], /secret|cookie|access-control|vary/)
})

// A gateway that repeats whatever Origin it is sent opens every user's data to every site (OWASP ASVS 3.4.2).
test('nobody else is ever named, and no upstream names anybody', async t => {
  const ask = startServer(t, [spa])
  for (const origin of [...strangers, ...near, own, undefined]) {
    for (const method of ['GET', 'OPTIONS'] as const) {
      for (const url of ['/api', '/broken', '/nothing']) {
        const answer = await ask(method, url, origin === undefined ? {} : { origin })
        t.notOk(
          Object.keys(answer.headers).some(name => name.startsWith('access-control-')),
          `${method} ${url} ${origin}`,
        )
        t.match(answer.headers.vary, /(^|, )Origin$/)
      }
    }
  }
})

test('a preflight of an origin of the list is answered here', async t => {
  const ask = startServer(t, [spa])
  for (const url of ['/api', '/nothing']) {
    const answer = await ask('OPTIONS', url, preflight(spa))
    t.same([answer.statusCode, answer.body], [204, ''])
    t.match(answer.headers, {
      'access-control-allow-origin': spa,
      'access-control-allow-credentials': 'true',
      'access-control-allow-methods': 'GET, HEAD, POST, PUT, PATCH, DELETE',
      'access-control-allow-headers': 'x-csrf,content-type',
      'access-control-max-age': '600',
      'cache-control': 'no-store',
      vary: 'Origin, Access-Control-Request-Headers',
    })
  }
  const odd = await ask('OPTIONS', '/api', { ...preflight(spa), 'access-control-request-headers': 'x y; z' })
  t.equal(odd.headers['access-control-allow-headers'], undefined)
})

test('one of anybody else is refused, with a list and without one', async t => {
  for (const origins of [[spa], []]) {
    const ask = startServer(t, origins)
    for (const origin of [...strangers, ...near, ...(origins.length > 0 ? [] : [spa])]) {
      const answer = await ask('OPTIONS', '/api', preflight(origin))
      t.same([answer.statusCode, answer.json().code], [403, 'csrf'], origin)
      t.notOk(
        Object.keys(answer.headers).some(name => name.startsWith('access-control-')),
        origin,
      )
    }
  }
})
