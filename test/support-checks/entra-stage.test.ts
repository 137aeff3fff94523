import { test } from 'tap'
import { readJwt } from '../support/entra/jwt.ts'
import { startEntra } from '../support/entra.ts'
import { startStageAround } from '../support/stage.ts'

test('a gateway stands before Entra as before any provider', async t => {
  const env = { OIDC_SCOPE: 'openid profile offline_access api://a/x', OIDC_USERINFO: 'never' }
  const stage = await startStageAround(t, clock => startEntra({ clock, env }))
  const { provider: entra, upstream } = stage

  t.test('a user logs in through the form, and the API gets a token for itself', async t => {
    const browser = await stage.loggedIn('alice')
    t.equal((await browser.api('/api/x')).status, 200)
    const { headers } = await upstream.waitFor(({ url }) => url.endsWith('/x'))
    const jwt = readJwt(headers.authorization?.slice('Bearer '.length) ?? '')
    t.match(jwt?.payload, { aud: 'api://a', tid: entra.tenants[0] })
    t.equal(entra.tokenCalls('authorization_code').length, 1)
    t.same(entra.of('userinfo'), [])
  })

  t.test('a callback can be held back', async t => {
    const browser = stage.browser()
    const callback = await stage.pendingCallback(browser, 'bob')
    t.ok(callback.searchParams.has('session_state'))
    t.match((await stage.open(browser, callback)).status, 303)
  })
})
