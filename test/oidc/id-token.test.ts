import { sign } from 'node:crypto'
import { test } from 'tap'
import {
  claims,
  encode,
  type Forgery,
  type ForgeryCase,
  header,
  parts,
  refuseAll,
  sends,
  show,
  withoutHash,
  wrongValues,
} from '../support/forgeries.ts'
import { startHouse } from '../support/hostile-provider.ts'
import { createSigningKey, type IdTokenDraft, type Json, type TestProvider } from '../support/provider.ts'

/** The JWS whose signing input is this text, whatever it is. */
const signText = (input: string, { privateKey }: IdTokenDraft['key']) =>
  `${input}.${sign('sha256', Buffer.from(input), privateKey).toString('base64url')}`

test('an ID token that this provider did not sign opens no session', async t => {
  const house = await startHouse(t)
  const { provider, clock, evil } = house
  const now = () => Math.floor(clock.now() / 1000)
  const attacker = await createSigningKey('RS256')
  await house.accepts(t, 'an honest token')

  t.test('the signature is verified although the token came over the back channel', async t => {
    // A provider behind a broken cache or proxy hands out a token that somebody changed (OpenID Connect Core §3.1.3.7).
    let earlier = ''
    await house.accepts(
      t,
      'an honest token',
      sends(({ token }) => (earlier = token)),
    )
    await refuseAll(t, house, [
      [
        'another payload under the same signature',
        ({ token, payload }) => {
          const [head, , signature] = parts(token)
          return `${head}.${encode({ ...payload, sub: 'mallory' })}.${signature}`
        },
      ],
      [
        'another header under the same signature',
        ({ token, header }) => {
          const [, payload, signature] = parts(token)
          return `${encode({ ...header, x: 1 })}.${payload}.${signature}`
        },
      ],
      [
        'the signature of an earlier token',
        ({ token }) => `${parts(token).slice(0, 2).join('.')}.${parts(earlier)[2]}`,
      ],
      ['an empty signature', ({ token }) => `${parts(token).slice(0, 2).join('.')}.`],
      [
        'a signature of zeros',
        ({ token }) => `${parts(token).slice(0, 2).join('.')}.${Buffer.alloc(256).toString('base64url')}`,
      ],
      ['half a signature', ({ token }) => token.slice(0, -171)],
      ['a signature with a byte too many', ({ token }) => `${token}AAAA`],
      [
        'the key of somebody else under the right kid',
        ({ sign, header, payload }) => sign(header, payload, attacker.privateKey),
      ],
    ])
  })

  t.test('a token with any bit of its signature flipped is refused', async t => {
    // A verifier that looks at part of the signature only, or that takes r = s = 0 (RFC 8725 §3.2; CVE-2022-21449).
    for (const [alg, length, step] of [
      ['ES256', 64, 1],
      ['EdDSA', 64, 3],
      ['RS256', 256, 17],
    ] as const) {
      await provider.rotateKeys({ keepOld: false, alg })
      clock.advance(61_000)
      for (let at = 0; at < length; at += step) {
        const flipped: Forgery = ({ token }) => {
          const [head, payload, signature] = parts(token)
          const bytes = Buffer.from(signature, 'base64url')
          bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << (at % 8)), at)
          return `${head}.${payload}.${bytes.toString('base64url')}`
        }
        await house.reset()
        sends(flipped)(provider)
        const { answer, browser } = await house.attempt()
        t.strictSame([answer.status, browser.jar.get('__Host-coatcheck')], [400, undefined], `${alg}, byte ${at}`)
      }
      await refuseAll(t, house, [
        [
          `${alg}, all zeros`,
          ({ token }) => `${parts(token).slice(0, 2).join('.')}.${Buffer.alloc(length).toString('base64url')}`,
        ],
      ])
    }
  })

  t.test('what is not three parts of base64url JSON is refused', async t => {
    // Parsers that skip what they do not know, or take another serialisation, verify one thing and read another (RFC 7515 §3.1).
    await refuseAll(t, house, [
      ['two parts', ({ token }) => parts(token).slice(0, 2).join('.')],
      ['one part', ({ token }) => parts(token)[1]],
      ['four parts', ({ token }) => `${token}.${parts(token)[2]}`],
      ['five parts', ({ token }) => `${token}.a.b`],
      ['six parts', ({ token }) => `${token}.a.b.c`],
      ['only dots', () => '..'],
      ['padding', ({ token }) => `${token}==`],
      ['padding inside', ({ token }) => token.replace('.', '==.')],
      ['a blank in front', ({ token }) => ` ${token}`],
      ['a line end behind', ({ token }) => `${token}\n`],
      ['a blank inside', ({ token }) => token.replace('.', ' .')],
      ['a character of another alphabet', ({ token }) => token.replace('.', '*.')],
      [
        'a header that is not UTF-8',
        ({ token }) => `${Buffer.from([0xff, 0xfe, 0x7b]).toString('base64url')}.${parts(token).slice(1).join('.')}`,
      ],
      [
        'a payload that is not UTF-8',
        ({ header, payload, key }) => {
          const bytes = Buffer.from(JSON.stringify({ ...payload, name: '\u00ff\u00fe' }), 'latin1')
          return signText(`${encode(header)}.${bytes.toString('base64url')}`, key)
        },
      ],
      ['a header that is a list', ({ sign, header, payload }) => sign([header], payload)],
      ['a header that is a string', ({ sign, payload }) => sign('"RS256"', payload)],
      ['a payload that is a list', ({ sign, header, payload }) => sign(header, [payload])],
      ['a payload that is null', ({ sign, header }) => sign(header, 'null')],
      ['a payload that is no JSON', ({ sign, header }) => sign(header, 'sub=alice')],
      ['an empty payload', ({ sign, header }) => sign(header, '')],
      [
        'JSON serialisation',
        ({ token }) => {
          const [head, payload, signature] = parts(token)
          return JSON.stringify({ payload, protected: head, signature })
        },
      ],
      ['no ID token', () => undefined],
      ['an empty one', () => ''],
    ])
    const megabyte = 'x'.repeat(1 << 20)
    await house.refuses(t, 'a megabyte of claims', sends(claims({ name: megabyte })), {
      status: 503,
      revoked: 'nothing',
    })
  })

  t.test('an unsigned token is refused, however none is spelled', async t => {
    // The attacker takes the signature off and says so in the header (RFC 8725 §3.2).
    const unsigned = (alg: unknown) =>
      withoutHash(({ header, payload }) => `${encode({ ...header, alg })}.${encode(payload)}.`)
    const algs = [
      'none',
      'None',
      'NONE',
      'nOnE',
      'none ',
      undefined,
      null,
      '',
      0,
      true,
      {},
      [],
      ['none'],
      ['RS256'],
      ['RS256', 'none'],
    ]
    await refuseAll(
      t,
      house,
      algs.map((alg): ForgeryCase => [`alg ${show(alg)} without a signature`, unsigned(alg)]),
    )
    await refuseAll(
      t,
      house,
      algs.map(
        (alg): ForgeryCase => [
          `alg ${show(alg)} with a signature`,
          ({ token, header }) => {
            const [, payload, signature] = parts(token)
            return `${encode({ ...header, alg })}.${payload}.${signature}`
          },
        ],
      ),
    )
  })

  t.test('a token signed with a shared secret is refused, whatever the secret', async t => {
    // The public key, known to everybody, serves as the secret of an HMAC (RFC 8725 §2.1).
    const pem = (key: IdTokenDraft['key'], type: 'spki' | 'pkcs1') =>
      key.publicKey.export({ format: 'pem', type }) as string
    const secrets: [string, (key: IdTokenDraft['key']) => Uint8Array | string][] = [
      ['the client secret', () => provider.clientSecret],
      ['the public key as PEM', key => pem(key, 'spki')],
      ['the public key as PEM without its last line end', key => pem(key, 'spki').trimEnd()],
      ['the public key as PKCS #1 PEM', key => pem(key, 'pkcs1')],
      ['the public key as DER', key => key.publicKey.export({ format: 'der', type: 'spki' })],
      ['the public key as a JWK', key => JSON.stringify(key.jwk)],
      ['the modulus', key => Buffer.from(String(key.jwk.n), 'base64url')],
      ['nothing', () => ''],
    ]
    for (const alg of ['HS256', 'HS384', 'HS512']) {
      await refuseAll(
        t,
        house,
        secrets.map(
          ([name, secretOf]): ForgeryCase => [
            `${alg} with ${name}`,
            withoutHash(({ sign, header, payload, key }) => sign({ ...header, alg }, payload, secretOf(key))),
          ],
        ),
      )
    }
    await refuseAll(t, house, [
      [
        'HS256 with the client secret and no kid',
        ({ sign, payload }) => sign({ alg: 'HS256' }, payload, provider.clientSecret),
      ],
    ])
  })

  t.test('the accepted algorithms are those of the configuration', async t => {
    // A provider that was talked into weak metadata does not lower the gateway's bar (RFC 8725 §3.1).
    const ec = await createSigningKey('ES256')
    const cases: ForgeryCase[] = [
      ['RS512 by the right key', header({ alg: 'RS512' })],
      ['RS384 by the right key', header({ alg: 'RS384' })],
      ['PS512 by the right key', header({ alg: 'PS512' })],
      ['PS256 by a key made for RS256', header({ alg: 'PS256' })],
      ['ES256 said of an RSA signature', header({ alg: 'ES256' })],
      ['EdDSA said of an RSA signature', header({ alg: 'EdDSA' })],
      [
        'ES256 by a strange key under the kid of the RSA key',
        ({ sign, header, payload }) => sign({ ...header, alg: 'ES256' }, payload, ec.privateKey),
      ],
      ['an algorithm that does not exist', header({ alg: 'RS257' })],
      ['the algorithm in lower case', header({ alg: 'rs256' })],
      ['an algorithm named like a member of every object', header({ alg: 'constructor' })],
      ['none', ({ header, payload }) => `${encode({ ...header, alg: 'none' })}.${encode(payload)}.`],
      [
        'HS256 with the client secret',
        ({ sign, header, payload }) => sign({ ...header, alg: 'HS256' }, payload, provider.clientSecret),
      ],
    ]
    const bare = cases.map(([name, forgery]): ForgeryCase => [name, withoutHash(forgery)])
    await refuseAll(t, house, bare)
    const advertised = ['none', 'HS256', 'RS384', 'RS512', 'PS512', 'rs256', 'RS257']
    clock.advance(2 * 3_600_000)
    for (const [name, forgery] of bare)
      await house.refuses(t, `${name}, advertised by the metadata`, provider => {
        provider.tamper.discovery = metadata => ({ ...metadata, id_token_signing_alg_values_supported: advertised })
        sends(forgery)(provider)
        clock.advance(3_600_001)
      })
  })

  t.test('a key that names no algorithm verifies those of the configuration only', async t => {
    // Many providers leave the algorithm out of their keys, and the header's word must not take its place (RFC 8725 §3.1).
    const unnamed = (alg: string) => (provider: TestProvider) => {
      provider.tamper.jwks = ({ keys }) => ({ keys: keys.map(key => ({ ...key, alg: undefined })) })
      sends(withoutHash(header({ alg })))(provider)
    }
    await house.accepts(t, 'an honest login', provider => {
      clock.advance(11 * 60_000)
      unnamed('RS256')(provider)
    })
    for (const alg of ['RS384', 'RS512', 'PS384', 'PS512', 'ES256', 'EdDSA', 'none', 'HS256'])
      await house.refuses(t, alg, unnamed(alg), { recover: () => clock.advance(61_000) })
    clock.advance(11 * 60_000)
  })

  t.test('a key that is not for signatures verifies none', async t => {
    // The private half of an encryption key is often kept with less care (RFC 7517 §4.2, §4.3).
    const changes: Json[] = [
      { use: 'enc' },
      { use: 'tls' },
      { use: undefined, key_ops: ['encrypt'] },
      { key_ops: ['sign'] },
      { key_ops: [] },
      { alg: 'RSA-OAEP' },
    ]
    for (const change of changes)
      await house.refuses(
        t,
        `a key with ${JSON.stringify(change)}`,
        provider => {
          provider.tamper.jwks = ({ keys }) => ({ keys: keys.map(key => ({ ...key, ...change })) })
          clock.advance(11 * 60_000)
        },
        { recover: () => clock.advance(61_000) },
      )
  })

  t.test('keys and addresses of keys in the header are ignored', async t => {
    // The forger brings the key along, or says where it is (RFC 8725 §3.10; CVE-2018-0114).
    const chain = [attacker.publicKey.export({ format: 'der', type: 'spki' }).toString('base64')]
    const places: [string, Json][] = [
      ['jwk', { jwk: attacker.jwk }],
      ['jku', { jku: `${evil.url}/jwks` }],
      ['x5u', { x5u: `${evil.url}/chain.pem` }],
      ['x5c', { x5c: chain }],
      ['jku at an address that begins like the issuer', { jku: `${provider.issuer}@127.0.0.1:${evil.port}/jwks` }],
      ['all of them', { jwk: attacker.jwk, jku: `${evil.url}/jwks`, x5u: `${evil.url}/chain.pem`, x5c: chain }],
    ]
    const kids: [string, (own: unknown) => unknown][] = [
      ['the right kid', own => own],
      ["the attacker's kid", () => attacker.kid],
      ['no kid', () => undefined],
    ]
    for (const [place, members] of places)
      for (const [name, kid] of kids)
        await house.refuses(
          t,
          `${place} with ${name}`,
          sends(({ sign, header, payload }) =>
            sign({ ...header, ...members, kid: kid(header.kid) }, payload, attacker.privateKey),
          ),
        )
  })

  t.test('header extensions that must be understood are refused', async t => {
    // An extension that one side applies and the other overlooks changes what was signed (RFC 7515 §4.1.11, RFC 7797 §6).
    await refuseAll(t, house, [
      ...[['x'], ['exp'], ['alg'], [], 'x', null, {}, [''], [1], ['b64'], ['x', 'x']].map(
        (crit): ForgeryCase => [`crit ${show(crit)}`, header({ crit, x: 1, exp: 1 })],
      ),
      [
        'b64 false, crit says so',
        ({ header, payload, key }) =>
          signText(`${encode({ ...header, crit: ['b64'], b64: false })}.${encode(payload)}`, key),
      ],
      ['b64 false on an encoded payload', header({ crit: ['b64'], b64: false })],
    ])
  })

  t.test('another kind of token by the same key is no ID token', async t => {
    // Cross-JWT confusion: a logout token or a JWT access token serves as an ID token (RFC 8725 §2.8, §3.11).
    const events = { 'http://schemas.openid.net/event/backchannel-logout': {} }
    const accessToken = ({ sign, key, payload }: IdTokenDraft, more: Json = {}) =>
      sign(
        { alg: key.alg, kid: key.kid, typ: 'at+jwt' },
        {
          iss: provider.issuer,
          sub: 'alice',
          aud: provider.clientId,
          client_id: provider.clientId,
          scope: 'openid',
          jti: 'a1',
          iat: now(),
          exp: now() + 300,
          ...more,
          ...(more.nonce === true ? { nonce: payload.nonce } : {}),
        },
      )
    await refuseAll(t, house, [
      ['a logout token', () => provider.logoutToken({ sub: 'alice', sid: 's1' })],
      ['a logout token with a nonce', ({ payload }) => provider.logoutToken({ sub: 'alice', nonce: payload.nonce })],
      [
        'a logout token that hides its type',
        ({ payload }) => provider.logoutToken({ sub: 'alice', nonce: payload.nonce }, { typ: 'JWT' }),
      ],
      ['an ID token with events', claims({ events })],
      ['an ID token with empty events', claims({ events: {} })],
      ['an ID token with events null', claims({ events: null })],
      ['an access token', draft => accessToken(draft)],
      ['an access token with the nonce', draft => accessToken(draft, { nonce: true })],
      ['the access token itself', draft => draft.accessToken],
      [
        'a UserInfo answer',
        ({ sign, header }) =>
          sign(header, { iss: provider.issuer, aud: provider.clientId, sub: 'alice', name: 'alice' }),
      ],
      ...[
        'at+jwt',
        'AT+JWT',
        'application/at+jwt',
        'logout+jwt',
        'secevent+jwt',
        'dpop+jwt',
        'JWE',
        '',
        ' JWT',
        null,
        0,
        true,
        [],
        ['JWT'],
        {},
      ].map((typ): ForgeryCase => [`typ ${show(typ)}`, header({ typ })]),
    ])
    await house.accepts(t, 'typ JWT', sends(header({ typ: 'JWT' })))
    await house.accepts(t, 'typ jwt', sends(header({ typ: 'jwt' })))
  })

  t.test('a key id is a name and nothing else', async t => {
    // The id goes into a path, a query or a look-up in an object (RFC 8725 §3.10).
    const kids = [...wrongValues, 'unknown', '../../../../dev/null', "x' UNION SELECT 'key", '__proto__', 'constructor']
    for (const kid of [...kids, 'k'.repeat(20_000)])
      await refuseAll(t, house, [
        [`kid ${show(kid)}`, header({ kid })],
        [
          `kid ${show(kid)} and a strange key`,
          ({ sign, header, payload }) => sign({ ...header, kid }, payload, attacker.privateKey),
        ],
      ])
    await refuseAll(t, house, [
      [
        'a second alg',
        draft => draft.sign(`${JSON.stringify(draft.header).slice(0, -1)},"alg":"none"}`, draft.payload),
      ],
      ['a second kid', draft => draft.sign(`${JSON.stringify(draft.header).slice(0, -1)},"kid":"x"}`, draft.payload)],
    ])
  })

  t.test('an encrypted token is refused before any of its work is done', async t => {
    // A password-based key of two thousand million rounds, or a bomb in the compression (RFC 8725 §3.6, §3.12; RFC 7518 §8.1).
    const jwe = (head: Json, ...rest: string[]) => [encode(head), ...rest].join('.')
    const bomb = encode('A'.repeat(60_000))
    const cases: [string, string][] = [
      ['RSA-OAEP', jwe({ alg: 'RSA-OAEP', enc: 'A256GCM' }, 'key', 'iv', 'text', 'tag')],
      [
        'PBES2 with a vast count',
        jwe(
          { alg: 'PBES2-HS512+A256KW', enc: 'A256GCM', p2c: 2_147_483_647, p2s: 'c2FsdA' },
          'key',
          'iv',
          'text',
          'tag',
        ),
      ],
      ['a compression bomb', jwe({ alg: 'dir', enc: 'A256GCM', zip: 'DEF' }, '', 'iv', bomb, 'tag')],
      ['dir with the client secret', jwe({ alg: 'dir', enc: 'A128CBC-HS256' }, '', 'iv', 'text', 'tag')],
    ]
    for (const [name, token] of cases) {
      const started = Date.now()
      await house.refuses(
        t,
        name,
        sends(() => token),
      )
      t.ok(Date.now() - started < 10_000, 'at once')
    }
  })

  t.test('each algorithm of the configuration is accepted', async t => {
    // Strict is not the same as refusing everything: the counterpart of the tests above.
    for (const alg of ['PS256', 'ES256', 'EdDSA', 'RS256'] as const) {
      await provider.rotateKeys({ keepOld: false, alg })
      house.clock.advance(61_000)
      await house.accepts(t, alg)
    }
  })
})
