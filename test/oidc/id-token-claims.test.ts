import { createHash, randomBytes } from 'node:crypto'
import { type Test, test } from 'tap'
import {
  claims,
  type Forgery,
  type ForgeryCase,
  header,
  moreClaims,
  refuseAll,
  sends,
  show,
  wrongValues,
} from '../support/forgeries.ts'
import { type House, startHouse } from '../support/hostile-provider.ts'
import type { IdTokenDraft, Json, TestProvider } from '../support/provider.ts'

test('an ID token whose claims are not right opens no session', async t => {
  const house = await startHouse(t)
  const { provider, clock } = house
  const { issuer, clientId } = provider
  const now = () => Math.floor(clock.now() / 1000)
  const each = (name: string, values: readonly unknown[]) =>
    values.map((value): ForgeryCase => [`${name} ${show(value)}`, claims({ [name]: value })])
  const timed = (cases: Record<string, () => Json>) =>
    Object.entries(cases).map(([name, changes]): ForgeryCase => [name, claims(changes)])
  const acceptAll = async (t: Test, cases: ForgeryCase[]) => {
    for (const [name, forgery] of cases) await house.accepts(t, name, sends(forgery))
  }
  await house.accepts(t, 'an honest token')

  t.test('the issuer is compared to the letter', async t => {
    // A mix-up: another tenant or another provider with a similar name speaks for ours (OpenID Connect Core §3.1.3.7 (2)).
    const others = [
      'https://login.example',
      `${issuer}/`,
      issuer.replace('http:', 'https:'),
      issuer.toUpperCase(),
      issuer.replace('127.0.0.1', 'localhost'),
      issuer.slice(0, -1),
      ` ${issuer}`,
      [issuer],
      [[issuer]],
      { iss: issuer },
    ]
    await refuseAll(t, house, each('iss', [undefined, ...wrongValues, ...others]))
  })

  t.test('the audience is this client alone', async t => {
    // A token that the user gave to another client of the provider is replayed here (Core §3.1.3.7 (3)).
    const others = [
      'other',
      clientId.slice(1),
      `${clientId} other`,
      `${clientId},other`,
      clientId.toUpperCase(),
      [''],
      ['other'],
      [clientId, 'other'],
      ['other', clientId],
      [[clientId]],
      [clientId, [clientId]],
      [clientId, null],
      { 0: clientId },
      { [clientId]: true },
    ]
    await refuseAll(t, house, each('aud', [undefined, ...wrongValues, ...others]))
    await refuseAll(t, house, [
      ['a further audience, and azp is this client', claims({ aud: [clientId, 'other'], azp: clientId })],
      ['a further audience, and azp is the other', claims({ aud: [clientId, 'other'], azp: 'other' })],
    ])
    await acceptAll(t, each('aud', [[clientId]]))
  })

  t.test('an authorized party is this client', async t => {
    // The token was issued to another client, which named us as its audience (Core §3.1.3.7 (4), (5)).
    const others = ['other', clientId.toUpperCase(), `${clientId} `, [clientId]]
    await refuseAll(t, house, each('azp', [...wrongValues, ...others]))
    await acceptAll(t, each('azp', [undefined, clientId]))
  })

  t.test('an expired token is refused, with half a minute for clocks that differ', async t => {
    // An old token out of a log or a backup (Core §3.1.3.7 (9)).
    const soon = () => now() + 300
    await refuseAll(t, house, each('exp', [undefined, ...wrongValues]))
    await refuseAll(
      t,
      house,
      timed({
        'exp 30 s ago': () => ({ exp: now() - 30 }),
        'exp a day ago': () => ({ exp: now() - 86_400 }),
        'exp as a string': () => ({ exp: String(soon()) }),
        'exp as a list': () => ({ exp: [soon()] }),
        'exp in milliseconds': () => ({ exp: soon() * 1000 }),
      }),
    )
    const endless: Forgery = ({ sign, header, payload }) =>
      sign(header, JSON.stringify(payload).replace(/"exp":\d+/, '"exp":1e999'))
    await refuseAll(t, house, [['exp beyond every number', endless]])
    await acceptAll(
      t,
      timed({ 'exp 29 s ago': () => ({ exp: now() - 29 }), 'exp with a fraction': () => ({ exp: soon() + 0.5 }) }),
    )
  })

  t.test('a token is neither old nor from the future', async t => {
    // A stolen token with a long life is put into a new login, or a clock is turned (Core §3.1.3.7 (10), RFC 7519 §4.1.5).
    await refuseAll(t, house, each('iat', [undefined, ...wrongValues]))
    await refuseAll(
      t,
      house,
      timed({
        'iat as a string': () => ({ iat: String(now()) }),
        'iat as a list': () => ({ iat: [now()] }),
        'iat in an hour': () => ({ iat: now() + 3600 }),
        'iat in 31 s': () => ({ iat: now() + 31 }),
        'iat a day ago': () => ({ iat: now() - 86_400 }),
        'iat 631 s ago': () => ({ iat: now() - 631 }),
        'nbf in an hour': () => ({ nbf: now() + 3600 }),
        'nbf in 31 s': () => ({ nbf: now() + 31 }),
        'nbf as a string': () => ({ nbf: String(now()) }),
      }),
    )
    const past = (value: unknown) => typeof value === 'number' && value <= 0
    await refuseAll(
      t,
      house,
      each(
        'nbf',
        wrongValues.filter(value => !past(value)),
      ),
    )
    await acceptAll(
      t,
      timed({
        'iat 630 s ago': () => ({ iat: now() - 630 }),
        'iat in 30 s': () => ({ iat: now() + 30 }),
        'iat with a fraction': () => ({ iat: now() - 0.5 }),
        'nbf now': () => ({ nbf: now() }),
        'nbf in 30 s': () => ({ nbf: now() + 30 }),
        'nbf long ago': () => ({ nbf: 0 }),
      }),
    )
  })

  t.test('the nonce ties the token to this login', async t => {
    // Code injection: the attacker's code, and with it the attacker's token, in the victim's browser (Core §3.1.3.7 (11), RFC 9700 §4.5.3).
    const nonce =
      (change: (nonce: string) => unknown): Forgery =>
      ({ sign, header, payload }) =>
        sign(header, { ...payload, nonce: change(String(payload.nonce)) })
    let earlier = ''
    await house.accepts(
      t,
      'an honest token, which is kept',
      sends(({ token }) => {
        earlier = token
        return token
      }),
    )
    await refuseAll(t, house, each('nonce', [undefined, ...wrongValues, 'other']))
    await refuseAll(t, house, [
      ['the valid token of an earlier login', () => earlier],
      ['the nonce in a list', nonce(own => [own])],
      ['the nonce with a blank', nonce(own => `${own} `)],
      ['the nonce cut short', nonce(own => own.slice(0, -1))],
      ['the nonce in upper case', nonce(own => own.toUpperCase())],
    ])
  })

  t.test('the nonce of another login under way in the same browser does not do', async t => {
    // The attacker swaps the answers of two tabs (RFC 9700 §2.1).
    await house.reset()
    const { browser } = await house.attempt()
    const other = await browser.request('/bff/login')
    const nonce = new URL(other.headers.location ?? '').searchParams.get('nonce')
    t.match(nonce, /^[\w-]{43}$/, 'another login is under way')
    const sessions = async () => (await house.redis.keys()).filter(key => key.includes(':session:'))
    const before = await sessions()
    sends(claims({ nonce }))(provider)
    const end = await browser.navigate('/bff/login')
    t.equal(end.status, 400)
    t.equal(house.gateway.events('login_rejected').length, 1)
    t.strictSame(await sessions(), before, 'no session was opened')
    t.equal((await browser.api('/bff/user')).status, 200, 'the one that was there is kept')
    await house.accepts(t, 'an honest login')
  })

  t.test('an access token hash is right, or is not there', async t => {
    // Token substitution: the ID token of one answer with the access token of another (Core §3.1.3.8).
    const hash =
      (algorithm: string, change: (digest: Buffer) => Buffer, encoding: 'base64url' | 'hex' = 'base64url') =>
      ({ accessToken, sign, header, payload }: IdTokenDraft) => {
        const digest = createHash(algorithm).update(accessToken).digest()
        return sign(header, { ...payload, at_hash: change(digest).toString(encoding) })
      }
    await refuseAll(t, house, each('at_hash', [...wrongValues, 'other']))
    await refuseAll(t, house, [
      ['the whole hash', hash('sha256', digest => digest)],
      ['the right half', hash('sha256', digest => digest.subarray(16))],
      ['half of SHA-384', hash('sha384', digest => digest.subarray(0, 24))],
      ['half of SHA-512', hash('sha512', digest => digest.subarray(0, 32))],
      ['16 bytes of SHA-512', hash('sha512', digest => digest.subarray(0, 16))],
      ['in hexadecimal', hash('sha256', digest => digest.subarray(0, 16), 'hex')],
      ['with padding', ({ sign, header, payload }) => sign(header, { ...payload, at_hash: `${payload.at_hash}==` })],
    ])
    await house.refuses(t, 'another access token than the one that was hashed', provider => {
      provider.tamper.tokenResponse = response => ({ ...response, access_token: 'the-access-token-of-mallory' })
    })
    await acceptAll(t, each('at_hash', [undefined]))
  })

  t.test('the subject is a text of 1 to 255 characters', async t => {
    // Two users whose subjects are read as the same key share a session (Core §2, §5.7).
    const others = [['alice'], { sub: 'alice' }, 'x'.repeat(256), 'x'.repeat(20_000)]
    await refuseAll(t, house, each('sub', [undefined, ...wrongValues, ...others]))
    await house.accepts(t, 'a subject of 255 characters', provider => {
      sends(claims({ sub: 'x'.repeat(255) }))(provider)
      provider.tamper.userinfo = answer => ({ ...answer, sub: 'x'.repeat(255) })
    })
  })

  t.test('a user is an issuer and a subject, never an e-mail address or a name', async t => {
    // Account takeover by an address that two providers, or two users of one, both claim (Core §5.7).
    const bob = (provider: TestProvider) => {
      sends(claims({ sub: 'bob' }))(provider)
      provider.tamper.userinfo = answer => ({ ...answer, sub: 'bob' })
    }
    const env = { SESSION_KEYS: randomBytes(32).toString('base64') }
    const here = await startHouse(t, { env, redis: house.redis })
    const there = await startHouse(t, { env, redis: house.redis })
    const userAt = async (at: House, arrange?: (provider: TestProvider) => unknown) => {
      await at.accepts(t, 'somebody with the name and the address of alice', arrange)
      return at.gateway.events('login_succeeded')[0]?.user
    }
    const users = [await userAt(here), await userAt(here, bob), await userAt(there), await userAt(here)]
    t.equal(users[0], users[3], 'alice is always the same user')
    t.equal(new Set(users).size, 3, 'another subject or another issuer is another one')

    const { browser } = await here.accepts(t, 'alice')
    const cookies = [`__Host-coatcheck=${browser.jar.get('__Host-coatcheck')}`]
    const status = async (at: House) =>
      (await browser.request(`${at.gateway.url}/bff/user`, { cookies, headers: { 'X-CSRF': '1' } })).status
    t.equal(await status(here), 200)
    t.equal(await status(there), 401, 'her session is none at the other provider, though Redis and key are the same')
    t.equal(there.gateway.events('record_unreadable').length, 1)
  })

  t.test('of a claim given twice the last one counts, for every check', async t => {
    // One parser reads the first, another the last: the check must not see another claim than the session (RFC 7519 §4).
    const otherSubject: Forgery = ({ sign, header, payload, ...draft }) =>
      moreClaims('"sub":"mallory"')({ ...draft, sign, header, payload: { ...payload, sub: 'alice' } })
    await refuseAll(t, house, [
      ['a second iss', moreClaims('"iss":"https://login.example"')],
      ['a second aud', moreClaims('"aud":"other"')],
      ['a second exp', moreClaims('"exp":1')],
      ['a second iat', moreClaims('"iat":1')],
      ['a second nonce', moreClaims('"nonce":"other"')],
      ['a second at_hash', moreClaims('"at_hash":"other"')],
    ])
    await house.refuses(t, 'a second sub, which UserInfo does not know', sends(otherSubject), { userInfo: true })
  })

  t.test('members that decide nothing never break anything', async t => {
    // A claim that is only data, of a type nobody thought of, must not end in a failure of the gateway.
    const values = [...wrongValues, [{ a: [] }], 'x'.repeat(20_000)]
    for (const name of ['sid', 'auth_time', 'acr', 'name', 'roles', 'jti', 'c_hash'])
      for (const [story, forgery] of each(name, values)) await house.decides(t, story, sends(forgery))
    const headers: Json[] = [{ cty: 'JWT' }, { zip: 'DEF' }, { x5t: 0 }, { jku: 0 }, { jwk: null }, { toString: 1 }]
    for (const changes of [...headers, { x: 'x'.repeat(20_000) }])
      await house.decides(t, `header ${show(changes)}`, sends(header(changes)))
  })
})

test('claims are data', async t => {
  const house = await startHouse(t, { provider: { idTokenClaims: 'full' } })

  const says = async (t: Test, name: string, json: string) => {
    const { browser } = await house.accepts(t, name, sends(moreClaims(json)))
    const answer = await browser.api('/bff/user')
    t.equal(answer.headers['content-type'], 'application/json; charset=utf-8')
    t.equal(answer.rawSetCookie.length, 0, 'no header was split')
    t.ok(
      house.gateway.log.every(line => /^\{.*\}\n$/.test(line) && JSON.parse(line)),
      'every log line is one JSON value',
    )
    return answer.json<{ user: Json }>().user
  }

  t.test('markup, line ends and control characters in claims stay inert', async t => {
    // A user takes the name of a script, a header or a log line, and waits for somebody to print it (RFC 8725 §2.9).
    const names = {
      markup: '</script><script>alert(1)</script>',
      'a header': 'a\r\nSet-Cookie: x=y',
      'line ends of scripts': 'a\u2028b\u2029c',
      'control characters': '\u0000\u001b[2J',
      JSON: '"},"admin":{"x":"',
      'half a character': '\ud800',
      'an encoded header': '%0d%0aX: y',
    }
    for (const [story, name] of Object.entries(names)) {
      const user = await says(t, story, `"name":${JSON.stringify(name)}`)
      t.equal(user.name, name)
    }
  })

  t.test('claims named like members of every object pollute nothing', async t => {
    // Prototype pollution by claims that are merged (CWE-1321).
    const hostile = [
      '"__proto__":{"polluted":1,"admin":true}',
      '"constructor":{"prototype":{"polluted":1}}',
      '"name":{"__proto__":{"polluted":1}}',
      '"hasOwnProperty":1',
      '"toJSON":1,"name":{"toJSON":1}',
    ]
    for (const json of hostile) {
      const user = await says(t, json, json)
      t.equal(({} as Json).polluted, undefined)
      t.equal(user.admin, undefined)
      t.strictSame(Object.keys(user).sort(), ['email', 'name', 'preferred_username', 'roles', 'sub'])
    }
  })

  t.test('claims of a size or depth that cannot be kept are refused', async t => {
    // An attribute of a megabyte, or nested deeper than a serialiser's stack, is accepted once and then breaks every use of the session.
    const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth)
    const megabyte = moreClaims(`"name":"${'x'.repeat(1 << 20)}"`)
    await house.refuses(t, 'a megabyte', sends(megabyte), { status: 503, revoked: 'nothing' })
    for (const depth of [33, 5_000, 150_000]) {
      const deep = moreClaims(`"name":${nested(depth)}`)
      await house.refuses(t, `nested ${depth} deep`, sends(deep))
    }
    await house.accepts(t, 'nested 32 deep', sends(moreClaims(`"name":${nested(32)}`)))
    await house.accepts(t, 'nested 150000 deep where nobody looks', sends(moreClaims(`"ballast":${nested(150_000)}`)))
    await house.accepts(t, '200 kB', sends(moreClaims(`"name":"${'x'.repeat(200_000)}"`)))
    const many = Array.from({ length: 20_000 }, (_, at) => `"c${at}":1`).join(',')
    await house.accepts(t, '20000 claims', sends(moreClaims(many)))
  })
})
