import { test } from 'tap'
import { StoreUnavailable } from '../../src/core/errors.ts'
import type { AuditEvent } from '../../src/core/events.ts'
import { providerSessionIndex } from '../../src/core/session.ts'
import { createProviderLogout, type FrontchannelLogout } from '../../src/flows/provider-logout.ts'
import { createMemoryStore } from '../../src/store/memory.ts'
import { createClock } from '../support/clock.ts'

const issuer = 'https://login.example.com'

/** The flow, and what it asks to be ended. */
function setUp(frontchannelIssOptional: boolean, endIndexed?: () => Promise<number>, configured = issuer) {
  const clock = createClock()
  const store = createMemoryStore({ clock, lifetimes: { idleTimeout: 60, absoluteTimeout: 60 } })
  const ended: string[] = []
  const events: AuditEvent[] = []
  const flow = createProviderLogout({
    store,
    provider: {
      async verifyLogoutToken(token) {
        const issuedAt = clock.now() / 1000
        return { issuer, subject: 'a', providerSessionId: token, issuedAt, id: token, expiresAt: issuedAt + 120 }
      },
    },
    sessions: {
      async endIndexed(index) {
        ended.push(index)
        return endIndexed === undefined ? 1 : endIndexed()
      },
    },
    audit: event => events.push(event),
    clock,
    issuer: configured,
    frontchannelIssOptional,
  })
  return { flow, ended, events }
}

const meant = providerSessionIndex(issuer, 's1')
const cases: [request: FrontchannelLogout, asTheStandardSays: boolean, issOptional: boolean][] = [
  [{ sid: 's1', iss: issuer }, true, true],
  [{ sid: 's1', iss: undefined }, false, true],
  [{ sid: 's1', iss: `${issuer}/` }, false, false],
  [{ sid: 's1', iss: 'https://evil.test' }, false, false],
  [{ sid: 's1', iss: '' }, false, false],
  [{ sid: '', iss: issuer }, false, false],
]

test('a front-channel logout needs its issuer, except at providers that do not send it, and never another', async t => {
  for (const [request, standard, optional] of cases) {
    for (const [issOptional, ends] of [
      [false, standard],
      [true, optional],
    ] as const) {
      const { flow, ended } = setUp(issOptional)
      await flow.byBrowser(request)
      t.strictSame(ended, ends ? [meant] : [], `${JSON.stringify(request)}, optional: ${issOptional}`)
    }
  }
  const { flow, ended } = setUp(true)
  await flow.byBrowser({ sid: 'x'.repeat(513), iss: undefined })
  t.strictSame(ended, [], 'no session has such a name')
})

test('where the issuer stands for tenants, a front-channel logout may name the tenant’s', async t => {
  const host = 'https://login.example.com'
  const tenant = '8d0f3f4e-1111-2222-3333-444455556666'
  const configured = `${host}/organizations/v2.0`
  for (const [iss, heard] of [
    [`${host}/${tenant}/v2.0`, true],
    [configured, true],
    [undefined, true],
    [`${host}/contoso.com/v2.0`, false],
    [`https://evil.test/${tenant}/v2.0`, false],
  ] as const) {
    const { flow, ended } = setUp(true, undefined, configured)
    await flow.byBrowser({ sid: 's1', iss })
    t.strictSame(ended, heard ? [providerSessionIndex(configured, 's1')] : [], String(iss))
  }
})

// An answer that differs when the store is down tells that the issuer and the form of the request were right.
test('a front-channel logout that fails is noted and not told', async t => {
  const { flow, events } = setUp(false, () => Promise.reject(new StoreUnavailable({ detail: 'gone' })))
  await flow.byBrowser({ sid: 's1', iss: issuer })
  t.same(events, [{ event: 'provider_logout_failed', channel: 'front', detail: 'gone' }])
})

test('a logout token that came to nothing may come again, and one that did not may not', async t => {
  let outcome = (): Promise<number> => Promise.reject(new StoreUnavailable())
  const { flow, ended } = setUp(false, () => outcome())
  await t.rejects(flow.byToken('s1'), { code: 'bad_request', retryAfter: 2 })
  outcome = () => Promise.resolve(1)
  await flow.byToken('s1')
  await t.rejects(flow.byToken('s1'), { code: 'bad_request', retryAfter: undefined })
  t.same(ended, [meant, meant])
})

test('of two that use a logout token at the same time neither is told that it failed', async t => {
  const { flow } = setUp(false)
  await Promise.all([flow.byToken('s1'), flow.byToken('s1')])
  t.pass()
})
