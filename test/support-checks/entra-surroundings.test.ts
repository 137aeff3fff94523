import { createHash, randomBytes } from 'node:crypto'
import { createServer, get } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'tap'
import { createBrowser } from '../support/browser.ts'
import { startFakeApi } from '../support/entra/api.ts'
import { challenges, demands } from '../support/entra/challenges.ts'
import { startFakeGraph } from '../support/entra/graph.ts'
import { startEntra } from '../support/entra.ts'
import { type Json, startProvider } from '../support/provider.ts'
import { createApp } from './entra-app.ts'

test('what surrounds Entra behaves as its documents say', async t => {
  const entra = await startEntra()
  t.teardown(() => entra.close())
  t.afterEach(() => t.same(entra.errors, [], 'nothing broke inside'))
  const app = createApp(entra)

  t.test('an API takes tokens for itself alone', async t => {
    const api = await startFakeApi({ entra, audience: 'api://a' })
    t.teardown(() => api.close())
    const ask = (token: unknown) => fetch(api.url, { headers: { authorization: `Bearer ${token}` } })
    const { json, refreshToken } = await app.login()
    t.equal((await ask(json.access_token)).status, 200)
    t.equal((await ask((await app.refresh(refreshToken, { scope: 'api://b/x' })).json.access_token)).status, 401)
    t.equal((await ask((await app.refresh(refreshToken, { scope: 'openid' })).json.access_token)).status, 401)
    t.equal((await ask(json.id_token)).status, 401)
    t.equal((await fetch(api.url)).status, 401)
    t.match(api.seen[0]?.claims, { aud: 'api://a' })
  })

  t.test('an API answers with claims challenges of every shape', async t => {
    const api = await startFakeApi({ entra, audience: 'api://a' })
    t.teardown(() => api.close())
    const { json } = await app.login()
    const claims = demands.acrs('c1')
    const ask = () =>
      new Promise<{ status: number | undefined; headers: string[] }>((resolve, reject) => {
        const headers = { authorization: `Bearer ${json.access_token}` }
        get(api.url, { headers, maxHeaderSize: 300_000, agent: false }, response => {
          response.resume()
          const lines = response.rawHeaders
          const values = lines.filter((_, index) => lines[index - 1]?.toLowerCase() === 'www-authenticate')
          resolve({ status: response.statusCode, headers: values })
        }).on('error', reject)
      })
    const claimsIn = (value: string) => /claims="([^"]*)"/.exec(value)?.[1] ?? ''
    for (const make of Object.values(challenges)) {
      const headers = make(claims as never)
      api.challenge = { headers }
      t.same(await ask(), { status: 401, headers })
    }
    t.match(
      challenges.plain(claims)[0],
      'claims="eyJhY2Nlc3NfdG9rZW4iOnsiYWNycyI6eyJlc3NlbnRpYWwiOnRydWUsInZhbHVlIjoiYzEifX19"',
    )
    for (const make of [challenges.base64url, challenges.shuffled]) {
      t.same(JSON.parse(Buffer.from(claimsIn(make(claims).join()), 'base64').toString()), claims)
    }
    t.equal(challenges.amongOthers(claims).length, 3)
    t.ok(String(challenges.huge()).length > 100_000)
    api.challenge = { headers: challenges.plain(claims), times: 1 }
    api.challenge.unless = token => Array.isArray(token.acrs)
    const strong = await app.login({ claims: JSON.stringify(claims) })
    const answer = await fetch(api.url, { headers: { authorization: `Bearer ${strong.json.access_token}` } })
    t.equal(answer.status, 200, 'a token that satisfies the challenge is let in')
  })

  t.test('Graph hands out groups in pages, also pointing elsewhere', async t => {
    const graph = await startFakeGraph()
    t.teardown(() => graph.close())
    const { json, idToken } = await app.login({ scope: 'openid profile offline_access' })
    const headers = { authorization: `Bearer ${json.access_token}` }
    graph.groups.set(String(idToken.oid), ['g1', 'g2', 'g3'])
    graph.pageSize = 2
    const page = async (url: string) => (await (await fetch(url, { headers })).json()) as Record<string, never>
    const first = await page(`${graph.url}/v1.0/me/transitiveMemberOf?$select=id`)
    t.match(first, { value: [{ id: 'g1' }, { id: 'g2' }] })
    t.match(await page(String(first['@odata.nextLink'])), { value: [{ id: 'g3' }] })
    graph.nextLink = 'https://evil.test/next'
    t.equal((await page(`${graph.url}/v1.0/me/transitiveMemberOf`))['@odata.nextLink'], graph.nextLink)
    const all = await fetch(`${graph.url}/v1.0/me/getMemberObjects`, { method: 'POST', headers })
    t.same(await all.json(), { value: ['g1', 'g2', 'g3'] })
    const mine = { authorization: `Bearer ${(await app.login()).json.access_token}` }
    t.equal((await fetch(`${graph.url}/v1.0/me/transitiveMemberOf`, { headers: mine })).status, 401)
  })

  t.test('a logout with the hint goes straight back and tells every app the sid alone', async t => {
    const heard: { method: string | undefined; url: string | undefined; cookie: string | undefined }[] = []
    const listener = createServer((req, res) => {
      heard.push({ method: req.method, url: req.url, cookie: req.headers.cookie })
      res.end('done')
    })
    await new Promise<void>(resolve => listener.listen(0, '127.0.0.1', resolve))
    t.teardown(() => listener.close())
    const base = `http://127.0.0.1:${(listener.address() as AddressInfo).port}`
    entra.logoutUrls.push(`${base}/one`, `${base}/two?a=b`)
    const back = 'http://localhost:4711/out'
    const atHome = (url: URL) => url.origin !== entra.origin
    const logoutUrl = (hint?: unknown) =>
      `${app.at('oauth2/v2.0/logout')}?${new URLSearchParams({
        post_logout_redirect_uri: back,
        client_id: entra.clientId,
        ...(hint !== undefined && { logout_hint: String(hint) }),
      })}`

    const browser = createBrowser()
    const { idToken } = await app.redeem(await app.signIn({}, browser))
    const picker = await browser.navigate(logoutUrl())
    t.equal(picker.status, 200)
    t.match(picker.text, 'account-picker')
    const byName = await browser.navigate(logoutUrl('alice'))
    t.match(byName.text, 'account-picker', 'a user name is no hint')
    t.same(heard, [], 'nothing has ended')
    t.ok((await app.signIn({ prompt: 'none' }, browser)).searchParams.has('code'))

    const end = await browser.navigate(logoutUrl(idToken.login_hint), { stopBefore: atHome })
    t.equal(end.status, 302)
    t.equal(end.chain.length, 1)
    t.equal(end.headers.location, back)
    const sid = String(idToken.sid)
    const expected = [`/one?sid=${sid}`, `/two?a=b&sid=${sid}`]
    t.same(heard.map(({ url }) => url).sort(), expected)
    t.same([...new Set(heard.map(({ method, cookie }) => `${method} ${cookie}`))], ['GET undefined'])
    t.match(entra.frontchannelCalls, [{ status: 200, body: 'done' }, { status: 200 }])
    t.equal((await app.signIn({ prompt: 'none' }, browser)).searchParams.get('error'), 'login_required')
    const unknown = await browser.navigate(logoutUrl('x').replace('localhost%3A4711', 'evil.test'))
    t.match([unknown.status, unknown.text], [400, 'not registered'])

    heard.length = 0
    const { refreshToken } = await app.login({ user: 'bob' })
    const calls = await entra.signOutElsewhere('bob')
    t.equal(calls.length, 2)
    t.same(
      heard.map(({ url }) => url).sort(),
      entra.sidsOf('bob').flatMap(s => [`/one?sid=${s}`, `/two?a=b&sid=${s}`]),
    )
    t.equal((await app.refresh(refreshToken)).status, 200, 'single sign-out leaves refresh tokens alone')
  })

  t.test('the account picker goes on when it is answered', async t => {
    entra.logoutUrls.length = 0
    const browser = createBrowser()
    await app.signIn({}, browser)
    const end = await app.throughProvider(browser, app.at('oauth2/v2.0/logout'))
    t.match(end.text, 'You signed out')
  })
})

test('Azure AD B2C keeps user flows apart, and gives no access token unasked', async t => {
  const tenant = '33333333-3333-4333-8333-333333333333'
  const entra = await startEntra({ b2c: true, tenants: [tenant], domains: { 'contoso.onmicrosoft.com': tenant } })
  t.teardown(() => entra.close())
  const app = createApp(entra, 'contoso.onmicrosoft.com/b2c_1_signin')
  const { json: metadata } = await app.document(
    'contoso.onmicrosoft.com/B2C_1_signin/v2.0/.well-known/openid-configuration',
  )
  t.equal(metadata.issuer, `${entra.origin}/${tenant}/v2.0/`)
  t.match(metadata.token_endpoint, /\/contoso.onmicrosoft.com\/B2C_1_signin\/oauth2\/v2.0\/token$/)
  const scope = 'openid offline_access'
  const { idToken, refreshToken, json } = await app.login({ scope })
  t.match(idToken, { iss: metadata.issuer, acr: 'b2c_1_signin' })
  t.notOk('access_token' in json)
  const refreshed = await app.refresh(refreshToken, { scope })
  t.equal(refreshed.status, 200)
  t.match(refreshed.json, {
    token_type: 'Bearer',
    not_before: Number,
    id_token_expires_in: 3600,
    scope: 'offline_access openid',
    refresh_token_expires_in: 7_776_000,
  })
  t.notOk('access_token' in refreshed.json || 'expires_in' in refreshed.json)
  const withToken = await app.refresh(refreshToken, { scope: `${scope} ${entra.clientId}` })
  t.match(withToken.accessToken, { aud: entra.clientId })
  t.match([withToken.json.expires_in, withToken.json.not_before], [/^\d+$/, /^\d+$/])
  t.type(withToken.json.expires_in, 'string')
  const elsewhere = await app.refresh(refreshToken, { scope }, 'contoso.onmicrosoft.com/b2c_1_reset')
  t.match([elsewhere.status, elsewhere.json.error], [400, 'invalid_grant'])
  t.same(entra.errors, [])
})

test('a provider may say nothing about the refresh token, which works on', async t => {
  const provider = await startProvider({ rotation: 'unmentioned', autoLogin: 'alice' })
  t.teardown(() => provider.close())
  const { first, refresh } = await signInAt(provider)
  for (let times = 0; times < 3; times += 1) {
    const { status, json } = await refresh(String(first.refresh_token))
    t.equal(status, 200)
    t.notOk('refresh_token' in json)
    t.ok(json.access_token)
  }
})

test('a provider may revoke the whole family when a token is used again too late', async t => {
  for (const graceSeconds of [0, 3]) {
    const provider = await startProvider({ rotation: { graceSeconds }, autoLogin: 'alice' })
    t.teardown(() => provider.close())
    const { first, refresh } = await signInAt(provider)
    const second = await refresh(String(first.refresh_token))
    if (graceSeconds > 0) {
      t.equal((await refresh(String(first.refresh_token))).status, 200, 'within the leeway')
      await new Promise(resolve => setTimeout(resolve, graceSeconds * 1000 + 50))
    }
    t.match(await refresh(String(first.refresh_token)), { status: 400, json: { error: 'invalid_grant' } })
    t.match(await refresh(String(second.json.refresh_token)), { status: 400, json: { error: 'invalid_grant' } })
  }
})

/** Tokens of a provider without Entra's ways. */
async function signInAt(provider: Awaited<ReturnType<typeof startProvider>>) {
  const code_verifier = randomBytes(32).toString('base64url')
  const redirect_uri = 'http://localhost/bff/callback'
  const { clientId: client_id, clientSecret: client_secret } = provider
  const query = new URLSearchParams({
    client_id,
    redirect_uri,
    response_type: 'code',
    scope: 'openid offline_access',
    code_challenge: createHash('sha256').update(code_verifier).digest('base64url'),
    code_challenge_method: 'S256',
  })
  const page = await createBrowser().navigate(`${provider.issuer}/auth?${query}`, {
    stopBefore: url => url.origin !== provider.issuer,
  })
  const code = new URL(page.headers.location ?? '').searchParams.get('code') ?? ''
  const token = async (params: Record<string, string>) => {
    const body = new URLSearchParams({ client_id, client_secret, ...params })
    const response = await fetch(`${provider.issuer}/token`, { method: 'POST', body })
    return { status: response.status, json: (await response.json()) as Json }
  }
  const { json: first } = await token({ grant_type: 'authorization_code', code, redirect_uri, code_verifier })
  return { first, refresh: (refresh_token: string) => token({ grant_type: 'refresh_token', refresh_token }) }
}
