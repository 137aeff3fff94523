import { test } from 'tap'
import { startGlewlwyd } from '../support/interop/glewlwyd.ts'
import { versionOf } from '../support/interop/provider.ts'
import { partOf } from '../support/interop/stage.ts'
import { keepsItsPromises } from './promises.ts'

test(`Glewlwyd ${versionOf('glewlwyd')}`, { timeout: 240_000 }, async t => {
  const stage = await keepsItsPromises(t, {
    start: startGlewlwyd,
    algorithms: ['RS256', 'PS256', 'ES256', 'RS512'],
    refused: [
      { algorithm: 'PS512', accepted: 'RS256', detail: /^ID token refused|^the provider's answer/ },
      // Its at_hash is made with SHA-256 instead of SHA-512, the hash of Ed25519 (OpenID Connect Core §3.1.3.6).
      { algorithm: 'EdDSA', accepted: 'EdDSA', detail: 'ID token refused: at_hash' },
    ],
    rotates: true,
    revocation: 'revoked',
    deadToken: 'silence',
    logoutReturns: false,
    // A thief was faster than the gateway: with a refresh token that comes twice, all of its line are refused.
    endLogin: async ({ askForTokens }, _visitor, refreshToken) => {
      await askForTokens('RS256', { grant_type: 'refresh_token', refresh_token: refreshToken })
    },
  })
  const { provider, upstream, url } = stage

  await t.test('its logout page, when it is given an ID token, tells the back channel which login ended', async t => {
    await stage.gateway(t, 'RS256')
    const visitor = await stage.visitor(t)
    await visitor.signIn()
    const { id_token: idToken = '' } = stage.tokenCalls('authorization_code').at(-1)?.tokens ?? {}
    const { iss, aud, sub, sid } = partOf(idToken, 'payload')
    const query = new URLSearchParams({ id_token_hint: idToken, post_logout_redirect_uri: `${url}/` })
    await visitor.page.goto(`${provider.issuer}/end_session?${query}`)
    await provider.confirmLogout(visitor.page)

    const tokenIn = (body: Buffer) => new URLSearchParams(body.toString()).get('logout_token') ?? ''
    // Each logout before this one has sent its own.
    const { body } = await upstream.waitFor(
      request => request.url === '/backchannel' && partOf(tokenIn(request.body), 'payload').sid === sid,
    )
    const logoutToken = tokenIn(body)
    t.same(partOf(logoutToken, 'header'), { typ: 'JWT', alg: 'RS256', kid: 'RS256' })
    const { iat, jti, ...claims } = partOf(logoutToken, 'payload')
    t.ok(typeof iat === 'number' && typeof jti === 'string')
    const events = { 'http://schemas.openid.net/event/backchannel-logout': {} }
    t.same(claims, { iss, aud, sub, sid, events }, 'no exp: it goes by an early draft of Back-Channel Logout')
  })
})
