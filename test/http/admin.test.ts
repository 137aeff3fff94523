import tap, { type Test, test } from 'tap'
import { randomToken } from '../../src/core/random.ts'
import { sessionHandle, sessionIdOf, userHandle } from '../../src/core/session.ts'
import { rawRequest, type TestBrowser } from '../support/browser.ts'
import { eventually } from '../support/eventually.ts'
import { startGateway } from '../support/gateway.ts'
import { startProvider } from '../support/provider.ts'
import { sessionCookie, startStage } from '../support/stage.ts'

const adminToken = 'the-administrators-own-secret'
const stage = await startStage(tap, { memory: true, env: { ADMIN_TOKEN: adminToken } })
const { gateway, provider } = stage
const bearer = { authorization: `Bearer ${adminToken}` }
const json = { 'content-type': 'application/json' }

/** What the admin API answered. */
interface Answer {
  status: number
  headers: Headers
  text: string
  json(): Record<string, unknown>
}

async function send(
  body: RequestInit['body'],
  headers: Record<string, string> = { ...bearer, ...json },
  method = 'POST',
): Promise<Answer> {
  const init: RequestInit = { method, headers, redirect: 'manual', ...(body !== undefined && { body }) }
  const response = await fetch(`${gateway.internalUrl}/admin/revoke`, init)
  const text = await response.text()
  return { status: response.status, headers: response.headers, text, json: () => JSON.parse(text) }
}

const revoke = (selector: unknown) => send(JSON.stringify(selector))

const cookieOf = (browser: TestBrowser) => browser.jar.get(sessionCookie) ?? ''
const handleOf = (browser: TestBrowser) => sessionHandle(sessionIdOf(cookieOf(browser)))
const alive = async (browser: TestBrowser) => (await browser.api('/bff/user?slide=false')).status === 200

/** A refusal as a problem that is not to be stored and leads nowhere. */
function refused(t: Test, answer: Answer, status: number, code: string, name = code): void {
  t.match(
    [answer.status, answer.headers.get('content-type'), answer.headers.get('cache-control')],
    [status, /^application\/problem\+json/, 'no-store'],
    name,
  )
  t.match(answer.json(), { status, code, type: `urn:coatcheck:problem:${code}` }, name)
  t.same(
    [answer.headers.get('location'), answer.headers.get('set-cookie'), answer.json().loginUrl],
    [null, null, undefined],
    name,
  )
}

/** The provider's name of the session behind the newest ID token. */
function newestSid(): string {
  const token = [...provider.issued.idTokens].at(-1) ?? ''
  return JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()).sid
}

test('an administrator ends all sessions of a user, with everything that an end brings', async t => {
  const browsers = [await stage.loggedIn('anna'), await stage.loggedIn('anna'), await stage.loggedIn('anna')]
  const refreshTokens = [...provider.issued.refreshTokens].slice(-3)
  const other = await stage.loggedIn('berta')
  const stream = await browsers[0]?.stream('/bff/events')
  const answer = await revoke({ iss: provider.issuer, sub: 'anna' })
  t.same([answer.status, answer.json()], [200, { ended: 3 }])
  t.match(answer.headers.get('content-type'), /^application\/json/)
  for (const browser of browsers) {
    const refusal = await browser.api('/bff/user')
    t.match([refusal.status, refusal.json()], [401, { code: 'session_revoked', reason: 'admin' }])
    t.equal((await browser.api('/api/items')).status, 401)
  }
  await stream?.waitFor(/event: ended\ndata: {"reason":"admin"}\n\n$/, 10_000)
  for (const token of refreshTokens)
    t.ok(await eventually(() => provider.revocations().some(call => call.form.get('token') === token)), 'revoked')
  const user = userHandle({ issuer: provider.issuer, subject: 'anna' })
  const record = gateway.events('session_ended').filter(event => event.user === user)
  t.same(new Set(record.map(({ session }) => session)), new Set(browsers.map(handleOf)), 'an audit record for each')
  t.match(record, [{ reason: 'admin' }, { reason: 'admin' }, { reason: 'admin' }])
  t.ok(await alive(other), 'nobody else is touched')
  t.same((await revoke({ iss: provider.issuer, sub: 'anna' })).json(), { ended: 0 }, 'a second time there is none')
})

test('sessions are ended by handle, by the session at the provider, and by user, with the issuer assumed', async t => {
  const first = await stage.loggedIn('carl')
  const sid = newestSid()
  const [second, third] = [await stage.loggedIn('carl'), await stage.loggedIn('carl')]
  const living = async () => Promise.all([first, second, third].map(alive))
  t.same((await revoke({ sid, iss: provider.issuer })).json(), { ended: 1 })
  t.same(await living(), [false, true, true])
  t.same((await revoke({ session: handleOf(second) })).json(), { ended: 1 })
  t.same(await living(), [false, false, true])
  t.same((await revoke({ sub: 'carl' })).json(), { ended: 1 })
  t.same(await living(), [false, false, false])
  stage.clock.advance(1)
  const again = await stage.loggedIn('carl')
  t.same((await revoke({ sid: newestSid() })).json(), { ended: 1 })
  t.notOk(await alive(again))
})

// A selector that reaches further than it says ends the sessions of strangers, and leaves those that were meant.
test('what names nobody here ends nothing', async t => {
  const browser = await stage.loggedIn('dora')
  const sid = newestSid()
  const cookie = cookieOf(browser)
  const nobody = [
    { session: cookie },
    { session: sessionIdOf(cookie) },
    { session: `coatcheck:session:${sessionIdOf(cookie)}` },
    { session: handleOf(browser).slice(0, -1) },
    { session: sid },
    { session: 'dora' },
    { session: '*' },
    { sid: handleOf(browser) },
    { sid, iss: `${provider.issuer}/` },
    { sub: 'dora', iss: 'https://another.test' },
    { sub: 'dora', iss: provider.issuer.toUpperCase() },
    { sub: 'Dora' },
    { sub: 'dora ' },
    { sub: '*' },
    { sub: 'dora@example.test' },
    { sub: '__proto__' },
    { sub: 'x'.repeat(512) },
  ]
  for (const selector of nobody) {
    const answer = await revoke(selector)
    t.same([answer.status, answer.json()], [200, { ended: 0 }], JSON.stringify(selector).slice(0, 60))
  }
  t.ok(await alive(browser))
})

// An open login would go on after the end of all sessions, and bring the thief back in.
test('a login that was under way when all sessions were ended opens none', async t => {
  const browser = stage.browser()
  const callback = await stage.pendingCallback(browser, 'emma')
  const reached = provider.of('userinfo').length
  let release = () => {}
  const held = new Promise<void>(resolve => {
    release = resolve
  })
  provider.respond('token', async () => held.then(() => 'pass' as const), { times: 1 })
  const opening = stage.open(browser, callback)
  t.ok(await eventually(() => provider.tokenCalls('authorization_code').at(-1)?.answered === undefined))
  t.same((await revoke({ sub: 'emma' })).json(), { ended: 0 })
  const lowerCase = await send(JSON.stringify({ sub: 'emma' }), { ...json, authorization: `bearer ${adminToken}` })
  t.same(lowerCase.json(), { ended: 0 }, 'the name of the scheme is the same in any case (RFC 9110 §11.1)')
  release()
  t.equal((await opening).status, 400)
  t.ok(provider.of('userinfo').length > reached, 'the login itself had succeeded')
  t.equal(cookieOf(browser), '')
  const [token] = [...provider.issued.refreshTokens].slice(-1)
  t.ok(await eventually(() => provider.revocations().some(call => call.form.get('token') === token)))
})

// The secret is guessed, left out, sent in another way, or in a session of the gateway.
test('without the bearer secret every request gets one and the same refusal, and ends nothing', async t => {
  const browser = await stage.loggedIn('frida')
  const wrong: Record<string, string>[] = [
    {},
    { authorization: '' },
    { authorization: 'Bearer' },
    { authorization: 'Bearer ' },
    { authorization: adminToken },
    { authorization: `Bearer ${adminToken.slice(0, -1)}` },
    { authorization: `Bearer ${adminToken}x` },
    { authorization: `Bearer ${adminToken.toUpperCase()}` },
    { authorization: `Bearer  ${adminToken}` },
    { authorization: `Bearer ${adminToken},Bearer ${adminToken}` },
    { authorization: `Bearer ${randomToken()}` },
    { authorization: `Bearer ${'x'.repeat(8000)}` },
    { authorization: `Bearer ${[...provider.issued.accessTokens].at(-1)}` },
    { authorization: `Basic ${Buffer.from(`admin:${adminToken}`).toString('base64')}` },
    { 'x-admin-token': adminToken },
    { cookie: `admin=${adminToken}` },
    { cookie: `${sessionCookie}=${cookieOf(browser)}`, 'x-csrf': '1' },
  ]
  const audited = gateway.events('admin_refused').length
  const answers: Answer[] = []
  const bodies = [JSON.stringify({ sub: 'frida' }), '{', 'x'.repeat(2_000_000)]
  for (const headers of wrong) answers.push(await send(bodies[0] ?? '', { ...json, ...headers }))
  for (const body of bodies) answers.push(await send(body, json), await send(body, { 'content-type': 'text/csv' }))
  for (const answer of answers) {
    refused(t, answer, 401, 'not_authenticated')
    t.equal(answer.headers.get('www-authenticate'), 'Bearer')
    t.equal(answer.text, answers[0]?.text, 'the same whatever was wrong')
  }
  t.equal(gateway.events('admin_refused').length - audited, answers.length, 'each is in the audit log')
  t.notMatch(gateway.log.join(''), adminToken, 'and the secret is in no log')
  const inQuery = await fetch(`${gateway.internalUrl}/admin/revoke?access_token=wrong&token=wrong`, { method: 'POST' })
  t.equal(inQuery.status, 401)
  t.ok(await alive(browser))
})

test('a body that is no selector is refused, and ends nothing', async t => {
  const browser = await stage.loggedIn('greta')
  const handle = handleOf(browser)
  const malformed: unknown[] = [
    {},
    [],
    null,
    true,
    7,
    'greta',
    { sub: '' },
    { sub: null },
    { sub: 7 },
    { sub: ['greta'] },
    { sub: { $ne: '' } },
    { sub: 'x'.repeat(513) },
    { iss: provider.issuer },
    { iss: '', sub: 'greta' },
    { iss: null, sub: 'greta' },
    { user: 'greta' },
    { SUB: 'greta' },
    { sub: 'greta', sid: 'x' },
    { sub: 'greta', session: handle },
    { session: handle, iss: provider.issuer },
    { session: handle, more: true },
    { session: '' },
    { session: [handle] },
    { sid: '' },
    [{ sub: 'greta' }],
  ]
  for (const body of malformed) refused(t, await revoke(body), 400, 'bad_request', JSON.stringify(body).slice(0, 60))
  for (const body of ['', '{', '{"sub":"greta"', '{"sub":"greta"}}', "{'sub':'greta'}", 'sub=greta', '\0', '\ufeff'])
    refused(t, await send(body), 400, 'bad_request', JSON.stringify(body))
  for (const body of ['{"sub":"greta","__proto__":{"x":1}}', '{"sub":"greta","constructor":{"prototype":{}}}'])
    refused(t, await send(body), 400, 'bad_request', body)
  refused(t, await send(undefined, bearer), 400, 'bad_request', 'no body at all')
  refused(t, await send(Buffer.from([0xff, 0xfe, 0x7b]), { ...bearer, ...json }), 400, 'bad_request', 'not UTF-8')
  t.ok(await alive(browser))
})

test('another media type is 415, and a body that is too large 413', async t => {
  const browser = await stage.loggedIn('hilde')
  const body = JSON.stringify({ sub: 'hilde' })
  const types = ['text/plain', 'text/plain;charset=UTF-8', 'application/x-www-form-urlencoded', 'multipart/form-data']
  for (const type of [
    ...types,
    'application/xml',
    'text/json',
    'application/jsonp',
    'json',
    'application/octet-stream',
  ])
    refused(t, await send(body, { ...bearer, 'content-type': type }), 415, 'unsupported_media_type', type)
  refused(t, await send(Buffer.from(body), bearer), 415, 'unsupported_media_type', 'none')
  t.ok(await alive(browser))
  const large = JSON.stringify({ sub: 'hilde', pad: 'x'.repeat(1_100_000) })
  refused(t, await send(large), 413, 'payload_too_large')
  t.ok(await alive(browser))
  const charset = await send(body, { ...bearer, 'content-type': 'application/json; charset=utf-8' })
  t.same([charset.status, charset.json()], [200, { ended: 1 }])
})

test('another method is 405 and says which is allowed', async t => {
  for (const method of ['GET', 'HEAD', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
    for (const headers of [{}, bearer]) {
      const answer = await send(undefined, headers, method)
      t.same([answer.status, answer.headers.get('allow')], [405, 'POST'], method)
      if (method !== 'HEAD') refused(t, answer, 405, 'method_not_allowed', method)
    }
  }
})

// The admin API must be out of reach of browsers: not on the public port, however the path is written.
test('there is no admin API on the public port', async t => {
  const browser = await stage.loggedIn('ilse')
  const headers = { ...bearer, ...json }
  const body = JSON.stringify({ sub: 'ilse' })
  for (const path of ['/admin/revoke', '/bff/admin/revoke', '/admin%2frevoke', '/bff/../admin/revoke']) {
    const answer = await browser.api(path, { method: 'POST', headers, body })
    t.equal(answer.status, 404, path)
  }
  const { host } = new URL(gateway.internalUrl)
  for (const [target, status] of [
    ['/admin/revoke', 404],
    ['//admin/revoke', 400],
    [`${gateway.internalUrl}/admin/revoke`, 400],
  ]) {
    const head = [
      `POST ${target} HTTP/1.1`,
      `Host: ${host}`,
      `Authorization: Bearer ${adminToken}`,
      'Content-Type: application/json',
      `Content-Length: ${body.length}`,
      'Connection: close',
    ]
    const answer = await rawRequest(gateway.port, `${head.join('\r\n')}\r\n\r\n${body}`)
    t.match(answer, new RegExp(`^HTTP/1\\.1 ${status} `), `${target}, whatever host it asks for`)
  }
  t.ok(await alive(browser))
})

// A gateway without a secret must not take an empty or undefined one for right.
test('without ADMIN_TOKEN there is no admin API at all', async t => {
  const op = await startProvider()
  const without = await startGateway({ provider: op })
  t.teardown(() => Promise.all([without.close(), op.close()]))
  const secrets = ['', 'Bearer ', 'Bearer undefined', 'Bearer null', `Bearer ${adminToken}`]
  for (const method of ['GET', 'POST', 'PUT', 'DELETE', 'OPTIONS']) {
    for (const authorization of secrets) {
      const withBody = method === 'POST' || method === 'PUT'
      const answer = await fetch(`${without.internalUrl}/admin/revoke`, {
        method,
        headers: { authorization, ...(withBody && json) },
        ...(withBody && { body: '{"sub":"anna"}' }),
      })
      t.equal(answer.status, 404, `${method} with ${authorization}`)
      t.match(await answer.json(), { code: 'not_found' })
    }
  }
  t.equal((await fetch(`${without.internalUrl}/healthz`)).status, 200)
})
