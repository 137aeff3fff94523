import { presetNames } from '../core/presets.ts'
import * as type from './types.ts'

/** One environment variable: everything else about it (parsing, types, fault texts, README) follows from this. */
export interface Setting<T> {
  type: type.SettingType<T>
  /** For the README; Markdown. */
  doc: string
  /** A value that would be accepted, for fault texts. */
  example: string
  /** As it would be written in the environment. */
  default?: string
  required?: true
  /** May also be given as `X_FILE`; its value is never printed. */
  secret?: true
  /** The file may change while the process runs: the value is where it is, and whoever uses it reads it. */
  reread?: true
}

type Given = { default: string } | { required: true }

/** Keeps each setting's own value type: always there with a default or when required, otherwise maybe `undefined`. */
function setting<T>(declared: Setting<T> & Given): Setting<T>
function setting<T>(declared: Setting<T>): Setting<T | undefined>
function setting<T>(declared: Setting<T>): Setting<T> {
  return declared
}

export const settings = {
  PUBLIC_URL: setting({
    type: type.origin,
    doc: 'external origin of the SPA and the gateway; the redirect URI is `PUBLIC_URL` + `BFF_PATH` + `/callback`',
    example: 'https://app.example.com',
    default: 'http://localhost:8080',
  }),
  HOST: setting({
    type: type.text,
    doc: 'address of the public listener (plain HTTP: TLS ends in front of it)',
    example: '0.0.0.0',
    default: '0.0.0.0',
  }),
  PORT: setting({ type: type.port, doc: 'port of the public listener', example: '8080', default: '8080' }),
  ADMIN_HOST: setting({
    type: type.text,
    doc: 'address of the internal listener; the container image sets `0.0.0.0`, for probes',
    example: '127.0.0.1',
    default: '127.0.0.1',
  }),
  ADMIN_PORT: setting({ type: type.port, doc: 'port of the internal listener', example: '9090', default: '9090' }),
  ADMIN_TOKEN: setting({
    type: type.bearerSecret,
    doc: 'bearer secret of the admin API on the internal listener (absent: off)',
    example: '<output of: openssl rand -hex 32>',
    secret: true,
  }),
  FORWARD_AUTH_TOKEN: setting({
    type: type.bearerSecret,
    doc: 'bearer secret of forward-auth on the internal listener (absent: off)',
    example: '<output of: openssl rand -hex 32>',
    secret: true,
  }),
  TRUSTED_PROXIES: setting({
    type: type.networks,
    doc: 'addresses or CIDRs of the proxies in front, whose `X-Forwarded-*` headers are believed; others are warned of',
    example: '10.0.0.0/8,fd00::/8',
    default: '',
  }),
  BFF_PATH: setting({
    type: type.path,
    doc: "prefix of the gateway's own endpoints",
    example: '/bff',
    default: '/bff',
  }),
  OIDC_ISSUER: setting({
    type: type.issuer,
    doc: 'issuer identifier of the provider, exactly as its metadata states it, or an Entra ID authority (`https://login.microsoftonline.com/<tenant>/v2.0`)',
    example: 'https://login.example.com',
    required: true,
  }),
  OIDC_DISCOVERY_URL: setting({
    type: type.httpAddress,
    doc: 'the metadata document, when it lives elsewhere than under the issuer',
    example: 'https://login.example.com/.well-known/openid-configuration',
  }),
  OIDC_CLIENT_ID: setting({
    type: type.text,
    doc: 'client identifier at the provider',
    example: 'my-spa-gateway',
    required: true,
  }),
  OIDC_CLIENT_SECRET: setting({
    type: type.secretSource,
    doc: 'client secret at the provider; this, a key or an assertion is required',
    example: 'the value shown once when the client was registered',
    secret: true,
    reread: true,
  }),
  OIDC_CLIENT_SECRET_2: setting({
    type: type.secretSource,
    doc: 'a second client secret, tried when the first is refused; the one that worked last goes first',
    example: 'the next secret, before the present one ends',
    secret: true,
    reread: true,
  }),
  OIDC_CLIENT_AUTH: setting({
    type: type.choice('client_secret_post', 'client_secret_basic'),
    doc: 'how the client secret is sent: `client_secret_post` or `client_secret_basic`',
    example: 'client_secret_basic',
    default: 'client_secret_post',
  }),
  OIDC_CLIENT_KEY_FILE: setting({
    type: type.credentialFile,
    doc: 'private key for `private_key_jwt`, PEM without passphrase: RSA from 2048 bits, EC or Ed25519',
    example: '/run/secrets/client-key.pem',
  }),
  OIDC_CLIENT_KEY_ID: setting({
    type: type.text,
    doc: 'the `kid` under which the provider knows the key',
    example: '2026-01',
  }),
  OIDC_CLIENT_CERT_FILE: setting({
    type: type.credentialFile,
    doc: "the key's certificate, PEM, where the provider knows it by that (`x5t#S256`)",
    example: '/run/secrets/client-cert.pem',
  }),
  OIDC_CLIENT_ASSERTION_FILE: setting({
    type: type.credentialFile,
    doc: 'workload identity federation: a JWT that authenticates the client, renewed in this file by somebody else',
    example: '/var/run/secrets/tokens/identity',
  }),
  AZURE_FEDERATED_TOKEN_FILE: setting({
    type: type.text,
    doc: 'set by Azure in its pods; taken as `OIDC_CLIENT_ASSERTION_FILE` when no other way to authenticate is set',
    example: '/var/run/secrets/azure/tokens/azure-identity-token',
  }),
  OIDC_PROVIDER: setting({
    type: type.choice('auto', ...presetNames),
    doc: 'what is particular about the provider: `generic`, `entra`, `keycloak`, `auth0`, `okta`, `google`, `cognito`; `auto` goes by the issuer',
    example: 'keycloak',
    default: 'auto',
  }),
  OIDC_ALLOWED_TENANTS: setting({
    type: type.tenants,
    doc: 'Entra ID: tenants whose users may sign in, by GUID, or `*` for all; required where the issuer serves several',
    example: '8d0f3f4e-1111-2222-3333-444455556666',
  }),
  OIDC_SCOPE: setting({
    type: type.scope,
    doc: 'scope of the login; by default that of the provider, mostly `openid profile email offline_access`; the authorization request asks for it and all upstream scopes together',
    example: 'openid profile email offline_access',
  }),
  OIDC_AUTHORIZE_PARAMS: setting({
    type: type.parameters,
    doc: 'fixed extra parameters of the authorization request, e.g. `audience=https://api, domain_hint=example.com`',
    example: 'audience=https://api.example.com',
    default: '',
  }),
  OIDC_ID_TOKEN_ALGS: setting({
    type: type.choices('RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA'),
    doc: 'accepted signature algorithms of ID tokens, whatever the metadata says',
    example: 'RS256,ES256',
    default: 'RS256,PS256,ES256,EdDSA',
  }),
  OIDC_USERINFO: setting({
    type: type.choice('auto', 'always', 'never'),
    doc: "UserInfo: `auto` asks when the ID token lacks a claim of `USER_CLAIMS` or of an upstream's policy; `always`, `never`; its `sub` must match",
    example: 'never',
    default: 'auto',
  }),
  OIDC_RESPONSE_MODE: setting({
    type: type.choice('query', 'form_post'),
    doc: 'how the provider answers a login: `query`, or `form_post`, with `POST /callback` and login cookies that are `SameSite=None`',
    example: 'form_post',
    default: 'query',
  }),
  OIDC_PAR: setting({
    type: type.choice('auto', 'always', 'never'),
    doc: 'pushed authorization requests (RFC 9126): `auto` when the metadata requires them; `always`, `never`',
    example: 'always',
    default: 'auto',
  }),
  OIDC_DPOP: setting({
    type: type.flag,
    doc: 'tokens are bound to a key of the session (DPoP, RFC 9449); every upstream then needs `UPSTREAM_<NAME>_DPOP=true`',
    example: 'true',
    default: 'false',
  }),
  REDIS_URL: setting({
    type: type.redisUrl,
    doc: '`redis://` or `rediss://` with user, password, db; without it sessions live in memory (not in production)',
    example: 'rediss://user:password@redis.example.com:6380/0',
    secret: true,
  }),
  REDIS_CLUSTER: setting({
    type: type.endpoints,
    doc: 'Redis Cluster: some of its nodes, `host:port`, comma-separated; `REDIS_URL` then gives scheme and credentials, its host is not used',
    example: 'redis-1:6379, redis-2:6379, redis-3:6379',
  }),
  REDIS_SENTINELS: setting({
    type: type.endpoints,
    doc: 'Redis Sentinel: the sentinels, `host:port`, comma-separated; `REDIS_URL` then gives scheme, credentials and db, its host is not used',
    example: 'sentinel-1:26379, sentinel-2:26379, sentinel-3:26379',
  }),
  REDIS_SENTINEL_MASTER: setting({
    type: type.text,
    doc: 'the name under which the sentinels know the master',
    example: 'mymaster',
  }),
  REDIS_SENTINEL_PASSWORD: setting({
    type: type.text,
    doc: 'of the sentinels themselves, where they ask for one',
    example: '<the requirepass of the sentinels>',
    secret: true,
  }),
  REDIS_CA_FILE: setting({
    type: type.authorities,
    doc: 'certificate authority of the TLS certificates of Redis, and of its sentinels, PEM',
    example: '/etc/ssl/redis-ca.pem',
  }),
  REDIS_PREFIX: setting({
    type: type.text,
    doc: 'begins the name of every key and channel',
    example: 'coatcheck:',
    default: 'coatcheck:',
  }),
  SESSION_KEYS: setting({
    type: type.sealingKeys,
    doc: '32-byte base64 keys, comma-separated; the first encrypts, all decrypt; ephemeral without it (not in production)',
    example: '<output of: openssl rand -base64 32>',
    secret: true,
  }),
  SESSION_IDLE_TIMEOUT: setting({
    type: type.duration,
    doc: 'end a session after this long without user activity; at most `SESSION_ABSOLUTE_TIMEOUT`',
    example: '30m',
    default: '30m',
  }),
  SESSION_ABSOLUTE_TIMEOUT: setting({
    type: type.duration,
    doc: 'end a session this long after login, whatever its activity',
    example: '12h',
    default: '12h',
  }),
  SESSION_COOKIE_NAME: setting({
    type: type.cookieName,
    doc: 'a session cookie (no Max-Age); Chromium and Firefox accept it on plain-http localhost',
    example: '__Host-coatcheck',
    default: '__Host-coatcheck',
  }),
  SESSION_COOKIE_SAMESITE: setting({
    type: type.choice('strict', 'lax'),
    doc: '`strict` or `lax`',
    example: 'strict',
    default: 'strict',
  }),
  SESSION_REAUTH: setting({
    type: type.choice('sso', 'select_account', 'login'),
    doc: 'what the login after an expiry asks of the provider: `sso` (nothing: whoever is still signed in there gets in without a question), `select_account`, or `login` (credentials)',
    example: 'login',
    default: 'sso',
  }),
  SESSION_MAX_PER_USER: setting({
    type: type.count,
    doc: 'sessions a user may have; with one more the oldest is ended',
    example: '25',
    default: '25',
  }),
  POST_LOGOUT_PATH: setting({
    type: type.localPath,
    doc: 'where the provider returns to after logout (`PUBLIC_URL` + this is to be registered there)',
    example: '/goodbye',
    default: '/',
  }),
  SPA_DIR: setting({
    type: type.spaDirectory,
    doc: 'folder of the SPA, with an `index.html`, which is also the fallback of navigations',
    example: './dist',
  }),
  SPA_URL: setting({
    type: type.upstreamUrl,
    doc: 'where the SPA is served, in the place of `SPA_DIR`: a dev server, its websocket included; it gets no cookie and no token',
    example: 'http://localhost:5173',
  }),
  SPA_CSP: setting({
    type: type.headerValue,
    doc: 'content security policy of the SPA; unset, with `SPA_DIR` the one under [Serving the SPA](#serving-the-spa), with `SPA_URL` none',
    example: "default-src 'self'; img-src 'self' https://images.example.com",
  }),
  CORS_ORIGINS: setting({
    type: type.origins,
    doc: 'further origins of the SPA, on the same site: may call with credentials and be returned to; `loginUrl` and `logoutUrl` are then absolute',
    example: 'https://spa.example.com',
    default: '',
  }),
  USER_CLAIMS: setting({
    type: type.list,
    doc: 'what `/bff/user` may show; from the verified ID token and UserInfo, never from an access token',
    example: 'sub,name,email',
    default: 'sub,name,preferred_username,email,roles',
  }),
  WORKERS: setting({
    type: type.processes,
    doc: 'processes that share the port, at most 64, or `auto`: one a core; more than one needs Redis; see [Many cores](#many-cores)',
    example: '4',
    default: '1',
  }),
  RATE_LIMIT_LOGIN: setting({
    type: type.rate,
    doc: 'per client address: logins, callbacks and logouts; more are 429',
    example: '300/m',
    default: '300/m',
  }),
  RATE_LIMIT_INVALID: setting({
    type: type.rate,
    doc: 'per client address: cookies that name no session, logout tokens that are refused, and front-channel logouts; more are 429',
    example: '300/m',
    default: '300/m',
  }),
  LOG_LEVEL: setting({
    type: type.choice('fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'),
    doc: 'JSON logs on stdout from this level',
    example: 'warn',
    default: 'info',
  }),
  ACCESS_LOG: setting({
    type: type.flag,
    doc: 'a line per request (it costs throughput)',
    example: 'true',
    default: 'false',
  }),
} satisfies Record<string, Setting<unknown>>

/** Settings that exist once per upstream, as `UPSTREAM_<NAME>_<SETTING>`. */
export const upstreamSettings = {
  PATH: setting({
    type: type.path,
    doc: 'requests under this path go to the upstream; the longest path wins',
    example: '/api',
    required: true,
  }),
  URL: setting({
    type: type.upstreamUrl,
    doc: "where they go; PATH is replaced by the URL's own path (`/api` → `http://api:3000/v1`: `/api/items` → `/v1/items`)",
    example: 'http://api:3000',
    required: true,
  }),
  SCOPE: setting({
    type: type.scopes,
    doc: "this upstream gets an access token of its own, obtained with the session's refresh token for this scope; without it, the login's",
    example: 'api://orders/read',
  }),
  RESOURCE: setting({
    type: type.text,
    doc: 'RFC 8707 resource indicator of that token, for providers that use it',
    example: 'https://orders.example.com',
  }),
  AUTH: setting({
    type: type.choice('required', 'optional', 'none'),
    doc: '`required`: 401 without a session; `optional`: goes on without one and without a token; `none`: never a token, and no CSRF rule',
    example: 'optional',
    default: 'required',
  }),
  ACTIVITY: setting({
    type: type.choice('active', 'passive'),
    doc: '`passive`: its requests never count as user activity',
    example: 'passive',
    default: 'active',
  }),
  CSRF: setting({
    type: type.choice('header', 'fetch-metadata', 'none'),
    doc: '`header`: needs `X-CSRF: 1`; `fetch-metadata`: for downloads and images, which cannot send one; `none`',
    example: 'fetch-metadata',
    default: 'header',
  }),
  REQUIRE: setting({
    type: type.claimRules,
    doc: 'claims that a session must have, else 403: `;` is and, `,` is or, dots go into objects, double quotes hold what contains these',
    example: 'roles=admin,editor; acr=urn:mfa; realm_access.roles=ops',
    default: '',
  }),
  CLAIMS_HEADERS: setting({
    type: type.claimHeaders,
    doc: 'claims that the upstream is told in headers; those that a browser sends under these names never arrive',
    example: 'X-User=sub, X-Roles=realm_access.roles',
    default: '',
  }),
  DPOP: setting({
    type: type.flag,
    doc: 'the upstream takes bound tokens, with a proof for each request (RFC 9449); with `OIDC_DPOP=true`',
    example: 'true',
    default: 'false',
  }),
  TIMEOUT: setting({
    type: type.duration,
    doc: 'until response headers, and while a response that is no event stream makes no progress; more is 504',
    example: '30s',
    default: '30s',
  }),
  MAX_BODY: setting({
    type: type.size,
    doc: 'of a request, and of a websocket message; more is 413, or close code 1009',
    example: '50mb',
    default: '10mb',
  }),
  WEBSOCKET: setting({
    type: type.flag,
    doc: 'passes websockets on; they need an exact `Origin`, always, and are closed with 4401 when the session ends',
    example: 'true',
    default: 'false',
  }),
  REDIRECTS: setting({
    type: type.origins,
    doc: 'origins beside its own and the public one that its redirects may lead to; others are 502',
    example: 'https://downloads.example.com',
    default: '',
  }),
  CA_FILE: setting({
    type: type.authorities,
    doc: "certificate authority of the upstream's TLS certificate, PEM",
    example: '/etc/ssl/internal-ca.pem',
  }),
} satisfies Record<string, Setting<unknown>>
