import { test } from 'tap'
import { createRequestHeaders, responseHeaders } from '../../../src/http/upstream/headers.ts'

const requestHeaders = createRequestHeaders({
  host: 'api',
  publicOrigin: new URL('https://app.example:8443'),
  claimNames: ['x-staff-id'],
})
const forwarded = {
  authorization: 'Bearer token',
  addresses: ['192.0.2.7', '10.0.0.1'],
  claims: {},
}

test('an upstream learns the token, and from the gateway alone who asked and how', async t => {
  t.same(requestHeaders({ accept: '*/*', 'content-type': 'a/b' }, forwarded), {
    accept: '*/*',
    'content-type': 'a/b',
    host: 'api',
    authorization: 'Bearer token',
    'x-forwarded-for': '192.0.2.7, 10.0.0.1',
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
    'proxy client-cert client-cert-chain ssl-client-verify x-ssl-client-cert x-client-cert x-client-dn x-userinfo',
    'x-webauth-user x-scope-orgid oidc-claim-sub oidc-access-token cf-access-authenticated-user-email x-vouch-user',
    'x-pomerium-jwt-assertion x-ms-token-aad-id-token x-originating-ip wl-proxy-client-ip x-scheme front-end-https',
    'x-http-method-override x-method-override x-http-method x-csrf x-activity expect http2-settings x-staff-id',
  ]
    .join(' ')
    .split(' ')
  const clean = requestHeaders({}, forwarded)
  for (const name of names) {
    const spellings = [
      name,
      ...['_', '.', '!', '~'].flatMap(mark => [name.replaceAll('-', mark), name.replace('-', mark)]),
    ]
    for (const spelling of new Set(spellings))
      t.same(requestHeaders({ [spelling]: 'forged' }, forwarded), clean, spelling)
  }
})

test('what an application sends for itself gets through', async t => {
  const names =
    'accept accept-language content-type content-length if-match range user-agent referer origin traceparent ' +
    'x-requested-with x-request-id x-correlation-id x-client-version idempotency-key x-api-version sec-fetch-site x-usage'
  for (const name of names.split(' ')) t.equal(requestHeaders({ [name]: 'kept' }, forwarded)[name], 'kept', name)
})

test('headers of one connection stay on it, in both directions', async t => {
  const clean = requestHeaders({}, forwarded)
  const nominated = { connection: 'close, X-Hop,host,  authorization', 'x-hop': '1' }
  for (const name of [
    'connection',
    'keep-alive',
    'proxy-connection',
    'te',
    'trailer',
    'transfer-encoding',
    'upgrade',
  ]) {
    t.same(requestHeaders({ [name]: 'x' }, forwarded), clean, name)
    t.same(responseHeaders({ [name]: 'x' }), {}, name)
  }
  t.same(requestHeaders(nominated, forwarded), clean)
  t.same(responseHeaders({ ...nominated, etag: '1' }), { etag: '1' })
})

test('what the gateway says of the user is said by nobody else', async t => {
  const told = { ...forwarded, claims: { 'x-staff-id': '7' } }
  for (const spelling of ['x-staff-id', 'x_staff_id', 'x-staff_id', 'X.Staff.Id', 'x|staff|id'])
    t.same(requestHeaders({ [spelling]: 'admin' }, told), { ...requestHeaders({}, forwarded), 'x-staff-id': '7' })
  t.equal(requestHeaders({}, { ...forwarded, authorization: undefined }).authorization, undefined)
})

// The answer of an API is an answer of the gateway's origin: what it says of that holds for the whole application.
test('an upstream says nothing on behalf of the origin, nor of the machines behind it', async t => {
  const withheld =
    'set-cookie access-control-allow-origin access-control-allow-credentials access-control-expose-headers ' +
    'clear-site-data service-worker-allowed strict-transport-security alt-svc refresh server x-powered-by ' +
    'x-aspnet-version via nel report-to x-accel-redirect x-sendfile x-reproxy-url'
  for (const name of withheld.split(' ')) t.same(responseHeaders({ [name]: 'x', etag: '"1"' }), { etag: '"1"' }, name)
  const passed =
    'etag content-type content-encoding vary last-modified accept-ranges content-disposition x-total link x-accel-buffering'
  for (const name of passed.split(' ')) t.same(responseHeaders({ [name]: 'x' }), { [name]: 'x' }, name)
})

// A browser that is asked for a password shows its own dialogue, on the gateway's origin, and sends it there.
test('of the schemes that an upstream asks for, only those of tokens are told', async t => {
  const challenge = (value: string | string[]) => responseHeaders({ 'www-authenticate': value as string })
  for (const kept of ['Bearer', 'bearer realm="x", error="invalid_token"', 'DPoP algs="ES256"'])
    t.same(challenge(kept), { 'www-authenticate': [kept] })
  for (const dropped of [
    'Basic realm="x"',
    'Negotiate',
    'NTLM',
    'Digest nonce="1"',
    'Bearer realm="x", Basic realm="y"',
    'Bearer error="insufficient_user_authentication", acr_values="mfa"',
    'Bearer realm="',
  ])
    t.same(challenge(dropped), {}, dropped)
  t.same(challenge(['Basic realm="x"', 'Bearer']), { 'www-authenticate': ['Bearer'] })
})
