import tap, { type Test, test } from 'tap'
import { rawRequest } from '../support/browser.ts'
import { startGateway } from '../support/gateway.ts'
import { cookieOf, startRules } from '../support/rules.ts'
import { sessionCookie } from '../support/stage.ts'

const { stage, side, gateway, provider, clock, listen, send } = await startRules(tap)

/** The lines of a request's head, less what says nothing of the user. */
const saidIn = (text: string) =>
  text
    .split('\r\n')
    .filter(line => /^[^:\s]+: /.test(line) && !/^(host|connection|content-length|x-forwarded-\w+): /i.test(line))
    .map(line => line.replace(/(Bearer) \S+/, '$1 …').toLowerCase())

const protectedNames =
  'authorization proxy-authorization dpop x-access-token x-id-token cookie2 forwarded x-forwarded-for x-forwarded-host ' +
  'x-forwarded-proto x-forwarded-port x-forwarded-uri x-forwarded-user x-real-ip x-client-ip true-client-ip ' +
  'x-original-url x-rewrite-url x-user-id x-user-email x-remote-user remote-user x-auth-request-user x-roles ' +
  'x-http-method-override x-method-override proxy via client-cert x-staff x-note x-grants x-member'

/** Names as others write them, each twice; what comes in has `forged` in its value. */
function forgeries(): string[][] {
  const spellings = [
    (name: string) => name,
    (name: string) => name.toUpperCase(),
    (name: string) => name.replace(/(^|-)\w/g, letter => letter.toUpperCase()),
    (name: string) => name.replaceAll('-', '_'),
    (name: string) => name.replace('-', '_'),
    (name: string) => name.replaceAll('-', '.'),
  ]
  const values = ['forged', 'Bearer forged', 'for="forged, a";by=\xe9', 'forged, \x80\xff']
  return spellings.map((spell, index) =>
    protectedNames.split(' ').flatMap(name => {
      const line = `${spell(name)}: ${values[index % values.length]}`
      return [line, line]
    }),
  )
}

// A client says itself who it is, and where, in every way that some server would take it for the gateway's word.
test('on no kind of route an upstream is told anything of the user but by the gateway', async t => {
  const alice = await stage.loggedIn('alice')
  provider.users.set('alice', { note: undefined })
  const known = [`Cookie: a=b; ${sessionCookie}=${cookieOf(alice)}; c=d`, 'X-CSRF: 1', 'Sec-Fetch-Site: same-origin']
  const unknown = known.slice(1)
  // biome-ignore format: a table
  const routes: [path: string, sent: string[], status: number, told: string[] | null][] = [
    ['/api/items',    known,   200, ['authorization: bearer …', 'x-staff: alice']],
    ['/optional/x',   known,   200, ['authorization: bearer …', 'x-member: alice']],
    ['/optional/x',   unknown, 200, []],
    ['/open/x',       known,   200, []],
    ['/open/x',       unknown, 200, []],
    ['/files/x',      known,   200, ['authorization: bearer …']],
    ['/feed/x',       known,   200, ['authorization: bearer …']],
    ['/other/x',      known,   200, ['authorization: bearer …']],
    ['/api/items',    unknown, 401, null],
    ['/open/inner/x', unknown, 401, null],
    ['/nowhere',      known,   404, null],
    ['/bff/nowhere',  known,   404, null],
  ]
  for (const [path, sent, status, told] of routes) {
    for (const forged of forgeries()) {
      for (const method of ['GET', 'POST', 'DELETE', 'OPTIONS']) {
        const name = `${method} ${path}, with ${sent === known ? 'a' : 'no'} session and ${forged[1]}`
        const heard = listen()
        const answer = await send(method, path, [...sent, ...forged, 'Content-Length: 0'])
        const expected = method === 'OPTIONS' && status !== 404 ? 204 : status
        t.match(answer, new RegExp(`^HTTP/1\\.1 ${expected} `), name)
        const text = heard()
        if (told === null || method === 'OPTIONS') t.equal(text, '', name)
        else {
          t.ok(text.startsWith(`${method} `), 'on the wire it is the method that was sent')
          t.strictSame(
            saidIn(text)
              .filter(line => !line.startsWith('sec-fetch-site: '))
              .sort(),
            told,
            name,
          )
          t.match(text, /^x-forwarded-for: 127\.0\.0\.1\r$/im)
        }
      }
    }
  }
  for (const header of [
    'X-Staff : admin',
    'X-Staff\t: admin',
    ' X-Staff: admin',
    'X-Staff: a\r\n b',
    'X-St\0aff: a',
    'X-Ä: a',
  ]) {
    const heard = listen()
    t.match(await send('GET', '/api/items', [...known, header]), /^HTTP\/1\.1 400 /, JSON.stringify(header))
    t.equal(heard(), '')
  }
})

// The user, or who fills the directory, chooses a name that ends its header and begins another.
test('whatever a claim holds stays in its header', async t => {
  const notes: [unknown, string | undefined][] = [
    ['plain', 'plain'],
    ['a\r\nX-Staff: admin', 'a%0D%0AX-Staff: admin'],
    ['a\nb\rc', 'a%0Ab%0Dc'],
    ['nul\0', 'nul%00'],
    ['Zoë \u0080\u00ff', 'Zo%C3%AB %C2%80%C3%BF'],
    ['\u010d\u010a', '%C4%8D%C4%8A'],
    ['\u2028', '%E2%80%A8'],
    ['100%0d%0a', '100%250d%250a'],
    [' padded\t', '%20padded%09'],
    [['a,b', 'c\r\n'], 'a%2Cb,c%0D%0A'],
    [{ a: '\r\n' }, '{"a":"\\r\\n"}'],
    [true, 'true'],
    [0, '0'],
    ['', undefined],
    [null, undefined],
    ['x'.repeat(4097), undefined],
    ['\r\n'.repeat(2000), undefined],
  ]
  for (const [note, told] of notes) {
    provider.users.set('nora', { note, grants: note })
    const nora = await stage.loggedIn('nora')
    const heard = listen()
    t.equal((await nora.api('/api/items', { headers: { 'X-Note': 'forged', 'X-Grants': 'forged' } })).status, 200)
    const lines = saidIn(heard()).filter(line => /^x[-_]/.test(line))
    const expected = told === undefined ? [] : [`x-note: ${told.toLowerCase()}`, `x_grants: ${told.toLowerCase()}`]
    t.strictSame(
      lines.sort(),
      ['x-staff: nora', ...expected].sort(),
      encodeURIComponent(JSON.stringify(note)).slice(0, 60),
    )
  }
})

// Pictures and downloads cannot send a header, so the browser's own word must do; where nothing is asked, anybody's page
// may ask, and that is said so.
test('each upstream has the CSRF rule that it was given', async t => {
  const alice = await stage.loggedIn('alice')
  const cookies = [`${sessionCookie}=${cookieOf(alice)}`]
  const own = gateway.url
  // biome-ignore format: a table
  const cases: [headers: Record<string, string>, header: number, metadata: number, none: number][] = [
    [{},                                                                  403, 403, 200],
    [{ 'X-CSRF': '1' },                                                   200, 403, 200],
    [{ 'X-CSRF': '2' },                                                   403, 403, 200],
    [{ 'Sec-Fetch-Site': 'same-origin' },                                 403, 200, 200],
    [{ Origin: own },                                                     403, 200, 200],
    [{ 'Sec-Fetch-Site': 'same-origin', Origin: own, 'X-CSRF': '1' },     200, 200, 200],
    [{ 'Sec-Fetch-Site': 'same-site', 'X-CSRF': '1' },                    403, 403, 200],
    [{ 'Sec-Fetch-Site': 'cross-site', 'X-CSRF': '1' },                   403, 403, 200],
    [{ 'Sec-Fetch-Site': 'none', 'X-CSRF': '1' },                         403, 403, 200],
    [{ 'Sec-Fetch-Site': 'same-origin', Origin: 'null', 'X-CSRF': '1' },  403, 403, 200],
    [{ 'Sec-Fetch-Site': 'cross-site', Origin: own },                     403, 403, 200],
    [{ Origin: `${own}.evil.test`, 'X-CSRF': '1' },                       403, 403, 200],
  ]
  for (const [headers, ...statuses] of cases) {
    for (const method of ['GET', 'POST']) {
      for (const [index, path] of ['/api/x', '/files/x', '/feed/x'].entries()) {
        const name = `${method} ${path} ${JSON.stringify(headers)}`
        const heard = listen()
        const answer = await alice.request(path, { method, headers, cookies })
        t.equal(answer.status, statuses[index], name)
        if (statuses[index] === 403) t.match([heard(), answer.json().code], ['', 'csrf'], name)
      }
    }
  }
})

const addressesTold = async (t: Test, trusted: string | undefined, forwardedFor: string) => {
  const at = await startGateway({
    provider,
    clock,
    upstreams: { '/open': side.url },
    env: { UPSTREAM_U0_AUTH: 'none', ...(trusted === undefined ? {} : { TRUSTED_PROXIES: trusted }) },
  })
  t.teardown(at.close)
  const heard = listen()
  const headers = [
    `Host: localhost:${at.port}`,
    `X-Forwarded-For: ${forwardedFor}`,
    'X-Forwarded-Proto: https',
    'X-Forwarded-Host: evil.localhost',
    'X-Forwarded-Prefix: /evil',
    'Forwarded: for=192.0.2.66;host=evil.test',
    'X-Real-IP: 192.0.2.66',
  ]
  await rawRequest(at.port, `GET /open/x HTTP/1.1\r\n${headers.join('\r\n')}\r\nConnection: close\r\n\r\n`)
  t.strictSame(
    heard()
      .split('\r\n')
      .filter(line => /forwarded|real-ip/i.test(line))
      .sort(),
    [
      `x-forwarded-for: ${/^x-forwarded-for: (.*)\r$/im.exec(heard())?.[1]}`,
      `x-forwarded-host: localhost:${at.port}`,
      'x-forwarded-proto: http',
    ],
    'nothing else is said',
  )
  return /^x-forwarded-for: (.*)\r$/im.exec(heard())?.[1]
}

test('what is said of the way here is what trusted proxies say, and nothing without them', async t => {
  const list = '192.0.2.66, 198.51.100.7, 10.1.1.1'
  t.equal(await addressesTold(t, undefined, list), '127.0.0.1')
  t.equal(await addressesTold(t, '10.0.0.0/8', list), '127.0.0.1', 'the peer is another')
  t.equal(await addressesTold(t, '127.0.0.1', list), '10.1.1.1, 127.0.0.1')
  t.equal(await addressesTold(t, '127.0.0.1,10.0.0.0/8', list), '198.51.100.7, 10.1.1.1, 127.0.0.1')
  t.equal(await addressesTold(t, '127.0.0.1', '192.0.2.66, "x\\", nonsense'), '127.0.0.1')
})

// A private route below an open one. Whoever reads the path in another way than the gateway finds it open.
test('a route within another has its own policy, however it is written', async t => {
  // biome-ignore format: a table
  const paths: [path: string, status: number][] = [
    ['/open', 200], ['/open/', 200], ['/open/innermost', 200], ['/open/x/inner', 200], ['/open?/open/inner', 200],
    ['/open/inner', 401], ['/open/inner/', 401], ['/open/inner/x', 401], ['/open/inner?x=/open', 401],
    ['/open/inner;x=1', 400], ['/open/inner.', 400], ['/open/inner%20', 400], ['/open/INNER/x', 400], ['/open/%69nner/x', 400],
    ['/open%2finner/x', 400], ['/open%2Finner', 400], ['/open%5cinner', 400], ['/open\\inner', 400], ['/open//inner', 400],
    ['/open/./inner', 400], ['/open/x/../inner', 400], ['/open/x/..%2finner', 400], ['/open/x/%2e%2e/inner', 400],
    ['/open/x/..;/inner', 400], ['/open/%252e%252e/inner', 400], ['/open/inner%3f', 400], ['/open/inner%23x', 400],
    ['/open;x/inner', 400], ['/open/;/inner', 400], ['/open/inner%00', 400], ['/open/inne%c1%b2', 400], ['/OPEN/x', 400],
    ['/openx', 404], ['/open.x', 404], ['/open-inner', 404], ['/open:inner', 404],
  ]
  const heard = listen()
  for (const [path, status] of paths) {
    const answer = await send('GET', path, ['X-CSRF: 1'])
    t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), path)
  }
  t.notMatch(heard(), /^GET \/inner/m, 'the one within heard nothing')
  t.notMatch(heard(), /authorization/i)
})

test('what is written in an unusual but single way arrives byte for byte', async t => {
  const alice = await stage.loggedIn('alice')
  const targets = [
    '/items/a%2Fb?x=1&x=2&q=a+b%20c;d',
    "/items/~_-.!$&'()*+,=:@",
    '/items/%C3%A9%E2%82%AC?q=%C3%A9',
    '/items?next=/../../x&u=http://evil.test//y&e=%0d%0aX:y&n=%00',
    '/items?',
    '/items?a[]=1&b={"c":[]}',
    '/items/a;v=1/b;w=2',
    '/items/%7Euser/%61',
    '/items/',
    '',
    '?x',
  ]
  for (const target of targets) {
    const heard = listen()
    const answer = await send('GET', `/api${target}`, [`Cookie: ${sessionCookie}=${cookieOf(alice)}`, 'X-CSRF: 1'])
    t.match(answer, /^HTTP\/1\.1 200 /, target)
    const expected = target.startsWith('/') ? target : `/${target}`
    t.equal(heard().split('\r\n', 1)[0], `GET ${expected} HTTP/1.1`, target)
  }
  for (const target of [
    '/items%0d%0aX-Staff:y',
    '/items%00',
    '/items%7f',
    '/\xe9',
    '/items%C3',
    '/items%ff',
    '/%u0041',
  ]) {
    const heard = listen()
    const answer = await send('GET', `/api${target}`, [`Cookie: ${sessionCookie}=${cookieOf(alice)}`, 'X-CSRF: 1'])
    t.match(answer, /^HTTP\/1\.1 400 /, target)
    t.equal(heard(), '')
  }
})
