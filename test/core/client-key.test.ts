import { createHash, generateKeyPairSync, X509Certificate } from 'node:crypto'
import { test } from 'tap'
import { readClientKey } from '../../src/core/client-key.ts'
import { createClientKeys } from '../support/client-keys.ts'

test('private keys are read in every form that tools write, and sign by what fits them', async t => {
  const [rsa, p256, p384] = [createClientKeys('rsa'), createClientKeys('P-256'), createClientKeys('P-384')]
  const edwards = createClientKeys('ed25519')
  const forms: [name: string, pem: unknown, algorithm: string][] = [
    ['RSA, PKCS8', rsa.pem, 'RS256'],
    ['RSA, PKCS1', rsa.privateKey.export({ format: 'pem', type: 'pkcs1' }), 'RS256'],
    ['P-256, PKCS8', p256.pem, 'ES256'],
    ['P-256, SEC1', p256.privateKey.export({ format: 'pem', type: 'sec1' }), 'ES256'],
    ['P-384', p384.pem, 'ES384'],
    ['Ed25519', edwards.pem, 'EdDSA'],
  ]
  for (const [name, pem, algorithm] of forms) {
    const read = readClientKey(String(pem), undefined)
    t.equal('algorithms' in read && read.algorithms[0], algorithm, name)
  }
})

test('a certificate gives its SHA-256 thumbprint, and RSA then signs by PSS', async t => {
  const { pem, certificate } = createClientKeys()
  const { raw } = new X509Certificate(certificate)
  t.match(readClientKey(pem, certificate), {
    thumbprint: createHash('sha256').update(raw).digest('base64url'),
    algorithms: ['PS256', 'RS256'],
  })
})

test('kinds of keys that no provider takes are refused', async t => {
  const kinds = [
    generateKeyPairSync('ec', { namedCurve: 'secp256k1' }),
    generateKeyPairSync('x25519'),
    generateKeyPairSync('ed448'),
    generateKeyPairSync('rsa-pss', { modulusLength: 2048 }),
  ]
  for (const { privateKey } of kinds) {
    const pem = String(privateKey.export({ format: 'pem', type: 'pkcs8' }))
    t.match(readClientKey(pem, undefined), { of: 'key', fault: /must hold/ }, String(privateKey.asymmetricKeyType))
  }
})
