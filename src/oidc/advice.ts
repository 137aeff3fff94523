import type { Diagnosis } from '../core/advice.ts'

/** Where an error was told: at the callback, when the code was redeemed, or at a refresh. */
export type Place = 'authorization' | 'code' | 'refresh'

const scopes = 'check OIDC_SCOPE and UPSTREAM_<NAME>_SCOPE against what is registered at the provider'
const registration = 'check OIDC_CLIENT_ID and OIDC_ISSUER against the registration at the provider'
const secret =
  'make a new secret at the provider and set OIDC_CLIENT_SECRET or OIDC_CLIENT_SECRET_2 (a file is read again without a restart)'
const federation =
  'compare issuer, subject and audience of the federated credential at the provider with the token in OIDC_CLIENT_ASSERTION_FILE'
const clock = "check the clocks of this machine and of the provider's (NTP)"
const policy = "look up the user's sign-in in the provider's log, and the policy that it names"
const signInAgain = 'nothing to mend: the user signs in again'
const wait = "nothing to mend here if it passes; otherwise see the provider's status page"
const web =
  'register the redirect URI (PUBLIC_URL + BFF_PATH + /callback) under the platform Web, and remove it from the other'
const consent = 'have the user consent at a login, or an administrator for everybody'
const noResource =
  'remove UPSTREAM_<NAME>_RESOURCE and `resource` in OIDC_AUTHORIZE_PARAMS; name the API in UPSTREAM_<NAME>_SCOPE'

/** An entry of a table. */
const say = (cause: string, mend: string): Diagnosis => ({ cause, mend })

const passing = say('the provider is overloaded, or has a fault of its own', wait)
const refusedScope = say(
  'the provider does not know a scope that was asked for, or does not allow it to this client',
  scopes,
)
const interaction = say('the user has to do something at the provider, which it could not ask for', signInAgain)

/** What a text of the provider cannot tell, but the place can. */
const byPlace: Record<Place, Readonly<Record<string, Diagnosis>>> = {
  authorization: {
    access_denied: say(
      'the user cancelled, or may not use this application',
      "check the user's assignment to the application",
    ),
    invalid_request: say(
      'the authorization request is not what the provider expects',
      'check OIDC_AUTHORIZE_PARAMS, and the redirect URI at the provider',
    ),
  },
  code: {
    invalid_grant: say(
      'the code is too old or was used already, or the redirect URI is not the one that it was issued for',
      'if it happens at each login, check the clocks and PUBLIC_URL, and that nothing in front of the gateway calls the callback twice',
    ),
  },
  refresh: {
    invalid_grant: say(
      'the refresh token was revoked, has expired or was replaced: by an administrator, a change of password, a lifetime at the provider',
      'nothing to mend for one session; for many, compare the lifetime of refresh tokens at the provider with SESSION_ABSOLUTE_TIMEOUT',
    ),
    invalid_scope: say('the scope was not granted at the login, or exists no more', scopes),
  },
}

/** RFC 6749 §4.1.2.1 and §5.2, OpenID Connect Core §3.1.2.6, RFC 8707 §2, RFC 9126 §2.3, RFC 9101 §7. */
const standard: Readonly<Record<string, Diagnosis>> = {
  invalid_request: say(
    'the provider finds a parameter missing, unknown or repeated',
    'check OIDC_AUTHORIZE_PARAMS and UPSTREAM_<NAME>_RESOURCE',
  ),
  invalid_client: say('the provider does not accept how the client authenticates', registration),
  unauthorized_client: say(
    'the client is not allowed to use this grant, or is not the one that was meant',
    registration,
  ),
  invalid_grant: say('the code or refresh token is not valid any more', signInAgain),
  unsupported_grant_type: say(
    'the client may not use the code flow or refresh tokens',
    'allow the grants authorization_code and refresh_token at the registration',
  ),
  unsupported_response_type: say(
    'the client may not use the code flow',
    'allow the response type `code` at the registration',
  ),
  invalid_scope: refusedScope,
  invalid_resource: say('the provider does not know the API that the scope names', scopes),
  access_denied: say('the provider refuses the user or the client', policy),
  server_error: passing,
  temporarily_unavailable: passing,
  interaction_required: interaction,
  login_required: say('the user is not signed in at the provider any more', signInAgain),
  account_selection_required: say(
    'the user is signed in at the provider more than once and has to choose',
    signInAgain,
  ),
  consent_required: say('the user has not consented to what is asked for', consent),
  invalid_target: say(
    'the provider does not know the resource that was named, or wants none named',
    'check UPSTREAM_<NAME>_RESOURCE; at Entra ID leave it out and name the API in UPSTREAM_<NAME>_SCOPE',
  ),
  invalid_request_uri: say('the provider has lost or refuses a pushed authorization request', signInAgain),
  invalid_request_object: say(
    'the provider expects signed requests, which the gateway does not send',
    'turn them off at the registration',
  ),
  request_not_supported: say(
    'the provider does not take request objects',
    'take `request` out of OIDC_AUTHORIZE_PARAMS',
  ),
  request_uri_not_supported: say(
    'the provider does not take request objects',
    'take `request_uri` out of OIDC_AUTHORIZE_PARAMS',
  ),
  registration_not_supported: say(
    'the provider does not register clients by request',
    'take `registration` out of OIDC_AUTHORIZE_PARAMS',
  ),
}

const mfa = say('the provider asks for another factor', 'nothing to mend: the user signs in again and is asked for it')
const blocked = say('a policy (Conditional Access) blocks the user, the device or the place', policy)
const spaToken = say(
  'refresh tokens last 24 hours, because the redirect URI is registered as a single-page application',
  web,
)
const severalApis = say(
  'scopes of more than one API were asked for at once',
  'name one API in OIDC_SCOPE, and give each upstream its own UPSTREAM_<NAME>_SCOPE',
)
const resourceParameter = say('the parameter `resource` was sent, which this version of Entra ID refuses', noResource)
const adminConsent = say(
  'an administrator has to consent first',
  'have an administrator grant consent to the app registration',
)
const noTenant = say('there is no such tenant', 'check the tenant in OIDC_ISSUER')
const noRedirectUri = say(
  'the redirect URI is not registered',
  'register PUBLIC_URL + BFF_PATH + /callback, to the letter, under the platform Web',
)
const notMatched = (what: string) =>
  say(`the federated credential names another ${what} than the assertion`, federation)

/** Microsoft Entra ID's numbers. They may change, and decide nothing. */
const entra: ReadonlyMap<number, Diagnosis> = new Map([
  // The redirect URI and the kind of client.
  [50011, noRedirectUri],
  [500113, noRedirectUri],
  [900971, noRedirectUri],
  [9002325, say('the redirect URI is registered as a single-page application, which has no secret', web)],
  [
    9002326,
    say(
      'an Origin header reached the token endpoint, as if a browser had sent the request',
      'check what stands between the gateway and the provider (HTTPS_PROXY)',
    ),
  ],
  [9002327, say('the redirect URI is registered as a single-page application; register it as Web', web)],
  [
    700025,
    say(
      'the app is registered as a public client, which has no secret',
      'register the redirect URI under the platform Web, and turn "allow public client flows" off',
    ),
  ],
  // The client and its credential.
  [700016, say('the client does not exist in this tenant', registration)],
  [7000112, say('the application is disabled in this tenant', 'enable it under Enterprise applications')],
  [
    50194,
    say(
      'the app is registered for one tenant and is asked for through `common` or `organizations`',
      "set OIDC_ISSUER to the tenant's own authority",
    ),
  ],
  [90002, noTenant],
  [900023, noTenant],
  [7000215, say('the secret is wrong; often the ID of the secret was copied in the place of its value', secret)],
  [
    7000218,
    say(
      'no secret or assertion arrived, and the client needs one',
      'set OIDC_CLIENT_SECRET, OIDC_CLIENT_KEY_FILE or OIDC_CLIENT_ASSERTION_FILE',
    ),
  ],
  [7000222, say('the secret has expired', secret)],
  [
    700027,
    say(
      'the certificate of the key is not registered',
      'upload the certificate to the app registration, and set OIDC_CLIENT_CERT_FILE',
    ),
  ],
  [
    50027,
    say(
      "the client's assertion is malformed",
      'check OIDC_CLIENT_ASSERTION_FILE, or OIDC_CLIENT_KEY_FILE and OIDC_CLIENT_CERT_FILE',
    ),
  ],
  [
    700021,
    say(
      "the client's assertion is addressed to somebody else",
      'check OIDC_ISSUER; a federated assertion needs the audience api://AzureADTokenExchange',
    ),
  ],
  [
    700024,
    say(
      "the client's assertion is not valid yet or any more",
      `${clock}; check that OIDC_CLIENT_ASSERTION_FILE is being renewed`,
    ),
  ],
  [70021, notMatched('issuer, subject or audience')],
  [700211, notMatched('issuer')],
  [700212, notMatched('audience')],
  [700213, notMatched('subject')],
  // Scopes and resources.
  [28000, severalApis],
  [700022, severalApis],
  [
    90009,
    say(
      'the app asks for a token for itself by a name, or without a scope',
      'give the upstream a scope by the application ID: UPSTREAM_<NAME>_SCOPE=<client id>/.default',
    ),
  ],
  [901002, resourceParameter],
  [9010010, resourceParameter],
  [70011, refusedScope],
  [
    650053,
    say(
      'a scope without the name of its API was looked for at Microsoft Graph, which has none of this name',
      'write the scope in full: api://<application id>/<scope>',
    ),
  ],
  [650057, say('the API is not among the permissions of the app registration', 'add it under API permissions')],
  [
    500011,
    say(
      'the API that the scope names is not known in this tenant',
      'check the application ID URI in UPSTREAM_<NAME>_SCOPE; the API may have to be consented to by an administrator of this tenant first',
    ),
  ],
  [65001, say('the user or an administrator has not consented to what is asked for', consent)],
  [
    65004,
    say('the user declined to consent, or cancelled', 'nothing to mend; an administrator can consent for everybody'),
  ],
  [
    90008,
    say(
      'the app lacks the permission to sign users in',
      'add the delegated permissions openid and profile, and consent to them',
    ),
  ],
  [90094, adminConsent],
  [90095, adminConsent],
  // The user.
  [
    50105,
    say(
      'the user is not assigned to the application',
      'assign the user or a group under Enterprise applications, or turn "assignment required" off',
    ),
  ],
  [
    50020,
    say(
      'the user belongs to another tenant and is no guest of this one',
      'invite the user, or check the tenant in OIDC_ISSUER',
    ),
  ],
  [50034, say('the user does not exist in this tenant', 'check the tenant in OIDC_ISSUER')],
  [50053, say('the account is locked', policy)],
  [50055, say("the user's password has expired", 'the user changes it at the provider')],
  [50057, say('the account is disabled', 'an administrator enables it, if it should be')],
  [50058, say('the user is not signed in at the provider, or in several accounts', signInAgain)],
  [16000, say('the user is signed in to several accounts and has to choose', signInAgain)],
  [50072, mfa],
  [50074, mfa],
  [50076, mfa],
  [50078, mfa],
  [50079, mfa],
  [53000, blocked],
  [53001, blocked],
  [53002, blocked],
  [53003, blocked],
  [530032, blocked],
  // Codes and refresh tokens.
  [
    54005,
    say(
      'the code was redeemed already',
      'see that nothing in front of the gateway repeats requests, and that its clients do not open callbacks twice',
    ),
  ],
  [
    700005,
    say(
      'the code was issued by another endpoint of the provider',
      'check OIDC_ISSUER and OIDC_DISCOVERY_URL: both endpoints must be of the same tenant',
    ),
  ],
  [
    501481,
    say(
      'the code was asked for by somebody else (PKCE)',
      'if it happens at each login, see that replicas share one Redis',
    ),
  ],
  [70000, say('the code or refresh token is not valid', signInAgain)],
  [70008, say('the code or refresh token has expired', signInAgain)],
  [50173, say("the user's sessions were revoked: by an administrator, or by a change of password", signInAgain)],
  [
    70043,
    say(
      'the sign-in frequency of a policy (Conditional Access) is over',
      `${signInAgain}; to be asked less often, set SESSION_ABSOLUTE_TIMEOUT and the policy to the same time`,
    ),
  ],
  [700082, say('the refresh token was not used for too long', signInAgain)],
  [700084, spaToken],
  [
    50146,
    say(
      'the app has claims of its own, for which a signing key of its own is wanted',
      'allow mapped claims in the manifest of the app registration',
    ),
  ],
  // The request, and passing faults.
  [90014, say('a parameter is missing', 'check OIDC_AUTHORIZE_PARAMS')],
  [900144, say('a parameter is missing', 'check OIDC_AUTHORIZE_PARAMS')],
  [90015, say('the query is too long', 'ask for fewer scopes, and shorten OIDC_AUTHORIZE_PARAMS')],
  [90023, say('a parameter is not valid', 'check OIDC_AUTHORIZE_PARAMS')],
  [50196, say('the same request came too often', 'see what makes a client sign in, or a session refresh, in a loop')],
  [
    90055,
    say(
      'the provider refuses requests because there were too many',
      'see what makes so many; otherwise nothing: the gateway waits as long as it is told',
    ),
  ],
  ...[90006, 90012, 90024, 90033, 90090, 50033, 50087].map((number): [number, Diagnosis] => [number, passing]),
])

/** The same of Azure AD B2C. */
const b2c: Readonly<Record<string, Diagnosis>> = {
  AADB2C90091: say('the user cancelled', 'nothing to mend'),
  AADB2C90118: say('the user has forgotten the password', 'use a user flow with password reset built in'),
}

/** What the fields of an ID token that is refused tell. */
const idToken: Readonly<Record<string, Diagnosis>> = {
  aud: say(
    'the ID token was issued to another client',
    'check OIDC_CLIENT_ID; a client of several audiences is not accepted',
  ),
  azp: say('the ID token was issued to another client', 'check OIDC_CLIENT_ID'),
  iss: say(
    'the ID token names another issuer than OIDC_ISSUER',
    "set OIDC_ISSUER to the provider's public address, as its metadata states it; behind a proxy, mend the provider's own idea of its address",
  ),
  nonce: say(
    'the ID token does not belong to this login',
    'if it happens at each login, see whether the provider sends the nonce back at all; otherwise nothing: it was refused rightly',
  ),
  iat: say('the ID token was issued too long ago, or in the future: the clocks differ', clock),
  exp: say('the ID token has expired on arrival: the clocks differ, or it lives for seconds', clock),
  nbf: say('the ID token is not valid yet: the clocks differ', clock),
  sub: say('the ID token or UserInfo names no user, or another one', 'check the mapping of `sub` at the provider'),
  at_hash: say(
    'the access token is not the one that belongs to the ID token, or the hash is of another kind',
    'have the provider sign ID tokens with RS256, or mend its at_hash',
  ),
  typ: say('the token is of another type than an ID token', 'check the token settings of the client at the provider'),
  signature: say(
    "the ID token's signature is not by a key of the provider's key set",
    'check that the issuer and its key set belong together; behind a proxy, that the key set is not cached for long',
  ),
}

/** By the codes of Node, OpenSSL and undici. */
const selfSigned = say(
  "the provider's certificate is not signed by an authority that Node knows",
  "set NODE_EXTRA_CA_CERTS to a file with the authority's certificate; if it is one that all know, have the provider send its whole chain",
)
const noName = say(
  'the host name is not found in DNS',
  'check OIDC_ISSUER and OIDC_DISCOVERY_URL for typing errors, and the DNS of this machine or container',
)
const noRoute = say(
  'the provider does not answer at this address',
  'check the network, firewall and HTTPS_PROXY between this machine and the provider',
)
const broken = say(
  'the connection broke',
  'see whether the port is the right one, and what stands between (HTTPS_PROXY, firewall)',
)
const notTls = say(
  'what answers at this port does not speak TLS',
  'check scheme and port in OIDC_ISSUER or OIDC_DISCOVERY_URL',
)
const network: Readonly<Record<string, Diagnosis>> = {
  ENOTFOUND: noName,
  EAI_AGAIN: say('DNS gives no answer', 'check the DNS of this machine or container'),
  ECONNREFUSED: say(
    'nothing listens at this address and port, or it is not reachable from here',
    'check host and port in OIDC_ISSUER or OIDC_DISCOVERY_URL (in a container, localhost is the container itself), and HTTPS_PROXY',
  ),
  EHOSTUNREACH: noRoute,
  ENETUNREACH: noRoute,
  ETIMEDOUT: noRoute,
  UND_ERR_CONNECT_TIMEOUT: noRoute,
  TimeoutError: say(
    'the provider did not answer in time',
    'check the network, firewall and HTTPS_PROXY; otherwise see whether the provider is overloaded',
  ),
  ECONNRESET: broken,
  EPIPE: broken,
  UND_ERR_SOCKET: broken,
  DEPTH_ZERO_SELF_SIGNED_CERT: selfSigned,
  SELF_SIGNED_CERT_IN_CHAIN: selfSigned,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: selfSigned,
  UNABLE_TO_GET_ISSUER_CERT: selfSigned,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: selfSigned,
  CERT_HAS_EXPIRED: say(
    "the provider's certificate has expired",
    'renew it at the provider, or check the clock of this machine',
  ),
  CERT_NOT_YET_VALID: say("the provider's certificate is not valid yet", clock),
  ERR_TLS_CERT_ALTNAME_INVALID: say(
    "the provider's certificate is for another host name",
    'use the host name of the certificate in OIDC_ISSUER or OIDC_DISCOVERY_URL',
  ),
  ERR_SSL_WRONG_VERSION_NUMBER: notTls,
  ERR_SSL_PACKET_LENGTH_TOO_LONG: notTls,
  EPROTO: notTls,
  HPE_INVALID_CONSTANT: say(
    'what answers at this port does not speak plain HTTP',
    'check scheme and port in OIDC_ISSUER or OIDC_DISCOVERY_URL',
  ),
}

/** By the status of an answer that was not read. */
const throttled = say(
  'the provider refuses requests because there were too many',
  'nothing to mend if it passes: the gateway waits as long as it is told',
)
const openNetwork = say('the provider has a fault, or a proxy in front of it', wait)

/** All advice there is; only for the log. */
export const advice = {
  /** Of a standard error code at a place. */
  standard: (error: string, place: Place): Diagnosis | undefined => own(byPlace[place], error) ?? own(standard, error),
  /** Of a name like `AADSTS65001`. */
  providerCode: (code: string): Diagnosis | undefined =>
    code.startsWith('AADSTS') ? entra.get(Number(code.slice('AADSTS'.length))) : own(b2c, code),
  /** Of what an ID token is refused for. */
  idToken: (what: string): Diagnosis | undefined => own(idToken, what),
  /** Of an algorithm that is not among those accepted. */
  algorithm: (name: string): Diagnosis =>
    say(
      `the provider signs ID tokens with ${name}, which is not in OIDC_ID_TOKEN_ALGS`,
      acceptable.test(name)
        ? `have it sign with RS256, or add ${name} to OIDC_ID_TOKEN_ALGS`
        : 'have it sign with RS256: this algorithm is never accepted',
    ),
  /** Of a failed connection, by the code of its error. */
  network: (code: string): Diagnosis | undefined => own(network, code),
  /** Of a status that is no definite answer. */
  status: (status: number): Diagnosis => (status === 429 ? throttled : openNetwork),
} as const

/** Those that the setting takes. */
const acceptable = /^((RS|PS|ES)(256|384|512)|EdDSA)$/

function own(table: Readonly<Record<string, Diagnosis>>, name: string): Diagnosis | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined
}
