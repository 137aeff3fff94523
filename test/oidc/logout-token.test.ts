import { randomBytes, sign } from 'node:crypto'
import tap, { type Test, test } from 'tap'
import { encode, padded, parts, show } from '../support/forgeries.ts'
import { createSigningKey, type Json, type SigningKey } from '../support/provider.ts'
import { type KnownSession, knownSession, lastIdToken, sendLogoutToken } from '../support/provider-logout.ts'
import { startStage } from '../support/stage.ts'

const stage = await startStage(tap, { env: { ACCESS_LOG: 'false', LOG_LEVEL: 'info', SESSION_MAX_PER_USER: '100' } })
const { clock, evil, gateway, provider } = stage
const member = 'http://schemas.openid.net/event/backchannel-logout'
const now = () => Math.floor(clock.now() / 1000)

/** The session that each of the forged tokens names, well known to the forger. */
let alice = await knownSession(stage, 'alice')

/** A token for alice's session with some claims changed; undefined takes a claim out. */
const honest = (changes: Json = {}, header: Json = {}) =>
  provider.logoutToken({ sub: alice.sub, sid: alice.sid, ...changes }, header)
/** The same, signed by another key, or with a header of one's own. */
const signedBy = (header: Json | string, key?: SigningKey['privateKey'] | Uint8Array | string, changes: Json = {}) =>
  provider.sign(header, claimsOfHonest(changes), key)
const claimsOfHonest = (changes: Json = {}) =>
  JSON.parse(Buffer.from(parts(honest(changes))[1], 'base64url').toString()) as Json
const ownHeader = (changes: Json = {}): Json => ({
  alg: provider.signingKey().alg,
  kid: provider.signingKey().kid,
  typ: 'logout+jwt',
  ...changes,
})

const isAlive = async ({ browser }: KnownSession) => (await browser.api('/bff/user')).status === 200

/** The token is refused like every other: nothing ends, and the answer does not tell why. */
async function refuses(t: Test, name: string, token: string): Promise<void> {
  const before = gateway.events().length
  const answer = await sendLogoutToken(alice.browser, token)
  const { code, detail } = answer.json()
  t.strictSame(
    [answer.status, code, detail, answer.headers['retry-after'], answer.rawSetCookie],
    [400, 'bad_request', 'The logout token is not accepted.', undefined, []],
    `refused: ${name}`,
  )
  t.match(gateway.events().slice(before), [{ event: 'logout_token_refused' }], `${name}: one line in the audit log`)
  t.ok(await isAlive(alice), `the session lives on: ${name}`)
}

/** The token ends the session, and a new one takes its place. */
async function accepts(t: Test, name: string, token: string): Promise<void> {
  const answer = await sendLogoutToken(alice.browser, token)
  t.strictSame([answer.status, answer.text], [200, ''], `accepted: ${name}`)
  t.match(
    (await alice.browser.api('/bff/user')).json(),
    { code: 'session_revoked', reason: 'backchannel_logout' },
    name,
  )
  alice = await knownSession(stage, 'alice')
}

// Who can sign a logout token, or make the gateway believe so, signs everybody out; the endpoint is open to the world.
test('a logout token that this provider did not sign ends nothing', async t => {
  const attacker = await createSigningKey('RS256')
  const [head, payload, signature] = parts(honest())
  await refuses(t, 'another payload', `${head}.${encode(claimsOfHonest({ sub: 'bob' }))}.${signature}`)
  await refuses(t, 'another header', `${encode(ownHeader({ x: 1 }))}.${payload}.${signature}`)
  await refuses(t, 'the signature of another token', `${head}.${payload}.${parts(honest())[2]}`)
  await refuses(t, 'zeros', `${head}.${payload}.${Buffer.alloc(256).toString('base64url')}`)
  await refuses(t, 'a strange key under the right kid', signedBy(ownHeader(), attacker.privateKey))
  await refuses(t, 'a strange key under its own kid', signedBy(ownHeader({ kid: attacker.kid }), attacker.privateKey))
  await refuses(t, 'a strange key and no kid', signedBy(ownHeader({ kid: undefined }), attacker.privateKey))
  for (let at = 0; at < 256; at += 17) {
    const bytes = Buffer.from(signature, 'base64url')
    bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << (at % 8)), at)
    await refuses(t, `a bit flipped in byte ${at}`, `${head}.${payload}.${bytes.toString('base64url')}`)
  }
  await accepts(t, 'the same, as it was', `${head}.${payload}.${signature}`)
})

// Parsers that skip what they do not know verify one thing and read another (RFC 7515 §3.1).
test('a logout token is three parts of base64url JSON', async t => {
  const token = honest()
  const [head, payload, signature] = parts(token)
  for (const [name, bad] of Object.entries({
    'two parts': `${head}.${payload}`,
    'an empty signature': `${head}.${payload}.`,
    'four parts': `${token}.${signature}`,
    'only dots': '..',
    garbage: 'garbage',
    padding: `${token}==`,
    'a blank in front': ` ${token}`,
    'a line end behind': `${token}\n`,
    'JSON serialisation': JSON.stringify({ payload, protected: head, signature }),
    'a payload that is a list': provider.sign(ownHeader(), [claimsOfHonest()]),
    'a payload that is null': provider.sign(ownHeader(), 'null'),
    'a payload that is no JSON': provider.sign(ownHeader(), 'sub=alice'),
    'a header that is a list': signedBy('[]'),
  }))
    await refuses(t, name, bad)
})

// The attacker takes the signature off, or makes one with a secret that everybody knows (RFC 8725 §2.1, §3.2).
test('a logout token is signed by one of the configured algorithms, with a key of the provider', async t => {
  for (const alg of ['none', 'None', 'NONE', 'nOnE', undefined, null, '', ['none'], ['RS256']]) {
    const header = encode(ownHeader({ alg }))
    await refuses(t, `alg ${show(alg)} unsigned`, `${header}.${encode(claimsOfHonest())}.`)
    await refuses(t, `alg ${show(alg)} signed`, `${header}.${parts(honest()).slice(1).join('.')}`)
  }
  const { publicKey, jwk } = provider.signingKey()
  const secrets = {
    'the client secret': provider.clientSecret,
    'the public key as PEM': publicKey.export({ format: 'pem', type: 'spki' }) as string,
    'the public key as DER': publicKey.export({ format: 'der', type: 'spki' }),
    'the public key as a JWK': JSON.stringify(jwk),
    nothing: '',
  }
  for (const alg of ['HS256', 'HS512'])
    for (const [name, secret] of Object.entries(secrets))
      await refuses(t, `${alg} with ${name}`, signedBy(ownHeader({ alg }), secret))
  for (const alg of ['RS384', 'RS512', 'PS256', 'PS512', 'ES256', 'EdDSA', 'RS257', 'rs256', 'constructor'])
    await refuses(t, `${alg} by the right key`, signedBy(ownHeader({ alg })))
})

// The forger brings the key along, or says where it is (RFC 8725 §3.10).
test('keys and addresses of keys in the header of a logout token are ignored', async t => {
  const attacker = await createSigningKey('RS256')
  const chain = [attacker.publicKey.export({ format: 'der', type: 'spki' }).toString('base64')]
  const places: Json[] = [
    { jwk: attacker.jwk },
    { jku: `${evil.url}/jwks` },
    { x5u: `${evil.url}/chain.pem` },
    { x5c: chain },
  ]
  for (const place of places)
    for (const kid of [provider.signingKey().kid, attacker.kid, undefined])
      await refuses(
        t,
        `${Object.keys(place)} with kid ${kid}`,
        signedBy(ownHeader({ ...place, kid }), attacker.privateKey),
      )
  for (const crit of [['x'], ['exp'], [], 'x', null])
    await refuses(t, `crit ${show(crit)}`, signedBy(ownHeader({ crit, x: 1 })))
  const input = `${encode(ownHeader({ crit: ['b64'], b64: false }))}.${encode(claimsOfHonest())}`
  const signature = sign('sha256', Buffer.from(input), provider.signingKey().privateKey).toString('base64url')
  await refuses(t, 'b64 false', `${input}.${signature}`)
})

// Cross-JWT confusion: the user's own ID token, or an access token of an API, signs the user out (RFC 8725 §2.8, §3.11).
test('only what calls itself a logout token is one', async t => {
  const idToken = [...provider.issued.idTokens].at(-1) ?? ''
  await refuses(t, 'an ID token', idToken)
  const identity = lastIdToken(provider)
  const { nonce: _, ...withoutNonce } = identity
  const events = { [member]: {} }
  await refuses(
    t,
    'an ID token with events',
    provider.sign(ownHeader({ typ: 'JWT' }), { ...withoutNonce, events, jti: 'a' }),
  )
  await refuses(t, 'an access token', provider.sign(ownHeader({ typ: 'at+jwt' }), { ...withoutNonce, jti: 'b' }))
  const types = [
    undefined,
    null,
    '',
    'JWT',
    'jwt',
    'at+jwt',
    'logout',
    'logout+jwt ',
    'logout+JWT;x',
    'text/logout+jwt',
  ]
  for (const typ of [...types, 'application/application/logout+jwt', ['logout+jwt'], 1, {}])
    await refuses(t, `typ ${show(typ)}`, signedBy(ownHeader({ typ })))
  for (const typ of ['logout+jwt', 'LOGOUT+JWT', 'Logout+Jwt', 'application/logout+jwt', 'Application/Logout+JWT'])
    await accepts(t, `typ ${typ}`, honest({}, { typ }))
})

// A token of another tenant, or for another client of the same provider, is not about this application's sessions.
test('issuer and audience of a logout token are this provider and this client alone', async t => {
  const { issuer, clientId } = provider
  for (const iss of [
    undefined,
    null,
    '',
    `${issuer}/`,
    issuer.toUpperCase(),
    'https://evil.test',
    [issuer],
    `${issuer} `,
  ])
    await refuses(t, `iss ${show(iss)}`, honest({ iss }))
  const audiences = [
    undefined,
    null,
    '',
    'other',
    [],
    ['other'],
    [clientId, 'other'],
    ['other', clientId],
    {},
    [[clientId]],
  ]
  for (const aud of [...audiences, `${clientId} `, clientId.toUpperCase(), `${clientId},other`])
    await refuses(t, `aud ${show(aud)}`, honest({ aud }))
  await accepts(t, 'the client in a list', honest({ aud: [clientId] }))
})

// A token from an old log, or one that is good for ever, ends the sessions of another day.
test('a logout token is young and expires', async t => {
  const wrong = [undefined, null, '', String(now() + 60), true, [], {}]
  for (const exp of [...wrong, 0, -1, now() - 31, now() - 86_400, 1e300, now() * 1000 * 1000])
    await refuses(t, `exp ${show(exp)}`, honest({ exp }))
  for (const iat of [...wrong, 0, -1, now() - 331, now() - 86_400, now() + 32, now() + 3600, now() * 1000])
    await refuses(t, `iat ${show(iat)}`, honest({ iat, exp: now() + 120 }))
  for (const nbf of [now() + 3600, 'soon', null]) await refuses(t, `nbf ${show(nbf)}`, honest({ nbf }))
  await accepts(t, 'expired within the leeway', honest({ exp: now() - 25 }))
  await accepts(t, 'five minutes old', honest({ iat: now() - 295, exp: now() + 60 }))
  await accepts(t, 'from a clock that is ahead', honest({ iat: now() + 25, exp: now() + 120 }))
})

test('a logout token has an id', async t => {
  for (const jti of [undefined, null, '', 0, 7, true, [], ['a'], {}])
    await refuses(t, `jti ${show(jti)}`, honest({ jti }))
})

// Members that a loose check takes for there, or finds on every object.
test('the events of a logout token are an object that holds the logout as an object', async t => {
  const cases = [undefined, null, member, [], [member], { [member]: null }, { [member]: true }, { [member]: '{}' }]
  const others = [{ [member]: [] }, { [member]: 1 }, {}, { 'http://schemas.openid.net/event/other': {} }, true, 1]
  for (const events of [...cases, ...others, { [`${member}/`]: {} }, { [member.toUpperCase()]: {} }, { toString: {} }])
    await refuses(t, `events ${show(events)}`, honest({ events }))
  const inherited = padded(
    JSON.stringify(claimsOfHonest({ events: undefined })),
    `"events":{"__proto__":{"${member}":{}}}`,
  )
  await refuses(t, 'an inherited member', provider.sign(ownHeader(), inherited))
  const all = padded(JSON.stringify(claimsOfHonest({ events: undefined })), `"__proto__":{"events":{"${member}":{}}}`)
  await refuses(t, 'inherited events', provider.sign(ownHeader(), all))
  await accepts(t, 'more than the empty object, and other events', honest({ events: { other: 1, [member]: { x: 1 } } }))
})

// An ID token has a nonce and a logout token must not: whatever has one is not a logout token, also if it is empty.
test('a logout token with a nonce of any kind is refused', async t => {
  for (const nonce of ['x', '', null, 0, false, [], {}]) await refuses(t, `nonce ${show(nonce)}`, honest({ nonce }))
})

test('a logout token names a session, a user or both, as texts', async t => {
  await refuses(t, 'neither', honest({ sub: undefined, sid: undefined }))
  for (const bad of [null, '', 0, 7, true, [], [alice.sid], {}]) {
    await refuses(t, `sid ${show(bad)}`, honest({ sid: bad }))
    await refuses(t, `only sid ${show(bad)}`, honest({ sid: bad, sub: undefined }))
    await refuses(t, `sub ${show(bad)}`, honest({ sub: bad }))
    await refuses(t, `only sub ${show(bad)}`, honest({ sub: bad, sid: undefined }))
  }
  await refuses(t, 'a sub that no provider may give', honest({ sub: 'x'.repeat(256) }))
  await accepts(t, 'a session', honest({ sub: undefined }))
  // The provider tells whole seconds, and rounds.
  clock.advance(2000)
  await accepts(t, 'a user', honest({ sid: undefined }))
  await accepts(t, 'both', honest())
  await accepts(t, 'claims that mean nothing here', honest({ azp: 'other', name: 'x', amr: [] }))
})

// Each unknown key id is a reason to fetch the keys again; anybody can make up ten thousand of them.
test('ten thousand made-up logout tokens cost the provider two fetches of its keys, and end nothing', async t => {
  clock.advance(61_000)
  await isAlive(alice)
  const fetchesBefore = provider.jwksFetches().length
  const [, payload, signature] = parts(honest())
  const garbage = (index: number) => {
    if (index % 4 === 0) return randomBytes(64).toString('base64url')
    const kid = randomBytes(8).toString('hex')
    return `${encode(ownHeader({ kid }))}.${payload}.${signature}`
  }
  const statuses = new Map<number, number>()
  const delays: number[] = []
  const started = performance.now()
  let sent = 0
  const sender = async () => {
    while (sent < 10_000) {
      sent += 1
      const { status } = await fetch(`http://127.0.0.1:${gateway.port}/bff/backchannel`, {
        method: 'POST',
        body: new URLSearchParams({ logout_token: garbage(sent) }),
      })
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
    }
  }
  const caller = async () => {
    while (sent < 10_000) {
      const before = performance.now()
      const answer = await alice.browser.api('/api/items')
      delays.push(performance.now() - before)
      if (answer.status !== 200) t.fail(`an API call answered ${answer.status}`)
    }
  }
  await Promise.all([...Array.from({ length: 20 }, sender), caller()])
  const fetches = provider.jwksFetches().length - fetchesBefore
  const p99 = delays.sort((a, b) => a - b)[Math.floor(delays.length * 0.99)] ?? 0
  const seconds = (performance.now() - started) / 1000
  t.comment(
    `10,000 in ${seconds.toFixed(1)} s, ${fetches} fetches, API calls p99 ${p99.toFixed(0)} ms of ${delays.length}`,
  )
  t.strictSame([...statuses], [[400, 10_000]])
  t.ok(fetches <= 2, `${fetches} fetches`)
  t.ok(p99 < 5000, 'the API goes on')
  t.ok(await isAlive(alice))
  await accepts(t, 'an honest one in the middle of it', honest())
})
