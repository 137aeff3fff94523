import { gzipSync } from 'node:zlib'
import { test } from 'tap'
import { eventually } from '../support/eventually.ts'
import { answers, claims, type Endpoint, padded, sends } from '../support/forgeries.ts'
import { type House, type Refusal, startHouse } from '../support/hostile-provider.ts'
import { drip, endless, type RawAnswer, type Responder, type TestProvider } from '../support/provider.ts'

const hourMs = 3_600_000
const json = { 'content-type': 'application/json' }

const endpoints: Endpoint[] = ['discovery', 'jwks', 'token', 'userinfo']

/** The gateway's memory of an endpoint is over, so that the next login asks it. */
const forget = (house: House, endpoint: Endpoint) => {
  if (endpoint === 'discovery') house.clock.advance(25 * hourMs)
  if (endpoint === 'jwks') house.clock.advance(61 * 60_000)
}

/** How a login fails when this endpoint gives no definite answer. */
const noAnswer: Record<Endpoint, Refusal> = {
  discovery: { status: 503, revoked: 'nothing' },
  jwks: { status: 503 },
  token: { status: 503, revoked: 'nothing' },
  userinfo: { status: 503, userInfo: true },
}

test('whatever an endpoint answers, a login ends in a session or in a refusal', async t => {
  // A provider that is broken, overloaded, replaced by a proxy's page, or lies: no answer of it may open, break or hold up the gateway.
  const house = await startHouse(t)
  const { evil } = house
  // Of a provider that keeps the gateway waiting, as long as it may.
  const hasty = await startHouse(t, { providerLimits: { timeoutMs: 2000 } })

  const bodies: Record<string, (honest: string) => Pick<RawAnswer, 'body' | 'cutAfter'>> = {
    'the honest body': body => ({ body }),
    'an empty object': () => ({ body: '{}' }),
    'a list': body => ({ body: `[${body}]` }),
    HTML: () => ({ body: '<!doctype html><title>Sign in to the Wi-Fi</title>' }),
    nothing: () => ({ body: '' }),
    'half of the body': body => ({ body: body.slice(0, body.length / 2) }),
    '10 MB': body => ({ body: padded(body, `"x":"${'x'.repeat(10 << 20)}"`) }),
    'a break midway': body => ({ body, cutAfter: 10 }),
    'a drip': body => ({ body: drip(body) }),
    'an endless body': () => ({ body: endless() }),
  }
  const transportFaults = ['10 MB', 'a break midway', 'a drip', 'an endless body']
  const statuses = [200, 201, 302, 307, 400, 401, 429, 500, 503]

  const refusalOf = (endpoint: Endpoint, status: number, body: string): Refusal => {
    const overloaded = status === 429 || status >= 500
    if (overloaded || transportFaults.includes(body) || endpoint === 'discovery' || endpoint === 'jwks')
      return noAnswer[endpoint]
    if (endpoint === 'userinfo') return { userInfo: true }
    return body === 'the honest body' ? {} : { revoked: 'nothing' }
  }

  for (const endpoint of endpoints)
    t.test(`the ${endpoint} endpoint`, async t => {
      // Each status with each kind of body (RFC 6749 §5, OpenID Connect Core §5.3.3).
      await house.accepts(t, 'an honest login')
      for (const status of statuses)
        for (const [name, make] of Object.entries(bodies)) {
          // A drip takes the whole time limit, and of a provider that is overloaded no body is read: some will do.
          if (name === 'a drip' && status !== 200) continue
          if ((status === 429 || status === 503) && !['the honest body', 'an endless body'].includes(name)) continue
          const at = name === 'a drip' ? hasty : house
          const arrange = (provider: TestProvider) => {
            answers(provider, endpoint, honest => ({
              status,
              headers: { ...json, location: `${at.evil.url}/${endpoint}` },
              ...make(honest),
            }))
            forget(at, endpoint)
          }
          const story = `${status} with ${name}`
          if (status === 200 && name === 'the honest body') await house.accepts(t, story, arrange)
          else
            await at.refuses(t, story, arrange, {
              ...refusalOf(endpoint, status, name),
              recover: () => at.clock.advance(31_000),
            })
        }
    })

  t.test('connections that break or stay silent', async t => {
    // The connection is cut at a moment that suits the attacker, or held until the gateway has none left.
    for (const endpoint of endpoints)
      for (const answer of ['reset', 'hang'] as const)
        await hasty.refuses(
          t,
          `${answer} at ${endpoint}`,
          provider => {
            provider.respond(endpoint, answer)
            forget(hasty, endpoint)
          },
          { ...noAnswer[endpoint], recover: () => hasty.clock.advance(31_000) },
        )
  })

  t.test('a small answer that unpacks into a large one', async t => {
    // A compression bomb: the limit counts what comes out (CWE-409).
    const bomb = gzipSync(`{"x":"${'x'.repeat(64 << 20)}"}`)
    for (const endpoint of endpoints)
      await house.refuses(
        t,
        endpoint,
        provider => {
          answers(provider, endpoint, () => ({
            status: 200,
            headers: { ...json, 'content-encoding': 'gzip' },
            body: bomb,
          }))
          forget(house, endpoint)
        },
        { ...noAnswer[endpoint], recover: () => house.clock.advance(31_000) },
      )
    await house.accepts(t, 'an honest answer that is compressed', provider =>
      answers(provider, 'token', honest => ({
        status: 200,
        headers: { ...json, 'content-encoding': 'gzip' },
        body: gzipSync(honest),
      })),
    )
  })

  t.test('a revocation that fails is recorded and holds up nobody', async t => {
    // Revocation is part of refusing a login; its own failure must neither undo the refusal nor send the token elsewhere.
    const failures: Record<string, Responder> = {
      '307 to the attacker': { status: 307, headers: { location: `${evil.url}/revoke` } },
      '500': { status: 500 },
      reset: 'reset',
      'an endless body': () => ({ status: 200, body: endless() }),
    }
    for (const [name, failure] of Object.entries(failures)) {
      await house.refuses(
        t,
        name,
        provider => {
          sends(claims({ exp: 1 }))(provider)
          provider.respond('revocation', failure)
        },
        { revoked: 'nothing' },
      )
    }
    await hasty.reset()
    sends(claims({ exp: 1 }))(hasty.provider)
    hasty.provider.respond('revocation', 'hang')
    const { answer } = await hasty.attempt()
    const outcomes = () => hasty.gateway.events('revocation').map(({ outcome }) => outcome)
    t.strictSame([answer.status, outcomes()], [400, []], 'the answer comes before the revocation is over')
    t.ok(await eventually(() => outcomes().length > 0))
    t.strictSame(outcomes(), ['pending'])
  })
})
