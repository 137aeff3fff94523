import { createSecretKey, generateKeyPairSync, randomBytes } from 'node:crypto'
import { test } from 'tap'
import { eventually } from '../support/eventually.ts'
import { claims, header, sends } from '../support/forgeries.ts'
import { startHouse } from '../support/hostile-provider.ts'
import { createSigningKey, drip, endless, type IdTokenDraft, type Json, type Responder } from '../support/provider.ts'

const minuteMs = 60_000

/** An ID token signed by this key in the place of the provider's. */
const signedBy =
  (key: Pick<IdTokenDraft['key'], 'kid' | 'alg' | 'privateKey'>, changes: Json = {}) =>
  ({ sign, payload }: IdTokenDraft) =>
    sign({ alg: key.alg, kid: key.kid, ...changes }, { ...payload, at_hash: undefined }, key.privateKey)

test('the signing keys of the provider', async t => {
  const house = await startHouse(t, { providerLimits: { timeoutMs: 3000 } })
  const { provider, clock, gateway, redis } = house
  const aMinuteLater = () => clock.advance(minuteMs + 1000)
  const jwks = async (when: () => Promise<unknown>) => {
    const before = provider.jwksFetches().length
    await when()
    return provider.jwksFetches().length - before
  }

  t.test('a flood of made-up key ids costs the provider two fetches a minute', async t => {
    // Every unknown key id is a reason to fetch the keys again, so a flood of them is turned on the provider (OpenID Connect Core §10.1.1).
    await house.reset()
    sends(draft => header({ kid: randomBytes(8).toString('hex') })(draft))(provider)
    const statuses: number[] = []
    const flood = async (logins: number) => {
      for (let done = 0; done < logins; done += 10) {
        const attempts = await Promise.all(Array.from({ length: 10 }, house.attempt))
        statuses.push(...attempts.map(({ answer }) => answer.status))
      }
    }
    t.equal(await jwks(() => flood(100)), 2, 'the first fetch, and one out of turn')
    t.strictSame(new Set(statuses), new Set([400]))
    t.equal(gateway.events('login_rejected').length, 100)
    t.ok(await eventually(() => new Set(provider.revocations().map(({ form }) => form.get('token'))).size === 100))
    t.notOk((await redis.keys()).some(key => /:(session|transaction):/.test(key)))
    t.equal(house.upstream.requests.length, 0)

    await house.accepts(t, 'an honest login within the same minute')
    t.equal(provider.jwksFetches().length, 0)
    await provider.rotateKeys()
    sends(({ token }) => token)(provider)
    const during = await house.attempt()
    t.equal(during.answer.status, 400, 'until the minute is over a new key is unknown: the throttle fails closed')
    aMinuteLater()
    await house.accepts(t, 'the new key after it')
    sends(header({ kid: 'made-up' }))(provider)
    aMinuteLater()
    t.equal(await jwks(() => flood(20)), 1, 'one more in the next minute')
    aMinuteLater()
  })

  t.test('a new key is accepted at once, with one fetch for all who wait', async t => {
    // An emergency rotation must not lock everybody out until the gateway is restarted (Core §10.1.1).
    await house.accepts(t, 'an honest login')
    await provider.rotateKeys()
    await house.reset()
    const fetches = await jwks(async () => {
      const attempts = await Promise.all(Array.from({ length: 20 }, house.attempt))
      t.strictSame(new Set(attempts.map(({ answer }) => answer.status)), new Set([303]))
    })
    t.equal(fetches, 1)
    aMinuteLater()
  })

  t.test('a withdrawn key stops verifying when the keys are 10 minutes old', async t => {
    // The private half was stolen and the provider took the key back: the thief signs on (Core §10.1.1).
    await house.accepts(t, 'an honest login')
    clock.advance(10 * minuteMs)
    await house.accepts(t, 'the keys are fetched')
    const stolen = provider.signingKey()
    await provider.rotateKeys({ keepOld: false })
    await house.accepts(t, 'the stolen key, while the set that holds it is fresh', sends(signedBy(stolen)))
    clock.advance(10 * minuteMs)
    await house.refuses(t, 'the stolen key after that', sends(signedBy(stolen)))
    aMinuteLater()
  })

  t.test('a withdrawn key stops verifying as soon as the new one is seen', async t => {
    // As above, but somebody has logged in honestly since.
    const stolen = provider.signingKey()
    await provider.rotateKeys({ keepOld: false })
    await house.accepts(t, 'the new key')
    await house.refuses(t, 'the stolen key', sends(signedBy(stolen)), { recover: aMinuteLater })
  })

  t.test('without a key id the one key that fits is taken, and never guessed between two', async t => {
    // Trying all keys lets a weak or foreign one speak for the others (Core §10.1).
    const withoutKid = header({ kid: undefined })
    await house.accepts(t, 'a single key', sends(withoutKid))
    await provider.rotateKeys({ alg: 'ES256' })
    await house.accepts(t, 'the new key')
    await house.accepts(t, 'two keys, of which one fits the algorithm', sends(withoutKid))
    aMinuteLater()
    await provider.rotateKeys({ alg: 'ES256' })
    await house.accepts(t, 'the newer key')
    await house.refuses(t, 'two keys that fit', sends(withoutKid))
    aMinuteLater()
    await provider.rotateKeys({ alg: 'RS256', keepOld: false })
    await house.accepts(t, 'an honest login')
    aMinuteLater()
  })

  t.test('a hostile key set verifies nothing and stalls nothing', async t => {
    // Whoever can write the key set, or the cache before it, chooses its size, its types and its members (RFC 7517 §5, RFC 8725 §3.10).
    const attacker = await createSigningKey('RS256')
    const secret = createSecretKey(randomBytes(32))
    const weak = generateKeyPairSync('rsa', { modulusLength: 1024 })
    const weakJwk = { ...weak.publicKey.export({ format: 'jwk' }), kid: 'weak', alg: 'RS256', use: 'sig' }
    const own = provider.signingKey()
    const many = Array.from({ length: 1000 }, (_, at) => ({ ...own.jwk, kid: `k${at}` }))
    const deep = '['.repeat(100_000) + ']'.repeat(100_000)

    type Set = (keys: Json[]) => object | string
    const unusable: [string, Set][] = [
      ['a thousand keys', keys => ({ keys: [...keys, ...many] })],
      ['10 MB', keys => ({ keys, padding: 'x'.repeat(10 << 20) })],
      ['no keys member', () => ({})],
      ['keys that are no list', keys => ({ keys: { ...keys } })],
      ['keys null', () => ({ keys: null })],
      ['a list of keys', keys => keys],
      ['null', () => 'null'],
      ['a text', () => '"keys"'],
      ['no JSON', () => '<html>'],
      ['half a document', keys => JSON.stringify({ keys }).slice(0, -9)],
      ['nothing', () => ''],
    ]
    for (const [name, set] of unusable) {
      const started = Date.now()
      await house.refuses(
        t,
        name,
        provider => {
          provider.tamper.jwks = ({ keys }) => set(keys)
          clock.advance(61 * minuteMs)
        },
        { status: 503, recover: aMinuteLater },
      )
      t.ok(Date.now() - started < 10_000, 'without a stall')
    }

    const sets: [string, Set, ((draft: IdTokenDraft) => string)?][] = [
      ['an empty list', () => ({ keys: [] })],
      ['no object among the keys', () => ({ keys: [null, 0, 'key', [], {}] })],
      ['the same id twice', keys => ({ keys: [...keys, ...keys] })],
      ['the id of the key on another one as well', keys => ({ keys: [{ ...attacker.jwk, kid: own.kid }, ...keys] })],
      [
        'a symmetric key',
        keys => ({ keys: [...keys, { ...secret.export({ format: 'jwk' }), kid: 'oct', alg: 'HS256' }] }),
        ({ sign, payload }) => sign({ alg: 'HS256', kid: 'oct' }, payload, secret),
      ],
      [
        'a symmetric key said to be for RS256',
        keys => ({ keys: [...keys, { ...secret.export({ format: 'jwk' }), kid: 'oct', alg: 'RS256' }] }),
        ({ sign, payload }) => sign({ alg: 'RS256', kid: 'oct' }, payload, secret),
      ],
      [
        'an RSA key of 1024 bits',
        keys => ({ keys: [...keys, weakJwk] }),
        signedBy({ kid: 'weak', alg: 'RS256', privateKey: weak.privateKey }),
      ],
      [
        'the private half of a key',
        () => ({ keys: [{ ...own.privateKey.export({ format: 'jwk' }), kid: own.kid, alg: own.alg, use: 'sig' }] }),
      ],
      ['a modulus that is no text', keys => ({ keys: keys.map(key => ({ ...key, n: 7 })) })],
      ['an empty modulus', keys => ({ keys: keys.map(key => ({ ...key, n: '' })) })],
      ['a modulus that is no base64url', keys => ({ keys: keys.map(key => ({ ...key, n: '!' })) })],
      ['an exponent of 1', keys => ({ keys: keys.map(key => ({ ...key, e: 'AQ' })) })],
      ['a key type that does not exist', keys => ({ keys: keys.map(key => ({ ...key, kty: 'none' })) })],
      [
        'a key nested 100000 deep',
        keys => `{"keys":[${JSON.stringify({ ...keys[0], kid: 'deep' }).slice(0, -1)},"x":${deep}}]}`,
      ],
      [
        'a point that is not on its curve',
        keys => ({ keys: [...keys, { kty: 'EC', crv: 'P-256', x: 'AA', y: 'AA', kid: 'ec', alg: 'ES256' }] }),
        ({ sign, payload, key }) => sign({ alg: 'ES256', kid: 'ec' }, payload, key.privateKey),
      ],
    ]
    for (const [name, set, forgery] of sets) {
      const started = Date.now()
      await house.refuses(
        t,
        name,
        provider => {
          provider.tamper.jwks = ({ keys }) => set(keys)
          if (forgery) sends(forgery)(provider)
          clock.advance(61 * minuteMs)
        },
        { recover: () => clock.advance(61 * minuteMs) },
      )
      t.ok(Date.now() - started < 10_000, 'without a stall')
    }
    await house.accepts(t, 'strange members beside the right key', provider => {
      provider.tamper.jwks = ({ keys }) => ({
        keys: [null, 0, {}, { kty: 'oct' }, ...keys.map(key => ({ ...key, '': 1 }))],
      })
      clock.advance(61 * minuteMs)
    })
    await house.accepts(t, 'a hundred keys', provider => {
      provider.tamper.jwks = ({ keys }) => ({ keys: [...keys, ...many.slice(0, 99)] })
      clock.advance(61 * minuteMs)
    })
    clock.advance(61 * minuteMs)
  })

  t.test('when the keys cannot be had nobody is let in, sessions go on, and it passes', async t => {
    // A provider whose key endpoint is flooded must not become one whose tokens are not checked (OWASP ASVS 16.5.3).
    const answers: Record<string, Responder> = {
      '500': { status: 500, body: 'no' },
      '404': { status: 404, body: {} },
      '429': { status: 429, headers: { 'retry-after': '7' }, body: '' },
      'a redirect to the attacker': { status: 307, headers: { location: `${house.evil.url}/jwks` } },
      'a broken connection': 'reset',
      'a connection broken midway': { status: 200, body: { keys: [provider.signingKey().jwk] }, cutAfter: 20 },
      garbage: { status: 200, headers: { 'content-type': 'application/json' }, body: randomBytes(2000) },
      silence: 'hang',
      'a body that never ends': () => ({ status: 200, body: endless() }),
      'a body that drips': () => ({ status: 200, body: drip(JSON.stringify({ keys: [provider.signingKey().jwk] })) }),
    }
    for (const [name, answer] of Object.entries(answers)) {
      const started = Date.now()
      await house.refuses(
        t,
        name,
        provider => {
          provider.respond('jwks', answer)
          clock.advance(61 * minuteMs)
        },
        { status: 503, recover: aMinuteLater },
      )
      t.ok(Date.now() - started < 10_000, 'within the time limit')
    }

    const { browser } = await house.accepts(t, 'somebody is logged in')
    provider.respond('jwks', { status: 500 })
    clock.advance(61 * minuteMs)
    const ready = () => fetch(`${gateway.internalUrl}/readyz`)
    t.equal((await ready()).status, 503)
    t.equal((await fetch(`${gateway.internalUrl}/healthz`)).status, 200)
    t.equal((await browser.api('/bff/user')).status, 200, 'the session goes on')
    const fetches = await jwks(async () => {
      for (let attempts = 0; attempts < 20; attempts += 1) t.equal((await house.attempt()).answer.status, 503)
    })
    t.equal(fetches, 0, 'between two tries the provider is left in peace')
    provider.reset()
    aMinuteLater()
    t.equal((await ready()).status, 200)
    await house.accepts(t, 'the next login after the recovery')
  })

  t.test('keys that were good are used for an hour without the provider, and no longer', async t => {
    // Keys used forever would make a withdrawal void for whoever can keep the gateway from fetching (OWASP ASVS 16.5.3).
    const failing = (laterMs: number) => () => {
      provider.respond('jwks', { status: 500 })
      clock.advance(laterMs)
    }
    await house.accepts(t, 'an honest login', () => clock.advance(61 * minuteMs))
    await house.accepts(t, 'after 11 minutes', failing(11 * minuteMs))
    await house.accepts(t, 'after 59 minutes', failing(48 * minuteMs))
    await house.refuses(t, 'after 60 minutes', failing(minuteMs), { status: 503, recover: aMinuteLater })
    await house.accepts(t, 'an honest login', sends(claims({})))
  })
})
