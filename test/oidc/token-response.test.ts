import { type Test, test } from 'tap'
import { eventually } from '../support/eventually.ts'
import { answers, claims, encode, header, padded, sends, show, wrongValues } from '../support/forgeries.ts'
import { type Refusal, startHouse } from '../support/hostile-provider.ts'
import { createSigningKey, type Json, type TestProvider } from '../support/provider.ts'

const hourMs = 3_600_000
const json = { 'content-type': 'application/json' }
const deep = '['.repeat(150_000) + ']'.repeat(150_000)

test('a token response that is not one opens no session', async t => {
  const house = await startHouse(t)
  const { provider, clock } = house
  const refuse = (t: Test, name: string, changes: Json, refusal?: Refusal) =>
    house.refuses(
      t,
      name,
      provider => {
        provider.tamper.tokenResponse = response => ({ ...response, ...changes })
      },
      refusal,
    )
  const accept = (t: Test, name: string, changes: Json) =>
    house.accepts(t, name, provider => {
      provider.tamper.tokenResponse = response => ({ ...response, ...changes })
    })
  await house.accepts(t, 'an honest one')

  t.test('the access token is text that fits a header', async t => {
    // A token with a line end in it writes headers of its own on every call to an API (RFC 6749 Appendix A.12, RFC 6750 §2.1).
    for (const value of [undefined, ...wrongValues, ['token']])
      await refuse(t, `access_token ${show(value)}`, { access_token: value })
    const texts = {
      'a line end': 'token\r\nX-Admin: 1',
      'a line feed': 'token\n',
      'a NUL': 'tok\0en',
      'a tab': 'tok\ten',
      'a letter of no ASCII': 'tokén',
      'an emoji': 'tok🔑en',
      'a delete': 'token\x7f',
    }
    const noHash = sends(claims({ at_hash: undefined }))
    for (const [name, text] of Object.entries(texts))
      await house.refuses(t, `an access token with ${name}`, provider => {
        noHash(provider)
        provider.tamper.tokenResponse = response => ({ ...response, access_token: text })
      })
  })

  t.test('the token type is Bearer', async t => {
    // A token that only works with a proof of possession is not sent without one (RFC 6749 §7.1, RFC 9449 §5).
    for (const value of [undefined, ...wrongValues, 'mac', 'DPoP', 'N_A', 'bearer ', 'Bearer,DPoP', ['Bearer']])
      await refuse(t, `token_type ${show(value)}`, { token_type: value })
    for (const value of ['bearer', 'BEARER']) await accept(t, `token_type ${value}`, { token_type: value })
  })

  t.test('the lifetime is a number of seconds, and a token is never sent after it', async t => {
    // A lifetime that is no number compares as not expired for ever (RFC 6749 §5.1).
    for (const value of [null, '', -1, true, false, [], {}, 'abc', 'NaN', '-1', [null]])
      await refuse(t, `expires_in ${show(value)}`, { expires_in: value })
    await house.refuses(t, 'expires_in beyond every number', provider => {
      provider.tamper.tokenResponse = response =>
        JSON.stringify({ ...response, expires_in: 7 }).replace('"expires_in":7', '"expires_in":1e999')
    })

    const lives = async (expiresIn: unknown, seconds: number) => {
      const response = { expires_in: expiresIn, refresh_token: undefined }
      const { browser } = await accept(t, `expires_in ${show(expiresIn)}`, response)
      const call = async () => (await browser.api('/api/items')).status
      // It is not sent in its last 5 seconds: it would be over when it arrives.
      clock.advance((seconds - 6) * 1000)
      t.equal(await call(), 200, `used for ${seconds} s`)
      house.upstream.clear()
      // The refresh that this call set off in the background finds that there is nothing to be had as long as the token lasts.
      t.ok(await eventually(async () => !(await house.redis.keys()).some(key => key.includes(':lease:'))))
      // What Redis answered to that is read by the gateway before it takes another request.
      await fetch(`${house.gateway.internalUrl}/healthz`)
      clock.advance(1000)
      t.equal(await call(), 401, 'and no longer')
      t.equal(house.upstream.requests.length, 0)
    }
    const week = 7 * 86_400
    await lives(undefined, 300)
    await lives(0, 300)
    await lives(60, 60)
    await lives('60', 60)
    await lives(1e18, week)
    await lives(1e300, week)
    await lives(Number.MAX_SAFE_INTEGER, week)
  })

  t.test('a refresh token is text, or is not there', async t => {
    // When the refresh token is no use, the access token is the one to be revoked (RFC 7009 §2.1).
    for (const value of [...wrongValues, ['token']])
      await refuse(t, `refresh_token ${show(value)}`, { refresh_token: value }, { revoked: 'access token' })
    await accept(t, 'no refresh token', { refresh_token: undefined })
    await house.refuses(
      t,
      'no refresh token and a forged ID token',
      provider => {
        sends(claims({ exp: 1 }))(provider)
        provider.tamper.tokenResponse = response => ({ ...response, refresh_token: undefined })
      },
      { revoked: 'access token' },
    )
  })

  t.test('the ID token and the scope are text', async t => {
    // A response for plain OAuth, or one taken apart and put together wrongly, names no user (OpenID Connect Core §3.1.3.3).
    for (const value of [undefined, ...wrongValues, ['a.b.c'], 'a.b.c', 'null'])
      await refuse(t, `id_token ${show(value)}`, { id_token: value })
    for (const value of wrongValues.filter(value => value !== ''))
      await refuse(t, `scope ${show(value)}`, { scope: value })
    for (const value of [undefined, '', 'openid']) await accept(t, `scope ${show(value)}`, { scope: value })
  })

  t.test('an error is an error, whatever its status and type', async t => {
    // RFC 6749 §5.2: what the error says is not repeated to anybody.
    const errors: [string, string][] = [
      ['an error', '{"error":"invalid_grant","error_description":"<script>alert(1)</script>"}'],
      ['an error that is no text', '{"error":{"a":1}}'],
      ['an error of another size', `{"error":"${'x'.repeat(100_000)}"}`],
      ['an error with line ends', '{"error":"a\\r\\nX: y"}'],
    ]
    for (const [name, body] of errors)
      for (const status of [200, 400, 401])
        await house.refuses(
          t,
          `${status} with ${name}`,
          provider =>
            answers(provider, 'token', () => ({
              status,
              headers: { ...json, 'www-authenticate': 'Basic realm="<script>"' },
              body,
            })),
          { revoked: 'nothing' },
        )
  })

  t.test('a response says JSON or is none, and its type makes no difference', async t => {
    // A page with JSON in it, or JSON that another parser reads differently, is all or nothing (RFC 6749 §5.1, RFC 8259 §8.1).
    const types = ['text/html', 'text/plain', 'application/jwt', 'application/json;charset=UTF-16', '']
    for (const type of types)
      await house.decides(t, `content type ${show(type)}`, provider =>
        answers(provider, 'token', body => ({ status: 200, headers: { 'content-type': type }, body })),
      )
    await house.decides(t, 'no content type', provider => answers(provider, 'token', body => ({ status: 200, body })))
    await house.refuses(
      t,
      'UTF-16',
      provider =>
        answers(provider, 'token', body => ({
          status: 200,
          headers: json,
          body: Buffer.from(`\ufeff${body}`, 'utf16le'),
        })),
      { revoked: 'nothing' },
    )
  })

  t.test('members that nobody asked for never break a login', async t => {
    // A response is the provider's to extend; nothing in it reaches more than it should.
    for (const member of [
      `"x":${deep}`,
      '"__proto__":{"access_token":"x"}',
      '"constructor":{}',
      '"error":"invalid_grant"',
      '"claims":7',
      '"expires_at":"never"',
      '"refresh_expires_in":-1',
    ])
      await house.decides(t, member.slice(0, 40), provider => {
        provider.tamper.tokenResponse = response => padded(JSON.stringify(response), member)
      })
    await house.accepts(t, 'cookies of the provider go nowhere', provider =>
      answers(provider, 'token', body => ({
        status: 200,
        headers: { ...json, 'set-cookie': '__Host-coatcheck=planted; Path=/; Secure' },
        body,
      })),
    )
  })

  t.test('tokens are revoked however the metadata spells the token endpoint', async t => {
    // The same address in other letters: the tokens of a refused login must not live on unseen (RFC 3986 §6.2.2).
    const { port } = provider
    for (const address of [
      `HTTP://127.0.0.1:${port}/token`,
      `http://127.0.0.1:${port}/./token`,
      `http://127.0.0.1:${port}/x/../token`,
      `http://127.1:${port}/token`,
      `http://127.0.0.1:0${port}/token`,
      `http://127.0.0.1:${port}/token#here`,
    ])
      await house.refuses(
        t,
        address.replaceAll(String(port), 'port'),
        provider => {
          provider.tamper.discovery = metadata => ({ ...metadata, token_endpoint: address })
          clock.advance(25 * hourMs)
          sends(header({ alg: 'none' }))(provider)
        },
        { recover: () => clock.advance(25 * hourMs) },
      )
  })
})

test('a UserInfo answer that is not about this user opens no session', async t => {
  const house = await startHouse(t, { env: { OIDC_USERINFO: 'always' } })
  const { clock } = house
  const userInfo = true

  t.test('its subject is that of the ID token', async t => {
    // Token substitution: the access token of somebody else brings the claims of somebody else (OpenID Connect Core §5.3.2).
    for (const sub of [undefined, ...wrongValues, 'mallory', 'Alice', 'alice ', ['alice'], { sub: 'alice' }])
      await house.refuses(
        t,
        `sub ${show(sub)}`,
        provider => {
          provider.tamper.userinfo = answer => ({ ...answer, sub, roles: ['admin'] })
        },
        { userInfo },
      )
    await house.refuses(
      t,
      'a second sub',
      provider => {
        provider.tamper.userinfo = answer => padded(JSON.stringify(answer), '"sub":"mallory"')
      },
      { userInfo },
    )
  })

  t.test('it is a JSON object', async t => {
    // A list or a text with members named like claims, or a page.
    const documents: [string, (honest: string) => string][] = [
      ['a list', text => `[${text}]`],
      ['a text', text => JSON.stringify(text)],
      ['null', () => 'null'],
      ['a number', () => '1'],
      ['HTML', () => '<html>'],
      ['nothing', () => ''],
    ]
    for (const [name, make] of documents)
      await house.refuses(
        t,
        name,
        provider => {
          provider.tamper.userinfo = answer => make(JSON.stringify(answer))
        },
        { userInfo },
      )
    await house.refuses(t, '204', provider => answers(provider, 'userinfo', () => ({ status: 204 })), { userInfo })
    await house.refuses(
      t,
      'a challenge',
      provider =>
        answers(provider, 'userinfo', () => ({
          status: 401,
          headers: { 'www-authenticate': 'Bearer error="invalid_token", error_description="<script>"' },
        })),
      { userInfo },
    )
  })

  t.test('a signed one is not believed unseen', async t => {
    // UserInfo as a JWT whose signature nobody checks (Core §5.3.4, RFC 8725 §3.2).
    const attacker = await createSigningKey('RS256')
    const payload = (provider: TestProvider) => ({
      iss: provider.issuer,
      aud: provider.clientId,
      sub: 'alice',
      name: 'Alice',
      roles: ['admin'],
    })
    const forgeries: [string, (provider: TestProvider) => string][] = [
      [
        'by a strange key',
        provider =>
          provider.sign({ alg: 'RS256', kid: provider.signingKey().kid }, payload(provider), attacker.privateKey),
      ],
      ['without a signature', provider => `${encode({ alg: 'none' })}.${encode(payload(provider))}.`],
      ['by the client secret', provider => provider.sign({ alg: 'HS256' }, payload(provider), provider.clientSecret)],
    ]
    for (const [name, forge] of forgeries)
      for (const advertised of [undefined, ['RS256', 'none', 'HS256']])
        await house.refuses(
          t,
          `${name}, the metadata says ${show(advertised)}`,
          provider => {
            provider.tamper.discovery = metadata => ({ ...metadata, userinfo_signing_alg_values_supported: advertised })
            clock.advance(2 * hourMs)
            answers(provider, 'userinfo', () => ({
              status: 200,
              headers: { 'content-type': 'application/jwt' },
              body: forge(provider),
            }))
          },
          { userInfo, recover: () => clock.advance(2 * hourMs) },
        )
  })

  t.test('it adds to what the ID token says, and changes nothing', async t => {
    // The ID token is signed, UserInfo is not: where both speak, the signature decides.
    const { browser } = await house.accepts(t, 'both name the user', provider => {
      sends(claims({ name: 'Alice', email: 'alice@example.test' }))(provider)
      provider.tamper.userinfo = answer => ({
        ...answer,
        name: 'Mallory',
        email: undefined,
        roles: ['reader'],
        iss: 'https://login.example',
      })
    })
    const { user } = (await browser.api('/bff/user')).json<{ user: Json }>()
    t.match(user, { sub: 'alice', name: 'Alice', email: 'alice@example.test', roles: ['reader'] })
    t.equal(user.iss, undefined)
  })

  t.test('claims nested without end are refused from here too', async t => {
    // As in the ID token: accepted once, they would break every use of the session.
    await house.refuses(
      t,
      'name',
      provider => {
        provider.tamper.userinfo = answer => padded(JSON.stringify({ ...answer, name: undefined }), `"name":${deep}`)
      },
      { userInfo },
    )
  })
})
