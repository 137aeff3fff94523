import { test } from 'tap'
import { requestHeaders, responseHeaders } from '../../src/http/upstream-headers.ts'

const forwarded = {
  accessToken: 'token',
  clientAddress: '192.0.2.7',
  publicOrigin: new URL('https://app.example:8443'),
}

test('an upstream learns the token, and from the gateway alone who asked and how', async t => {
  t.same(requestHeaders({ accept: '*/*', 'content-type': 'a/b' }, forwarded), {
    accept: '*/*',
    'content-type': 'a/b',
    authorization: 'Bearer token',
    'x-forwarded-for': '192.0.2.7',
    'x-forwarded-host': 'app.example:8443',
    'x-forwarded-proto': 'https',
  })
})

// A client names itself: as another user, behind another address, or for another path.
test('no header that claims an identity, an address or another request gets through, in any spelling', async t => {
  const names = [
    'cookie authorization proxy-authorization x-authorization dpop x-access-token x-id-token x-refresh-token',
    'forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-port x-forwarded-prefix x-forwarded-uri',
    'x-forwarded-user x-forwarded-email x-forwarded-groups x-forwarded-access-token x-forwarded-client-cert via',
    'x-real-ip x-client-ip true-client-ip client-ip x-cluster-client-ip cf-connecting-ip fastly-client-ip',
    'x-original-url x-original-uri x-original-host x-rewrite-url x-host',
    'x-user x-user-id x-user-email x-username x-email x-groups x-roles x-role x-claims x-claims-sub x-tenant-id',
    'x-remote-user remote-user x-auth-user x-auth-request-email x-authenticated-user x-authenticated-userid',
    'x-consumer-id x-credential-identifier x-ms-client-principal x-ms-client-principal-id x-amzn-oidc-data',
    'x-amzn-oidc-identity x-goog-authenticated-user-email x-goog-iap-jwt-assertion x-jwt-payload x-envoy-original-path',
    'x-http-method-override x-method-override x-http-method x-csrf x-activity',
  ]
    .join(' ')
    .split(' ')
  const clean = requestHeaders({}, forwarded)
  for (const name of names) {
    for (const spelling of new Set([name, name.replaceAll('-', '_'), name.replace('-', '_')]))
      t.same(requestHeaders({ [spelling]: 'forged' }, forwarded), clean, spelling)
  }
})

test('what an application sends for itself gets through', async t => {
  const names =
    'accept accept-language content-type content-length if-match range user-agent referer origin traceparent ' +
    'x-requested-with x-request-id idempotency-key x-api-version sec-fetch-site x-usage'
  for (const name of names.split(' ')) t.equal(requestHeaders({ [name]: 'kept' }, forwarded)[name], 'kept', name)
})

test('headers of one connection stay on it', async t => {
  const clean = requestHeaders({}, forwarded)
  for (const name of ['connection', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade'])
    t.same(requestHeaders({ [name]: 'x' }, forwarded), clean, name)
})

test('an upstream sets no cookie on the origin of the gateway', async t => {
  t.same(responseHeaders({ 'set-cookie': ['__Host-coatcheck=evil'], etag: '"1"' }), { etag: '"1"' })
})
