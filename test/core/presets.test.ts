import { test } from 'tap'
import { presetOf } from '../../src/core/presets.ts'

test('a provider is known by the host of its issuer, to the letter', async t => {
  const known: Record<string, string> = {
    'https://login.microsoftonline.com/8d0f3f4e-0000-0000-0000-000000000000/v2.0': 'entra',
    'https://login.microsoftonline.us/organizations/v2.0': 'entra',
    'https://login.partner.microsoftonline.cn/contoso.cn/v2.0': 'entra',
    'https://contoso.ciamlogin.com/8d0f3f4e-0000-0000-0000-000000000000/v2.0': 'entra',
    'https://sso.example.com/realms/main': 'keycloak',
    'https://sso.example.com/auth/realms/main': 'keycloak',
    'https://contoso.eu.auth0.com/': 'auth0',
    'https://contoso.okta.com/oauth2/default': 'okta',
    'https://contoso.oktapreview.com': 'okta',
    'https://accounts.google.com': 'google',
    'https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEf': 'cognito',
  }
  for (const [issuer, name] of Object.entries(known)) t.equal(presetOf(issuer), name, issuer)
})

// Entra ID's front channel is believed without an issuer: an imitation of its host must not be.
test('a host that only looks like a provider is any other', async t => {
  const strangers = [
    'https://login.microsoftonline.com.evil.example/organizations/v2.0',
    'https://evil-login.microsoftonline.com/x/v2.0',
    'https://idp.example/login.microsoftonline.com',
    'https://notciamlogin.com/x/v2.0',
    'https://notauth0.com/',
    'https://evilokta.com/',
    'https://accounts.google.com.example/',
    'https://cognito-idp.evil.example/amazonaws.com',
    'https://idp.example/realms/',
    'https://idp.example/realms/a/b',
  ]
  for (const issuer of strangers) t.equal(presetOf(issuer), 'generic', issuer)
})
