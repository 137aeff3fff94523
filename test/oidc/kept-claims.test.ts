import { test } from 'tap'
import type { Identity } from '../../src/core/session.ts'
import { loginClaims, renewedClaims } from '../../src/oidc/kept-claims.ts'

const names = ['sub', 'roles', 'acr', 'department']
const idToken = { sub: 'alice', roles: ['admin'], acr: 'urn:mfa', auth_time: 1, other: 'x' }
const { tooDeep: _, ...kept } = loginClaims(idToken, { department: 'ops', roles: ['reader'], further: 'y' }, names)
const identity: Identity = {
  issuer: 'https://idp.example',
  subject: 'alice',
  providerSessionId: undefined,
  nonce: 'n',
  authTime: 1,
  ...kept,
}

test('a login keeps what is named, of the ID token before UserInfo', async t => {
  t.same(kept.claims, { sub: 'alice', roles: ['admin'], acr: 'urn:mfa', department: 'ops' })
  t.same(kept.fromUserInfo, ['department'])
})

test('after a refresh a role that is not mentioned is gone, and how the user logged in stays', async t => {
  t.same(renewedClaims(identity, { sub: 'alice' }, names), { sub: 'alice', acr: 'urn:mfa', department: 'ops' })
  const weaker = renewedClaims(identity, { sub: 'alice', acr: 'urn:password' }, names)
  t.equal(weaker.acr, 'urn:password', 'unless the provider says otherwise')
})
