import { readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { brotliCompressSync, gzipSync } from 'node:zlib'
import tap, { test } from 'tap'
import { type BrowserResponse, createBrowser, rawRequest } from '../support/browser.ts'
import { startGateway } from '../support/gateway.ts'
import { startProvider } from '../support/provider.ts'
import { startUpstream } from '../support/upstream.ts'

const page = '<!doctype html><title>The SPA</title>'
const script = Buffer.from(`console.log("${'every word again '.repeat(200)}")`)
const hidden = 'the-secret-of-a-file-nobody-may-have'
const compressed = (name: string, content: string | Buffer) => ({
  [name]: content,
  [`${name}.br`]: brotliCompressSync(content),
  [`${name}.gz`]: gzipSync(content),
})

const directory = tap.testdir({
  outside: { 'secret.txt': hidden, deeper: { 'secret.txt': hidden } },
  'spa-of-another': { 'secret.txt': hidden },
  spa: {
    ...compressed('index.html', page),
    ...compressed('plain.js', script),
    'only-gzip.css': 'body{}',
    'only-gzip.css.gz': gzipSync('body{}'),
    'picture.png': Buffer.from([0x89, 0x50, 0x4e, 0x47, 0, 255, 254]),
    'empty.js': '',
    '100% ü.txt': 'odd name',
    'about.html': '<!doctype html><title>About</title>',
    assets: { ...compressed('index-BX3kZ1aQ.js', script), 'index-BX3kZ1aQ.js.map': '{}', 'jquery-validation.js': '1' },
    docs: { 'index.html': '<!doctype html><title>Docs</title>' },
    api: { 'shadow.html': hidden },
    bff: { 'shadow.html': hidden },
    '.env': hidden,
    '.git': { config: hidden },
    nested: { '.env.production': hidden },
    '.well-known': { 'security.txt': 'Contact: mailto:security@example.test' },
    '..2026_01_01': { 'mounted.js': 'mounted' },
  },
})
const spa = join(directory, 'spa')
symlinkSync('../outside/secret.txt', join(spa, 'linked.txt'))
symlinkSync('../outside/deeper', join(spa, 'linked'))
symlinkSync('../spa-of-another', join(spa, 'sibling'))
symlinkSync('../outside/secret.txt', join(spa, 'only-gzip.css.br'))
symlinkSync('loop.js', join(spa, 'loop.js'))
symlinkSync('..2026_01_01/mounted.js', join(spa, 'mounted.js'))

const [provider, upstream] = await Promise.all([startProvider(), startUpstream()])
const gateway = await startGateway({ provider, upstreams: { '/api': upstream.url }, env: { SPA_DIR: spa } })
tap.teardown(async () => {
  await gateway.close()
  await Promise.all([provider.close(), upstream.close()])
})
const browser = createBrowser({ origin: gateway.url })
const navigation = { Accept: 'text/html,application/xhtml+xml,*/*;q=0.8' }
const get = (path: string, headers: Record<string, string> = {}) => browser.get(path, { headers })
const isPage = (answer: BrowserResponse) => answer.status === 200 && answer.text === page

test('a file comes as it is, with its type', async t => {
  t.match((await get('/plain.js')).headers, { 'content-type': /javascript/, 'content-length': String(script.length) })
  t.same((await get('/plain.js')).body, script)
  const picture = await get('/picture.png')
  t.match(picture.headers, { 'content-type': 'image/png' })
  t.same([...picture.body], [0x89, 0x50, 0x4e, 0x47, 0, 255, 254])
  t.equal((await get('/100%25%20%C3%BC.txt')).text, 'odd name')
  t.equal((await get('/empty.js')).text, '')
  t.equal((await get('/plain.js?v=2')).status, 200)
  t.match((await get('/docs/')).text, 'Docs', 'a folder with a page of its own')
})

test('a compressed neighbour is sent byte for byte to whom takes it, and caches are told', async t => {
  const br = brotliCompressSync(script)
  const gz = gzipSync(script)
  const cases: [string | null, Buffer, string | undefined][] = [
    ['gzip, deflate, br, zstd', br, 'br'],
    ['gzip, deflate', gz, 'gzip'],
    ['br;q=0.1, gzip;q=0.9', gz, 'gzip'],
    ['br;q=0, gzip;q=0', script, undefined],
    ['deflate', script, undefined],
    ['identity', script, undefined],
    [null, script, undefined],
  ]
  for (const path of ['/plain.js', '/assets/index-BX3kZ1aQ.js'])
    for (const [accepted, bytes, encoding] of cases) {
      const answer = await get(path, accepted === null ? {} : { 'Accept-Encoding': accepted })
      t.same(answer.body, bytes, `${path} for ${accepted}`)
      t.equal(answer.headers['content-encoding'], encoding)
      t.match(answer.headers, { 'content-type': /javascript/, vary: 'accept-encoding' })
    }
  const [index, fallback] = await Promise.all(
    ['/', '/orders/7'].map(path => get(path, { ...navigation, 'Accept-Encoding': 'br' })),
  )
  for (const answer of [index, fallback]) {
    t.same(answer?.body, brotliCompressSync(page))
    t.match(answer?.headers, { 'content-type': /text\/html/, 'content-encoding': 'br', 'cache-control': 'no-store' })
  }
  const tags = await Promise.all(['br', 'gzip', ''].map(accepted => get('/plain.js', { 'Accept-Encoding': accepted })))
  t.equal(new Set(tags.map(({ headers }) => headers.etag)).size, 3, 'each encoding has a validator of its own')
})

test('caches keep hashed files for good, ask again for others, and never keep the page', async t => {
  const immutable = 'public, max-age=31536000, immutable'
  const cases: [string, string][] = [
    ['/assets/index-BX3kZ1aQ.js', immutable],
    ['/assets/index-BX3kZ1aQ.js.map', immutable],
    ['/assets/jquery-validation.js', 'no-cache'],
    ['/plain.js', 'no-cache'],
    ['/about.html', 'no-cache'],
    ['/', 'no-store'],
    ['/index.html', 'no-store'],
    ['/docs/', 'no-store'],
    ['/orders/7?tab=1', 'no-store'],
  ]
  for (const [path, expected] of cases)
    for (const encoding of ['', 'br', 'gzip']) {
      const answer = await get(path, { ...navigation, 'Accept-Encoding': encoding })
      t.same([answer.status, answer.headers['cache-control']], [200, expected], `${path} ${encoding}`)
      t.same(answer.rawSetCookie, [])
    }
  t.equal((await get('/assets/index-00000000.js')).headers['cache-control'], 'no-store', 'a file that is missing')
})

test('HEAD, validators and ranges work, and what cannot be is no fault of the gateway', async t => {
  const { headers } = await get('/plain.js')
  const head = await browser.request('/plain.js', { method: 'HEAD' })
  t.same([head.status, head.text, head.headers['content-length']], [200, '', String(script.length)])
  t.equal((await browser.request('/orders/7', { method: 'HEAD', headers: navigation })).status, 200)
  t.equal((await browser.request('/missing.js', { method: 'HEAD', headers: navigation })).status, 404)

  for (const condition of [
    { 'If-None-Match': headers.etag ?? '' },
    { 'If-Modified-Since': headers['last-modified'] ?? '' },
  ]) {
    const answer = await get('/plain.js', condition)
    t.same([answer.status, answer.text], [304, ''])
    t.match(answer.headers, { etag: headers.etag, 'cache-control': 'no-cache', vary: 'accept-encoding' })
  }
  t.equal((await get('/plain.js', { 'If-None-Match': 'W/"other"' })).status, 200)

  const part = await get('/plain.js', { Range: 'bytes=8-11' })
  t.same([part.status, part.body], [206, script.subarray(8, 12)])
  t.equal(part.headers['content-range'], `bytes 8-11/${script.length}`)
  t.same((await get('/plain.js', { Range: 'bytes=-5' })).body, script.subarray(-5))
  const ofCompressed = await get('/plain.js', { Range: 'bytes=2-5', 'Accept-Encoding': 'gzip' })
  t.same([ofCompressed.status, ofCompressed.body], [206, gzipSync(script).subarray(2, 6)])

  const beyond = await get('/plain.js', { Range: 'bytes=999999-' })
  t.same([beyond.status, beyond.json().code], [416, 'range_not_satisfiable'])
  t.equal(beyond.headers['content-range'], `bytes */${script.length}`)
  const changed = await get('/plain.js', { 'If-Match': '"other"' })
  t.same([changed.status, changed.json().code], [412, 'precondition_failed'])
  t.equal((await get('/plain.js', { Range: 'lines=1-2' })).status, 200)
})

test('a navigation to a path of the SPA gets the page', async t => {
  for (const path of [
    '/',
    '/orders',
    '/orders/7',
    '/orders/',
    '/a%20b/%C3%BC',
    '/apiary',
    '/bffs',
    '/docs.d/x',
    '/assets',
  ])
    t.ok(isPage(await get(path, navigation)), path)
})

test('the page never hides what is missing', async t => {
  const paths = [
    ...['/missing.js', '/assets/missing-BX3kZ1aQ.js', '/favicon.ico', '/assets/deep/none.css', '/plain.js/x.js'],
    ...['/bff/unknown', '/bff/', '/bff/unknown/deeper', '/bff/shadow.html'],
  ]
  for (const path of paths) {
    const answer = await get(path, navigation)
    t.equal(answer.status, 404, path)
    t.match(answer.headers, { 'content-type': 'application/problem+json', 'cache-control': 'no-store' })
  }
  t.match(String((await get('/%62ff/unknown', navigation)).status), /^40[04]$/, 'nor under another spelling')
  for (const path of ['/api', '/api/unknown', '/api/shadow.html', '/%61pi/unknown'])
    t.notOk(isPage(await get(path, navigation)) || (await get(path, navigation)).text.includes(hidden), path)
  t.equal((await get('/orders/7', { Accept: 'application/json' })).status, 404, 'a script is told')
  t.equal((await get('/orders/7', { Accept: '*/*' })).status, 404)
})

test('other methods than GET and HEAD are refused, and say what is allowed', async t => {
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE'])
    for (const path of ['/', '/plain.js', '/orders/7']) {
      const answer = await browser.request(path, { method, headers: navigation, body: 'x=1' })
      t.same([answer.status, answer.headers.allow, answer.json().code], [405, 'GET, HEAD', 'method_not_allowed'])
    }
  t.equal((await browser.request('/bff/unknown', { method: 'POST' })).status, 404)
})

test('every answer of the SPA carries its security headers', async t => {
  const policy =
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; " +
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
  t.ok(readFileSync('README.md', 'utf8').replace(/\s+/g, ' ').includes(policy), 'it is the documented one')
  const { etag } = (await get('/plain.js')).headers
  const answers = await Promise.all([
    get('/'),
    get('/orders/7', navigation),
    get('/plain.js'),
    get('/plain.js', { 'Accept-Encoding': 'br' }),
    get('/plain.js', { 'If-None-Match': etag ?? '' }),
    get('/plain.js', { Range: 'bytes=0-1' }),
  ])
  t.same(
    answers.map(({ status }) => status),
    [200, 200, 200, 200, 304, 206],
  )
  for (const { headers } of answers) {
    t.match(headers, { 'referrer-policy': 'no-referrer', 'x-content-type-options': 'nosniff' })
    t.equal(headers['content-security-policy'], policy)
  }
})

test('SPA_CSP is sent as it is, and a release may replace the folder', async t => {
  const releases = t.testdir({ a: { 'index.html': 'A' }, b: { 'index.html': 'B' } })
  const current = join(releases, 'current')
  symlinkSync('a', current)
  const other = await startGateway({
    provider,
    env: { SPA_DIR: current, SPA_CSP: "default-src 'self' https://cdn.example.com" },
  })
  t.teardown(other.close)
  const answer = await browser.get(`${other.url}/`)
  t.same([answer.text, answer.headers['content-security-policy']], ['A', "default-src 'self' https://cdn.example.com"])
  symlinkSync('b', `${current}-next`)
  renameSync(`${current}-next`, current)
  t.equal((await browser.get(`${other.url}/`)).text, 'B')
  writeFileSync(join(releases, 'b', 'new.js'), 'new')
  t.equal((await browser.get(`${other.url}/new.js`)).text, 'new', 'files are found without a restart')
  rmSync(join(releases, 'b'), { recursive: true })
  for (const path of ['/', '/orders/7', '/new.js']) {
    const gone = await browser.get(`${other.url}${path}`, { headers: navigation })
    t.same([gone.status, gone.json().code], [404, 'not_found'], 'between two releases there is nothing')
  }
})

// A build leaves its .env, a deployment its .git in the folder; scanners ask every host for both.
test('dotfiles are not served, whatever they are called', async t => {
  const paths = [
    ...[
      '/.env',
      '/%2eenv',
      '/.git/config',
      '/%2Egit/config',
      '/.git/',
      '/nested/.env.production',
      '/nested/%2eenv.production',
    ],
    ...['/..2026_01_01/mounted.js', '/.well-known/../.env', '/x/.well-known/y', '/.git', '/.gitignore', '/assets/.'],
  ]
  for (const path of paths)
    for (const headers of [{}, navigation]) {
      const answer = await rawGet(path, headers)
      t.match(answer, /^HTTP\/1\.1 40[04] /, path)
      t.notMatch(answer, hidden)
    }
  t.match((await get('/.well-known/security.txt')).text, 'Contact:', 'but what a site tells about itself is (RFC 8615)')
})

// An archive that is unpacked into the folder brings a link to /run/secrets; whoever guesses its name reads the keys.
test('a link that leads out of the folder is not followed, and one within it is', async t => {
  for (const path of ['/linked.txt', '/linked/secret.txt', '/linked/', '/linked', '/sibling/secret.txt', '/loop.js']) {
    const answer = await get(path)
    t.equal(answer.status, 404, path)
    t.notMatch(answer.text, hidden)
  }
  const neighbour = await get('/only-gzip.css', { 'Accept-Encoding': 'br' })
  t.notMatch(neighbour.text, hidden, 'nor one that poses as the compressed file')
  t.equal((await get('/mounted.js')).text, 'mounted', 'as a mounted ConfigMap is made')
})

// Readers disagree about encoded separators: one takes `..%2f` for a name, the next for the way out of the folder.
test('a path that is none stays within the folder and is a client error', async t => {
  const up = ['..', '%2e%2e', '.%2e', '%2E.', '..%00', '..%0d']
  const separators = ['/', '%2f', '%5c', '\\', '%252f', '//', '/./']
  const climbing = up.flatMap(dots =>
    separators.map(separator => `/assets/${`${dots}${separator}`.repeat(4)}outside/secret.txt`),
  )
  const odd = [
    ...[
      '/plain.js%00',
      '/%00',
      '/%00.html',
      '/plain.js%00.png',
      '/%c0%ae%c0%ae/',
      '/%ff',
      '/%',
      '/%zz',
      '/a%5cb',
      '/a\\b',
    ],
    ...['/%2e', '/.', '/..', '/%2e%2e', '/%2f', '/%2fetc%2fpasswd', '/%5c%5cevil.test', '/orders/%0d%0aSet-Cookie:x=1'],
    ...['/plain.js/', '/plain.js/x', '/plain.js/..%2f', '/%7f', '/%c2%80'],
    ...[`/${'a'.repeat(300)}.js`, `/${'a'.repeat(8000)}.js`, `/${'%61'.repeat(2000)}.js`, `/${'a/'.repeat(3000)}b.js`],
    ...[`/${'a'.repeat(20_000)}.js`, `/${'%2e%2e%2f'.repeat(800)}`, `/${'../'.repeat(800)}`],
  ]
  for (const path of [...climbing, ...odd]) {
    const answer = await rawGet(path, {})
    t.match(answer, /^HTTP\/1\.1 4\d\d /, path.slice(0, 60))
    t.notMatch(answer, hidden)
    const opened = await rawGet(path, navigation)
    t.match(opened, /^HTTP\/1\.1 (4\d\d|200) /, `opened: ${path.slice(0, 60)}`)
    t.notMatch(opened, hidden)
    t.notMatch(opened, /^set-cookie/im)
  }
})

test('no folder is listed', async t => {
  for (const path of ['/assets/', '/assets', '/nested/', '/assets//', '/assets/?list=1']) {
    const answer = await get(path)
    t.match(String(answer.status), /^40[04]$/, path)
    t.notMatch(answer.text, /jquery|\.env/)
  }
})

test('no fault of the gateway was logged', async t => {
  t.same(
    gateway.log.map(line => JSON.parse(line)).filter(({ level }) => level >= 50),
    [],
  )
})

/** The answer to a target that no client would send as it is. */
function rawGet(target: string, headers: Record<string, string>): Promise<string> {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  return rawRequest(
    gateway.port,
    `GET ${target} HTTP/1.1\r\nHost: localhost:${gateway.port}\r\n${lines.join('')}Connection: close\r\n\r\n`,
  )
}
