import { test } from 'tap'
import { clientSecretBasic } from '../../src/oidc/client-secret-basic.ts'

/** What a provider finds in the Authorization header, not decoded any further. */
function sent(clientId: string, clientSecret: string): string {
  const headers = new Headers()
  const body = new URLSearchParams()
  clientSecretBasic(clientSecret)({ issuer: 'https://login.example' }, { client_id: clientId }, body, headers)
  const [scheme, credentials = ''] = (headers.get('authorization') ?? '').split(' ')
  if (scheme !== 'Basic' || [...body].length > 0) throw new Error('not Basic alone')
  return Buffer.from(credentials, 'base64').toString()
}

test('a secret in base64url reaches providers that do not decode as it is', async t => {
  t.equal(sent('my-spa_1.example', 'Wxjp3-kiM_6RV.krU*'), 'my-spa_1.example:Wxjp3-kiM_6RV.krU*')
})

test('whatever would be mistaken is encoded as forms do it', async t => {
  t.equal(sent('https://app', 'a:b c%d+é~!'), 'https%3A%2F%2Fapp:a%3Ab+c%25d%2B%C3%A9%7E%21')
  const all = String.fromCharCode(...Array.from({ length: 95 }, (_, index) => 32 + index))
  const [id, secret] = sent(all, all).split(':')
  for (const part of [id, secret])
    t.equal(new URLSearchParams(`=${part}`).get(''), all, 'a provider that decodes gets it')
})
