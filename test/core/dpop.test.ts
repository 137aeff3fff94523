import { createHash, createPublicKey, verify } from 'node:crypto'
import { calculateJwkThumbprint, decodeProtectedHeader, EmbeddedJWK, jwtVerify } from 'jose'
import { test } from 'tap'
import { challengesForNonce, createDpopKey, dpopNonceOf, dpopProof, dpopThumbprint } from '../../src/core/dpop.ts'

const url = new URL('https://api.example/a%20b//c?x=1#y')
const about = { method: 'POST', url, nonce: undefined, now: 1_700_000_000_999 }

test('a proof says what it is for, and nothing of the private key', async t => {
  const key = createDpopKey()
  const proof = dpopProof(key, { ...about, accessToken: 'token', nonce: 'n' })
  const { payload } = await jwtVerify(proof, EmbeddedJWK, { currentDate: new Date(about.now) })
  t.match(payload, { htm: 'POST', htu: 'https://api.example/a%20b//c', iat: 1_700_000_000, nonce: 'n' })
  t.equal(payload.ath, createHash('sha256').update('token').digest('base64url'))
  const { alg, typ, jwk } = decodeProtectedHeader(proof)
  t.same([alg, typ, Object.keys(jwk ?? {}).sort()], ['ES256', 'dpop+jwt', ['crv', 'kty', 'x', 'y']])
  t.notMatch(Buffer.from(proof.split('.')[0] ?? '', 'base64url').toString(), key.d)
  t.equal(await calculateJwkThumbprint(jwk ?? {}), dpopThumbprint(key))
})

test('a proof without a token or nonce says nothing of them', async t => {
  const { payload } = await jwtVerify(dpopProof(createDpopKey(), about), EmbeddedJWK, {
    currentDate: new Date(about.now),
  })
  t.same(Object.keys(payload).sort(), ['htm', 'htu', 'iat', 'jti'])
})

// One key in 256 begins with a zero, which some libraries leave out: its session would never get a token.
test('every key has members of full length, and signs', t => {
  const keys = Array.from({ length: 2000 }, createDpopKey)
  t.ok(keys.every(({ x, y, d }) => [x, y, d].every(member => /^[\w-]{43}$/.test(member))))
  t.ok(
    keys.some(({ d }) => d.startsWith('A')),
    'a key with a small number was among them',
  )
  t.equal(new Set(keys.map(({ d }) => d)).size, keys.length)
  for (const key of keys.filter(({ d, x, y }) => [d, x, y].some(member => /^A[A-D]/.test(member)))) {
    const [header, payload, signature] = dpopProof(key, about).split('.')
    const publicKey = createPublicKey({ key: { kty: key.kty, crv: key.crv, x: key.x, y: key.y }, format: 'jwk' })
    const signed = Buffer.from(`${header}.${payload}`)
    const good = verify(
      'sha256',
      signed,
      { key: publicKey, dsaEncoding: 'ieee-p1363' },
      Buffer.from(String(signature), 'base64url'),
    )
    t.ok(good)
  }
  t.end()
})

// The nonce is the API's, and becomes part of what is signed and sent (RFC 9449 §8.1).
test('a nonce is taken when it is one', t => {
  for (const good of ['x', 'eyJ7S_zG.eyJH0-Z.HX4w-7v', '!'.repeat(1024)]) t.equal(dpopNonceOf(good), good)
  for (const bad of [undefined, null, '', 'a b', '"', 'a\\b', 'ü', '\n', 'x'.repeat(1025), ['x'], 7])
    t.equal(dpopNonceOf(bad), undefined)
  t.ok(challengesForNonce('Basic, DPoP error="use_dpop_nonce", algs="ES256"'))
  t.notOk(challengesForNonce('DPoP error="invalid_token"'))
  t.notOk(challengesForNonce(undefined))
  t.end()
})
