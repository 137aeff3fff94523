import { test } from 'tap'
import { startLemonldap } from '../support/interop/lemonldap.ts'
import { versionOf } from '../support/interop/provider.ts'
import { keepsItsPromises } from './promises.ts'

test(`LemonLDAP::NG ${versionOf('liblemonldap-ng-portal-perl')}`, { timeout: 240_000 }, async t => {
  await keepsItsPromises(t, {
    start: startLemonldap,
    algorithms: ['RS256', 'RS512'],
    // With the client secret as the key.
    refused: [{ algorithm: 'HS256', accepted: 'RS256', detail: /^ID token refused|^the provider's answer/ }],
    rotates: false,
    // It has no revocation endpoint; its refresh tokens die with the session that the logout ends.
    revocation: 'not_supported',
    deadToken: 'invalid_grant',
    logoutReturns: true,
    endLogin: async ({ provider }, { page }) => {
      await page.goto(`${provider.issuer}/?logout=1`)
    },
  })
})
