import { decodeJwt } from 'jose'
import { type Test, test } from 'tap'
import { createBrowser } from '../support/browser.ts'
import { type DpopApi, protect } from '../support/dpop-api.ts'
import { startGateway } from '../support/gateway.ts'
import type { ProviderOptions, ProviderRequest } from '../support/provider.ts'
import { login, type Stage, sessionCookie, startStage } from '../support/stage.ts'

const bound = { OIDC_DPOP: 'true', UPSTREAM_U0_DPOP: 'true' }

/** A stage whose tokens are bound, before an API that takes no others. */
async function startBound(t: Test, provider: ProviderOptions = {}): Promise<{ stage: Stage; api: DpopApi }> {
  const stage = await startStage(t, { env: bound, provider: { accessTokens: 'jwt', ...provider } })
  t.afterEach(async () => {
    const dump = (await stage.redis.dump()).toString('latin1')
    for (const text of [dump, stage.gateway.log.join('')])
      if (/\\?"(d|kty|dpopKey)\\?":|"jti"/.test(text)) throw new Error('a key, or a proof, is in Redis or the log')
  })
  return { stage, api: protect(stage.upstream, { now: stage.clock.now }) }
}

const nonceAsked = {
  status: 400,
  headers: { 'content-type': 'application/json', 'dpop-nonce': 'again' },
  body: { error: 'use_dpop_nonce' },
}
const proofIn = (request: ProviderRequest | undefined) => decodeJwt(String(request?.headers.dpop))

test('tokens that are bound to a key of the session', async t => {
  const { stage, api } = await startBound(t)
  const { gateway, provider, upstream } = stage
  const alice = await stage.loggedIn('alice')
  // The stage takes a 502 for a fault of the gateway.
  const unwatched = createBrowser({ origin: gateway.url, jar: alice.jar })
  t.beforeEach(() => {
    api.verdicts.length = 0
    api.proofs.length = 0
    upstream.requests.length = 0
  })

  t.test('reach the API with a proof for the very request', async t => {
    for (const path of ['/items', '/items?page=2&htu=x', '/a%20b/%C3%A4/c/', '/', '', '/x/.well-known'])
      t.equal((await alice.api(`/api${path}`)).status, 200, path)
    t.equal((await alice.api('/api/items', { method: 'POST', body: { a: 1 } })).status, 200)
    t.equal((await alice.api('/api/items', { method: 'HEAD' })).status, 200)
    t.same(api.verdicts, Array(8).fill('ok'))
    t.equal(new Set(api.proofs.map(({ jti }) => jti)).size, 8, 'none is used twice')
    t.equal(new Set(api.proofs.map(({ jkt }) => jkt)).size, 1, 'all by one key')
  })

  // A token and a proof are read from a log of the API, and sent to another address (RFC 9449 §11.1).
  t.test('are worth nothing to who steals them with their proof', async t => {
    await alice.api('/api/items')
    const stolen = upstream.requests[0] as (typeof upstream.requests)[number]
    const bob = await stage.loggedIn('bob')
    await bob.api('/api/items')
    const other = upstream.requests[1]?.headers.authorization ?? ''
    const now = stage.clock.now()
    const judge = (change: object, headers: object = {}, at = now) =>
      api.judge({ ...stolen, ...change, headers: { ...stolen.headers, ...headers } }, at)
    t.equal(await judge({ url: '/orders' }), 'address')
    t.equal(await judge({ method: 'DELETE' }), 'method')
    t.equal(await judge({}), 'replay')
    t.equal(await judge({}, {}, now + 60_000), 'time')
    t.equal(await judge({}, { authorization: other }), 'token')
    t.equal(await judge({}, { authorization: stolen.headers.authorization?.replace('DPoP', 'Bearer') }), 'scheme')
    t.equal(await judge({}, { dpop: undefined }), 'proof')
    t.not(api.proofs[0]?.jkt, api.proofs[1]?.jkt, 'each session has a key of its own')
  })

  // The client sends a proof of its own, for a token of its own, or just to confuse (RFC 9449 §4.3 rule 1).
  t.test('go with one proof, whatever the client sends', async t => {
    const headers = [
      ['DPoP', 'e30.e30.e30'],
      ['dpop', 'e30.e30.e30'],
      ['Authorization', 'DPoP attacker'],
      ['DPoP-Nonce', 'x'],
    ] as [string, string][]
    t.equal((await alice.api('/api/items', { headers })).status, 200)
    const { rawHeaders } = upstream.requests[0] ?? { rawHeaders: [] }
    const names = rawHeaders.filter((_, index) => index % 2 === 0).map(name => name.toLowerCase())
    t.equal(names.filter(name => name === 'dpop').length, 1)
    t.equal(names.filter(name => name === 'authorization').length, 1)
    t.notMatch(rawHeaders.join(), /attacker|e30/)
  })

  t.test('are asked for with a proof, for a code that is bound as well', async t => {
    provider.clear()
    await stage.loggedIn('carol')
    const asked = provider.of('authorization').find(({ query }) => query.has('scope'))
    const jkt = asked?.query.get('dpop_jkt')
    t.match(jkt, /^[\w-]{43}$/)
    const [exchange] = provider.tokenCalls()
    t.match(proofIn(exchange), { htm: 'POST', htu: `${provider.issuer}/token` })
    t.equal((decodeJwt([...provider.issued.accessTokens].at(-1) ?? '').cnf as { jkt: string }).jkt, jkt)
    const [userInfo] = provider.of('userinfo')
    t.match(userInfo?.headers.authorization, /^DPoP /)
    t.match(proofIn(userInfo), { htm: 'GET', ath: /./ })
  })

  t.test('are renewed with the same key', async t => {
    const dora = await stage.loggedIn('dora')
    const honest = upstream.respond
    await dora.api('/api/items')
    upstream.respond = (_request, res) => {
      upstream.respond = honest
      res.writeHead(401, { 'www-authenticate': 'DPoP error="invalid_token"' })
      res.end()
    }
    provider.clear()
    t.equal((await dora.api('/api/items')).status, 200, 'with the new token')
    t.equal(provider.tokenCalls('refresh_token').length, 1)
    t.equal(api.proofs[0]?.jkt, api.proofs[1]?.jkt)
    t.not(api.proofs[0]?.ath, api.proofs[1]?.ath)
  })

  // Somebody between gateway and provider takes the proof away, to get tokens that are good for whoever has them.
  t.test('are not exchanged for unbound ones at the login', async t => {
    for (const type of ['Bearer', 'bearer', 'N_A', undefined]) {
      provider.clear()
      provider.tamper.tokenResponse = response => ({ ...response, token_type: type })
      const browser = stage.browser()
      const end = await login(browser, gateway.url, provider, { user: 'eve' })
      t.equal(end.chain.find(({ url }) => url.includes('/callback?'))?.status, 400, String(type))
      t.equal(browser.jar.get(sessionCookie), undefined)
      provider.reset()
    }
  })

  t.test('are not exchanged for unbound ones by a refresh: the session lives, the token is not used', async t => {
    const frank = await stage.loggedIn('frank')
    provider.tamper.tokenResponse = response => ({ ...response, token_type: 'Bearer' })
    const honest = upstream.respond
    upstream.respond = (_request, res) => void res.writeHead(401).end()
    t.equal((await frank.api('/api/items')).status, 401, 'the answer of the API, since there is no other token')
    upstream.respond = honest
    provider.reset()
    t.equal((await frank.api('/api/items')).status, 200)
    t.equal((await frank.api('/bff/user')).status, 200)
    t.same(provider.replays(), [])
  })

  // An API, or somebody in its place, asks for another nonce for ever, to keep the gateway busy (RFC 9449 §9).
  t.test('cost an API that never has enough of nonces two requests a request', async t => {
    api.nonces = 'never right'
    const answer = await unwatched.api('/api/items')
    t.match([answer.status, answer.json()], [502, { code: 'bad_upstream' }])
    t.equal(upstream.requests.length, 2)
    t.equal(answer.headers['www-authenticate'], undefined)
    t.match(answer.headers['retry-after'], '1')
    api.nonces = 'none'
  })

  t.test('carry the nonce that an API asks for, and whatever cannot be sent again is not', async t => {
    api.nonces = 'required'
    api.expireNonce()
    const first = await alice.api('/api/items')
    t.equal(first.status, 200)
    t.equal(first.headers['dpop-nonce'], undefined, 'which is nobody else’s')
    t.same(api.verdicts, ['nonce', 'ok'])
    t.equal((await alice.api('/api/items', { method: 'POST', body: { a: 1 } })).status, 200)
    t.same(api.verdicts, ['nonce', 'ok', 'ok'], 'once it is known, no request is sent twice')
    api.expireNonce()
    const post = () => unwatched.api('/api/items', { method: 'POST', body: { a: 1 } })
    const refused = await post()
    t.match([refused.status, refused.json()], [502, { code: 'bad_upstream' }], 'and not 401: a login would not help')
    t.equal((await post()).status, 200)
    api.nonces = 'none'
  })

  t.test('are left alone by a challenge without a nonce, and by one that is none', async t => {
    const honest = upstream.respond
    const challenges = [undefined, '', 'a b', 'x'.repeat(5000), '"quoted"', 'back\\slash']
    for (const nonce of challenges) {
      upstream.requests.length = 0
      upstream.respond = (_request, res) =>
        void res
          .writeHead(401, { 'www-authenticate': 'DPoP error="use_dpop_nonce"', ...(nonce && { 'dpop-nonce': nonce }) })
          .end()
      t.equal((await unwatched.api('/api/items')).status, 502)
      t.equal(upstream.requests.length, 1)
    }
    upstream.respond = honest
    t.equal((await alice.api('/api/items')).status, 200)
  })

  t.test('stay bound when DPoP is turned off, and unbound sessions stay so when it is turned on', async t => {
    const keysEnv = {
      SESSION_KEYS: Buffer.from(Array.from({ length: 32 }, (_, index) => index * 7)).toString('base64'),
    }
    const common = { provider, clock: stage.clock, upstreams: { '/api': upstream.url } }
    const env = { REDIS_URL: stage.redis.url, REDIS_PREFIX: 'switch:', ...keysEnv }
    const on = await startGateway({ ...common, env: { ...env, ...bound } })
    const off = await startGateway({ ...common, env })
    t.teardown(() => Promise.all([on.close(), off.close()]))
    for (const [first, second, verdict] of [
      [on, off, 'ok'],
      [off, on, 'scheme'],
    ] as const) {
      const browser = stage.browser()
      await login(browser, first.url, provider, { user: 'gwen' })
      for (const { url } of [first, second]) await browser.request(`${url}/api/x`, { headers: { 'X-CSRF': '1' } })
      t.same(api.verdicts.splice(0).slice(0, 2), [verdict, verdict])
    }
  })
})

test('a provider that wants its nonce in proofs', async t => {
  const { stage, api } = await startBound(t, { dpopNonce: true })
  const { provider, clock, gateway } = stage

  t.test('is asked twice once, and from then on knows its nonce', async t => {
    await stage.loggedIn('alice')
    const [refused, redeemed, ...more] = provider.tokenCalls()
    t.same([refused?.answered, redeemed?.answered, more.length], [400, 200, 0])
    t.equal(refused?.form.get('code'), redeemed?.form.get('code'))
    t.not(proofIn(refused).jti, proofIn(redeemed).jti)
    provider.clear()
    await stage.loggedIn('bob')
    t.equal(provider.tokenCalls().length, 1)
  })

  t.test('renews tokens with one call', async t => {
    const carol = await stage.loggedIn('carol')
    t.equal((await carol.api('/api/items')).status, 200)
    provider.clear()
    clock.advance(300_000)
    t.equal((await carol.api('/api/items')).status, 200)
    t.equal(provider.tokenCalls('refresh_token').length, 1)
    t.equal(new Set(api.proofs.slice(-2).map(({ jkt }) => jkt)).size, 1)
  })

  // A provider whose nonces never suit must not be asked for ever, nor may a session die of it (RFC 9449 §8).
  t.test('is asked twice and no more, and no session ends over it', async t => {
    const dora = await stage.loggedIn('dora')
    provider.clear()
    provider.respond('token', nonceAsked)
    const browser = stage.browser()
    const end = await login(browser, gateway.url, provider, { user: 'eve' })
    t.equal(end.chain.find(({ url }) => url.includes('/callback?'))?.status, 503)
    t.equal(provider.tokenCalls('authorization_code').length, 2)
    clock.advance(300_000)
    const answer = await dora.api('/api/items')
    t.match([answer.status, answer.json()], [503, { code: 'provider_unavailable' }])
    t.equal(provider.tokenCalls('refresh_token').length, 2)
    provider.reset()
    t.equal((await dora.api('/api/items')).status, 200)
    t.same(provider.replays(), [])
  })
})

test('a provider that takes no proofs of ours is not asked to log anybody in', async t => {
  const { stage } = await startBound(t)
  stage.provider.tamper.discovery = metadata => ({ ...metadata, dpop_signing_alg_values_supported: ['RS512'] })
  stage.clock.advance(2 * 3_600_000)
  t.equal((await stage.browser().navigate(`${stage.gateway.url}/bff/login`)).status, 503)
})

test('with DPoP off nothing of it is said, to nobody', async t => {
  const stage = await startStage(t)
  const alice = await stage.loggedIn('alice')
  t.equal((await alice.api('/api/items')).status, 200)
  const said = [...stage.provider.requests, ...stage.upstream.requests]
  t.notOk(said.some(({ headers }) => 'dpop' in headers))
  t.notOk(stage.provider.of('authorization').some(({ query }) => query.has('dpop_jkt')))
})
