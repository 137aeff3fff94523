import { test } from 'tap'
import { redirectFor } from '../../../src/http/upstream/redirects.ts'

const place = (path: string, url: string) => ({ path, url: new URL(url) })
const api = place('/api', 'http://api.internal:3000/v1')
const orders = place('/orders', 'http://orders.internal/')
const rules = {
  upstream: api,
  upstreams: [api, orders],
  origins: ['https://app.test', 'https://downloads.test'],
}

// An upstream that reflects its input into Location sends a user's browser anywhere, in the application's name; one that
// names itself tells where it is, and the browser could not get there.
test('a redirect leads to a path of the gateway or an allowed origin, or is not told', t => {
  const cases: [location: string, told: string | null][] = [
    ['http://api.internal:3000/v1/items/7', '/api/items/7'],
    ['http://API.internal:3000/v1/items?a=b&c=%2F#part', '/api/items?a=b&c=%2F#part'],
    ['http://api.internal:3000/v1', '/api'],
    ['http://api.internal:3000/v1/', '/api/'],
    ['//api.internal:3000/v1/x', '/api/x'],
    ['/v1/x', '/api/x'],
    ['x', '/api/items/x'],
    ['./x/../y', '/api/items/y'],
    ['?page=2', '/api/items/1?page=2'],
    ['#part', '/api/items/1#part'],
    ['', '/api/items/1'],
    ['../../v1/x', '/api/x'],

    ['/other', null],
    ['/v10/x', null],
    ['/v1/../x', null],
    ['/v1/%2e%2e/x', null],
    ['http://api.internal:3000/', null],
    ['http://api.internal/v1/x', null],
    ['https://api.internal:3000/v1/x', null],

    ['http://orders.internal/7', '/orders/7'],
    ['http://orders.internal', '/orders/'],
    ['http://orders.internal//evil.test/', '/orders//evil.test/'],

    ['https://app.test/welcome', 'https://app.test/welcome'],
    ['https://downloads.test/f?sig=a%2Bb', 'https://downloads.test/f?sig=a%2Bb'],
    ['https://DOWNLOADS.test:443/f', 'https://downloads.test/f'],
    ['http://downloads.test/f', null],
    ['https://downloads.test:8443/f', null],
    ['https://downloads.test.evil.test/f', null],
    ['https://x.downloads.test/f', null],

    ['https://evil.test/', null],
    ['//evil.test/', null],
    ['///evil.test/', null],
    ['/\\evil.test/', null],
    ['\\\\evil.test/', null],
    ['/\t/evil.test/', null],
    ['https:evil.test', null],
    ['http:\\\\evil.test', null],
    ['https://app.test@evil.test/', null],
    ['https://user@app.test/', null],
    ['https://:secret@downloads.test/', null],
    ['http://user:secret@api.internal:3000/v1/x', null],
    ['javascript:alert(1)', null],
    ['JaVaScRiPt:alert(1)', null],
    ['data:text/html,x', null],
    ['blob:https://app.test/1', null],
    ['file:///etc/passwd', null],
    ['app://open', null],
    ['https://', null],
    ['http://[::1', null],
  ]
  for (const [location, told] of cases) t.equal(redirectFor(location, '/v1/items/1', rules), told, location)
  t.end()
})

// To a browser two slashes begin the name of a host.
test('a path of the gateway never begins with two slashes', t => {
  const root = place('/', 'http://spa.internal/')
  const atRoot = { upstream: root, upstreams: [root], origins: [] }
  for (const location of [
    'http://spa.internal//evil.test/',
    'http://spa.internal/.//evil.test/',
    '/.//evil.test',
    '/%2e//evil.test',
    '/x/..//evil.test',
    'http://spa.internal/\\evil.test',
  ])
    t.equal(redirectFor(location, '/', atRoot), null, location)
  t.equal(redirectFor('/welcome', '/', atRoot), '/welcome')

  const deep = place('/', 'http://spa.internal/v1')
  const below = { upstream: deep, upstreams: [deep], origins: [] }
  t.equal(redirectFor('/v1//evil.test', '/v1/', below), null)
  t.equal(redirectFor('/v1', '/v1/', below), '/')
  t.end()
})

test('of two upstreams on one origin the one that answers is asked first, and then the one that has the path', t => {
  const [first, second] = [place('/a', 'http://api.internal/a'), place('/b', 'http://api.internal/b')]
  const of = (upstream: typeof first) => ({ upstream, upstreams: [first, second], origins: [] })
  t.equal(redirectFor('/a/x', '/a/1', of(first)), '/a/x')
  t.equal(redirectFor('/b/x', '/a/1', of(first)), '/b/x')
  t.equal(redirectFor('/c/x', '/a/1', of(first)), null)
  const [twin, other] = [place('/one', 'http://api.internal/v1'), place('/two', 'http://api.internal/v1')]
  const upstreams = [twin, other]
  t.equal(redirectFor('/v1/x', '/v1/1', { upstream: other, upstreams, origins: [] }), '/two/x')
  t.end()
})
