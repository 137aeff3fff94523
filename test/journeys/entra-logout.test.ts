import { type Test, test } from 'tap'
import type { TestBrowser } from '../support/browser.ts'
import { guidOf } from '../support/entra/keys.ts'
import { type EntraStage, startEntraStage } from '../support/entra/stage.ts'
import { eventually } from '../support/eventually.ts'

const [home, other] = ['home', 'other'].map(name => guidOf(name)) as [string, string]

const logoutUrlOf = async (browser: TestBrowser) =>
  (await browser.api('/bff/user')).json<{ session: { logoutUrl: string } }>().session.logoutUrl
const audits = ({ gateway, handleOf }: EntraStage, name: string, handle: ReturnType<typeof handleOf>) =>
  gateway.events(name).filter(({ session }) => session === handle)
/** As the frame in Entra's page asks: from another site, without cookies. */
const frame = (stage: EntraStage, query: Record<string, string>) =>
  stage.browser().get(`/bff/frontchannel?${new URLSearchParams(query)}`, {
    cookies: [],
    headers: { 'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'iframe' },
  })

test('a logout here goes on to Entra with the hint of the account, and never shows an ID token', async t => {
  const stage = await startEntraStage(t, { tenants: [home] }, { POST_LOGOUT_PATH: '/goodbye' })
  const { provider: entra, gateway } = stage

  t.test('with the claim login_hint no account picker comes in between', async t => {
    const browser = await stage.enter()
    const handle = stage.handleOf(browser)
    let gone = false
    entra.respond('logout', async () => {
      // Before Entra hears of it: an account picker that nobody answers must not keep the session alive.
      gone = !(await stage.isAlive(browser)) && (await stage.sessions()).length === 0
      return 'pass' as const
    })
    const end = await browser.navigate(await logoutUrlOf(browser), { stopBefore: url => url.pathname === '/goodbye' })
    t.equal(end.status, 302)
    t.equal(end.headers.location, `${gateway.url}/goodbye`)
    t.ok(gone, 'session and tokens are gone before the redirect is followed')
    const [asked] = entra.of('logout')
    t.same(Object.fromEntries(asked?.query ?? []), {
      client_id: entra.clientId,
      logout_hint: entra.directory.hintOf(entra.users.get('alice')),
      post_logout_redirect_uri: `${gateway.url}/goodbye`,
    })
    t.ok(await eventually(() => audits(stage, 'revocation', handle).length > 0))
    t.match(audits(stage, 'revocation', handle), [{ outcome: 'not_supported' }])
  })

  t.test('by script the same, behind a one-time address', async t => {
    const browser = await stage.enter()
    const { logoutUrl } = (await browser.api('/bff/logout', { method: 'POST' })).json<{ logoutUrl: string }>()
    t.match(logoutUrl, /^\/bff\/logout\/continue\?handle=/)
    t.notOk(await stage.isAlive(browser))
    const end = await browser.navigate(logoutUrl, { stopBefore: url => url.pathname === '/goodbye' })
    t.match(entra.of('logout').at(-1)?.query.get('logout_hint'), /^O\./)
    t.equal(end.headers.location, `${gateway.url}/goodbye`)
  })

  t.test('without that claim the picker is shown, and nothing is left to lose', async t => {
    entra.knobs.optionalClaims = []
    const browser = await stage.enter()
    const page = await browser.navigate(await logoutUrlOf(browser))
    t.match(page.text, 'account-picker')
    t.notOk(entra.of('logout').at(-1)?.query.has('logout_hint'))
    t.notOk(await stage.isAlive(browser))
    t.same(await stage.sessions(), [])
  })
})

/** A logout at Entra, told through a frame of its page. */
const endsBySid = (t: Test, stage: EntraStage) =>
  t.test('by the sid alone, and with the same answer to whoever asks', async t => {
    const { provider: entra, gateway } = stage
    entra.logoutUrls.push(`${gateway.url}/bff/frontchannel`)
    const [one, bystander] = [await stage.enter('alice'), await stage.enter('bob')]
    const handle = stage.handleOf(one)
    const [sid = ''] = entra.sidsOf('alice')
    const calls = await entra.signOutElsewhere('alice')
    t.match(calls, [{ status: 200, body: '' }])
    t.notMatch(calls[0]?.url, 'iss')
    t.equal(calls[0]?.headers?.get('cache-control'), 'no-store')
    t.match((await one.api('/bff/user')).json(), { code: 'session_revoked', reason: 'frontchannel_logout' })
    t.ok(await stage.isAlive(bystander))
    t.ok(await eventually(() => audits(stage, 'revocation', handle).length > 0))
    entra.logoutUrls.length = 0
    const { date: _, ...headers } = (await frame(stage, { sid })).headers
    for (const query of [{ sid: guidOf('nobody') }, { sid: '' }, { sid, iss: 'https://evil.test' }] as {
      sid: string
    }[]) {
      const answer = await frame(stage, query)
      const { date: __, ...others } = answer.headers
      t.same([answer.status, answer.text, others], [200, '', headers], 'the answer tells nothing')
    }
    t.ok(await stage.isAlive(bystander))
  })

test('a logout at Entra ends the session of its sid, which is all that Entra sends', async t => {
  await endsBySid(t, await startEntraStage(t, { tenants: [home] }))
})

test('so it does where the authority is named by a domain', async t => {
  const domains = { 'contoso.example': home }
  await endsBySid(t, await startEntraStage(t, { tenants: [home], domains, authority: 'contoso.example' }))
})

test('and where it serves several tenants', async t => {
  const stage = await startEntraStage(t, { tenants: [home, other], authority: 'organizations' })
  await endsBySid(t, stage)

  // An issuer that is sent must be the one that opened the session: the template speaks for all of them.
  t.test('an issuer that comes along is the tenant’s or the configured one', async t => {
    const { provider: entra } = stage
    entra.users.set('carol', { tid: other })
    const browser = await stage.enter('carol')
    const [sid = ''] = entra.sidsOf('carol')
    for (const iss of [entra.issuerOf(home), entra.issuerOf('{tenantid}'), 'https://evil.test', '']) {
      await frame(stage, { sid, iss })
      t.ok(await stage.isAlive(browser), iss)
    }
    await frame(stage, { sid, iss: entra.issuerOf(other) })
    t.notOk(await stage.isAlive(browser))
    const again = await stage.enter('carol')
    for (const each of entra.sidsOf('carol')) await frame(stage, { sid: each, iss: entra.authority })
    t.notOk(await stage.isAlive(again))
  })
})

test('without the optional claim there is no sid to find a session by, and nothing breaks', async t => {
  const stage = await startEntraStage(t, { tenants: [home], optionalClaims: [] })
  const browser = await stage.enter()
  stage.provider.logoutUrls.push(`${stage.gateway.url}/bff/frontchannel`)
  t.match(await stage.provider.signOutElsewhere('alice'), [{ status: 200 }])
  t.ok(await stage.isAlive(browser))
})
