import { test } from 'tap'
import {
  belongsTo,
  endpointFor,
  isShared,
  issuerOfTenant,
  isTenantOf,
  servesSeveral,
  tenantOf,
} from '../../src/core/authority.ts'

const host = 'https://login.microsoftonline.com'
const tenant = '8d0f3f4e-1111-2222-3333-444455556666'
const other = '00000000-1111-2222-3333-444455556666'

// Metadata speaks for whoever wrote it: accepted too broadly, one tenant's document would speak for another.
test('metadata may state its authority, the GUID of a tenant that goes by another name, or a template', async t => {
  const cases: [authority: string, stated: unknown, good: boolean][] = [
    [`${host}/${tenant}/v2.0`, `${host}/${tenant}/v2.0`, true],
    [`${host}/${tenant}/v2.0`, `${host}/${other}/v2.0`, false],
    [`${host}/${tenant}/v2.0`, `${host}/{tenantid}/v2.0`, false],
    [`${host}/${tenant}/v2.0`, `${host}/${tenant}/v2.0/`, false],
    [`${host}/contoso.com/v2.0`, `${host}/${tenant}/v2.0`, true],
    [`${host}/contoso.com/v2.0`, `${host}/{tenantid}/v2.0`, false],
    [`${host}/contoso.com/v2.0`, `https://evil.example/${tenant}/v2.0`, false],
    [`${host}/contoso.com/v2.0`, `${host}/fabrikam.com/v2.0`, false],
    [`${host}/contoso.com/v2.0`, `${host}/${tenant}/v1.0`, false],
    [`${host}/consumers/v2.0`, `${host}/${tenant}/v2.0`, true],
    [`${host}/common/v2.0`, `${host}/{tenantid}/v2.0`, true],
    [`${host}/organizations/v2.0`, `${host}/{tenantid}/v2.0`, true],
    [`${host}/organizations/v2.0`, `${host}/${tenant}/v2.0`, false],
    [`${host}/organizations/v2.0`, 'https://evil.example/{tenantid}/v2.0', false],
    [`${host}/organizations/v2.0`, `${host}/organizations/v2.0`, true],
    ['https://idp.example', 'https://idp.example', true],
    ['https://idp.example', `https://idp.example/${tenant}`, false],
    [`${host}/contoso.com/v2.0`, undefined, false],
    [`${host}/contoso.com/v2.0`, `${host}/%zz/v2.0`, false],
    [`${host}/%zz/v2.0`, `${host}/${tenant}/v2.0`, false],
    [`${host}/organizations/v2.0`, `${host}/%7Btenantid%7D/v2.0`, false],
    [`${host}/contoso.com/v2.0`, 7, false],
  ]
  for (const [authority, stated, good] of cases) t.equal(belongsTo(authority, stated), good, `${authority}: ${stated}`)
})

test('a tenant has its own token endpoint where the authority serves several', async t => {
  t.ok(servesSeveral(`${host}/common/v2.0`))
  t.notOk(servesSeveral(`${host}/${tenant}/v2.0`))
  const endpoint = `${host}/organizations/oauth2/v2.0/token`
  t.equal(
    endpointFor(`${host}/${tenant}/v2.0`, endpoint, `${host}/organizations/v2.0`),
    `${host}/${tenant}/oauth2/v2.0/token`,
  )
  const own = `${host}/${tenant}/oauth2/v2.0/token`
  t.equal(endpointFor(`${host}/${tenant}/v2.0`, own, `${host}/${tenant}/v2.0`), own)
})

test('a tenant is the first part of the path, and there is none in what is no address', async t => {
  t.equal(tenantOf(`${host}/${tenant}/v2.0`), tenant)
  for (const issuer of [host, `${host}//v2.0`, `${host}/%zz/v2.0`, `${host}/%c0%af/v2.0`, 'contoso.com', ''])
    t.equal(tenantOf(issuer), undefined, issuer)
})

test('a tenant of an authority is one by its GUID, where the authority names none', async t => {
  for (const authority of ['common', 'organizations', 'contoso.com']) {
    t.ok(isTenantOf(`${host}/${authority}/v2.0`, `${host}/${tenant}/v2.0`))
    for (const issuer of ['{tenantid}', 'fabrikam.com', `${tenant}/x`, ''])
      t.notOk(isTenantOf(`${host}/${authority}/v2.0`, `${host}/${issuer}/v2.0`), issuer)
    t.notOk(isTenantOf(`${host}/${authority}/v2.0`, `https://evil.example/${tenant}/v2.0`))
  }
  t.notOk(isTenantOf(`${host}/${other}/v2.0`, `${host}/${tenant}/v2.0`))
})

test('a tenant takes every place that a template has for it', async t => {
  t.equal(
    issuerOfTenant('https://{tenantid}.example/{tenantid}/v2.0', tenant),
    `https://${tenant}.example/${tenant}/v2.0`,
  )
})

test('what one tenant says of the client is not said by all', async t => {
  const several = `${host}/organizations/v2.0`
  t.equal(isShared(`${host}/organizations/oauth2/v2.0/token`, several), true)
  t.equal(isShared(`${host}/${tenant}/oauth2/v2.0/token`, several), false)
  t.equal(isShared(`${host}/${tenant}/oauth2/v2.0/token`, `${host}/${tenant}/v2.0`), true)
  t.equal(isShared('https://idp.example/token', 'https://idp.example'), true)
})
