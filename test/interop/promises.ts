import type { Test } from 'tap'
import { eventually } from '../support/eventually.ts'
import { accessTokenSeconds, type ForeignProvider, type Registration } from '../support/interop/provider.ts'
import { type InteropStage, partOf, startInterop, type Visitor } from '../support/interop/stage.ts'

/** In what providers differ. */
export interface Traits {
  start(registration: Registration): Promise<ForeignProvider>
  /** The gateway accepts the first by default, the others when told to. */
  algorithms: readonly [string, ...string[]]
  /** Further algorithms of its ID tokens, with what the gateway is told to accept and what its log says of them. */
  refused: readonly { algorithm: string; accepted: string; detail: string | RegExp }[]
  rotates: boolean
  /** What the audit log says of the refresh token after a logout. */
  revocation: 'revoked' | 'not_supported'
  /** What the token endpoint says of a refresh token that is over: the standard's error, or 400 and not a word. */
  deadToken: 'invalid_grant' | 'silence'
  /** Whether its logout page sends the browser back. */
  logoutReturns: boolean
  /** Ends this login at the provider, past the gateway; the refresh token is the one of the login. */
  endLogin(stage: InteropStage, visitor: Visitor, refreshToken: string): Promise<void>
}

/** What has to hold with any provider. */
export async function keepsItsPromises(t: Test, traits: Traits): Promise<InteropStage> {
  const [algorithm, ...otherAlgorithms] = traits.algorithms
  const stage = await startInterop(t, traits.start, [
    ...traits.algorithms,
    ...traits.refused.map(each => each.algorithm),
  ])
  const { provider, redis, url } = stage
  const sessions = async () => (await redis.keys()).filter(key => key.includes(':session:'))

  await t.test('a person signs in, calls the API, stays through refreshes, and signs out everywhere', async t => {
    const gateway = await stage.gateway(t, algorithm, { OIDC_USERINFO: 'always' })
    const visitor = await stage.visitor(t)
    await visitor.signIn()

    t.equal(visitor.page.url(), `${url}/welcome`)
    const { status, body } = await visitor.call('/bff/user')
    t.equal(status, 200)
    t.match(body.user, provider.user.claims)
    const cookies = await visitor.page.context().cookies(url)
    t.same(
      cookies.map(({ name }) => name),
      ['__Host-coatcheck'],
      'one cookie of the gateway and no other',
    )
    t.equal(provider.wire.at(provider.paths.userinfo).at(-1)?.status, 200, 'UserInfo was asked')

    const [first] = stage.tokenCalls('authorization_code').slice(-1)
    t.ok(first?.exchange.form.get('code_verifier'), 'PKCE')
    t.equal((await visitor.call('/api/items')).status, 200)
    t.same(stage.seenByApi(), [first?.tokens.access_token], 'the API got the access token')
    t.ok(first?.tokens.refresh_token, 'there is something to refresh with')

    const before = stage.tokenCalls('refresh_token').length
    const refreshes = () => stage.tokenCalls('refresh_token').slice(before)
    const limit = Date.now() + 2.5 * accessTokenSeconds * 1000
    const statuses = new Set<number>()
    while (Date.now() < limit && new Set(stage.seenByApi()).size < 3) {
      statuses.add((await visitor.call('/api/items')).status)
      await visitor.page.waitForTimeout(400)
    }
    t.same([...statuses], [200], 'no call failed meanwhile')
    t.equal(new Set(stage.seenByApi()).size, 3, 'the API got a second and a third access token')
    t.ok(refreshes().length <= 3, `${refreshes().length} refreshes in ${2.5 * accessTokenSeconds} seconds`)
    const presented = refreshes().map(({ exchange }) => exchange.form.get('refresh_token'))
    t.equal(
      new Set(presented).size,
      traits.rotates ? presented.length : 1,
      'a replaced refresh token never comes again',
    )
    t.match((await visitor.call('/bff/user')).body.user, provider.user.claims, 'the claims stay')

    const session = (await visitor.call('/bff/user')).body.session as { logoutUrl: string }
    const newest = [first, ...refreshes()]
      .map(call => call?.tokens.refresh_token)
      .findLast(token => token !== undefined)
    await visitor.page.goto(url + session.logoutUrl)
    await provider.confirmLogout(visitor.page)
    if (traits.logoutReturns) await visitor.page.waitForURL(`${url}/`)
    else {
      await visitor.page.waitForTimeout(2000)
      await visitor.page.goto(url)
    }
    t.equal((await visitor.call('/bff/user')).status, 401)
    t.same(await sessions(), [])
    const outcomes = () => gateway.events('revocation').map(event => event.outcome)
    t.ok(await eventually(() => outcomes().length > 0))
    t.same(outcomes(), [traits.revocation])
    const refusal = await stage.askForTokens(algorithm, {
      grant_type: 'refresh_token',
      refresh_token: newest ?? '',
    })
    const expected = traits.deadToken === 'invalid_grant' ? '{"error":"invalid_grant"}' : ''
    t.same(refusal, { status: 400, text: expected }, 'the newest refresh token is worth nothing at the provider')

    await visitor.page.goto(`${url}/bff/login`)
    t.ok(visitor.page.url().startsWith(provider.wire.url), 'the provider asks before anybody is signed in again')

    const secrets = stage
      .tokenCalls()
      .flatMap(call => [call.tokens.access_token, call.tokens.refresh_token, call.tokens.id_token])
    const log = gateway.log.join('')
    t.same(
      secrets.filter(secret => secret && log.includes(secret)),
      [],
      'no token in the log',
    )
  })

  await t.test('a login that is ended at the provider gets no further than the next refresh', async t => {
    const gateway = await stage.gateway(t, algorithm)
    const visitor = await stage.visitor(t)
    await visitor.signIn()
    const { refresh_token: refreshToken = '' } = stage.tokenCalls('authorization_code').at(-1)?.tokens ?? {}
    await traits.endLogin(stage, visitor, refreshToken)
    await visitor.page.goto(`${url}/welcome`)
    t.equal((await visitor.call('/api/items')).status, 200, 'nobody told the gateway')
    let answer = await visitor.call('/api/items')
    const limit = Date.now() + 2 * accessTokenSeconds * 1000
    while (Date.now() < limit && answer.status === 200) {
      await visitor.page.waitForTimeout(400)
      answer = await visitor.call('/api/items')
    }
    if (traits.deadToken === 'silence') {
      t.match(
        answer,
        { status: 503, body: { code: 'provider_unavailable' } },
        'an answer without an error code ends nothing',
      )
      t.equal((await visitor.call('/bff/user')).status, 200)
      return
    }
    t.match(answer, { status: 401, body: { code: 'session_expired' } })
    t.match(gateway.events('session_ended'), [{ reason: 'refresh_token_dead' }])
    t.match(gateway.events('refresh_token_reuse_suspected'), [{ severity: 'high' }])
    t.same(await sessions(), [])
  })

  for (const name of otherAlgorithms)
    await t.test(`an ID token signed with ${name} is accepted when configured`, async t => {
      await stage.gateway(t, name)
      const visitor = await stage.visitor(t)
      await visitor.signIn()
      t.equal((await visitor.call('/bff/user')).status, 200)
      const { id_token: idToken = '' } = stage.tokenCalls('authorization_code').at(-1)?.tokens ?? {}
      t.equal(partOf(idToken, 'header').alg, name)
    })

  await t.test('the client secret may go into the Authorization header', async t => {
    await stage.gateway(t, algorithm, { OIDC_CLIENT_AUTH: 'client_secret_basic' })
    const visitor = await stage.visitor(t)
    await visitor.signIn()
    t.equal((await visitor.call('/bff/user')).status, 200)
    const { headers, form } = stage.tokenCalls('authorization_code').at(-1)?.exchange ?? {}
    t.match(headers?.authorization, /^Basic /)
    t.notOk(form?.has('client_secret'))
  })

  for (const { algorithm, accepted, detail } of traits.refused)
    await t.test(`no session from an ID token signed with ${algorithm}, when ${accepted} is accepted`, async t => {
      const gateway = await stage.gateway(t, algorithm, { OIDC_ID_TOKEN_ALGS: accepted })
      await opensNothing(t)
      t.match(gateway.events('login_rejected'), [{ reason: 'invalid_response', detail }])
      const { id_token: idToken = '' } = stage.tokenCalls('authorization_code').at(-1)?.tokens ?? {}
      t.equal(partOf(idToken, 'header').alg, algorithm)
    })

  await t.test('no session, and a hint in the log, when the client secret is wrong', async t => {
    const gateway = await stage.gateway(t, algorithm, { OIDC_CLIENT_SECRET: 'something-else-altogether' })
    await opensNothing(t)
    const { detail } = gateway.events('login_rejected').at(-1) ?? {}
    t.match(detail, /^token endpoint: (invalid|unauthorized)_client$/)
    t.notMatch(gateway.log.join(''), 'something-else-altogether')
  })

  await t.test('an issuer that differs by a slash is no provider', async t => {
    const gateway = await stage.gateway(t, algorithm, { OIDC_ISSUER: `${provider.issuer}/` })
    const visitor = await stage.visitor(t)
    const answer = await visitor.page.goto(`${url}/bff/login`)
    t.equal(answer?.status(), 503)
    t.match(gateway.log.join(''), 'the issuer of the metadata is not OIDC_ISSUER', 'the log says what to mend')
  })

  async function opensNothing(t: Test): Promise<void> {
    const before = await sessions()
    const visitor = await stage.visitor(t)
    await visitor.signIn()
    t.match(visitor.page.url(), '/bff/login/failed?reason=')
    t.same(await sessions(), before)
    t.equal((await visitor.call('/bff/user')).status, 401)
  }

  return stage
}
