import * as client from 'openid-client'
import { isTemplate } from '../core/authority.ts'
import type { Challenge } from '../core/challenge.ts'
import type { DpopKey } from '../core/dpop.ts'
import { LoginRejected } from '../core/errors.ts'
import type { Claims, Identity } from '../core/session.ts'
import type { TokenResponse } from '../core/token-set.ts'
import { loginFault } from './faults.ts'
import type { ProviderFetch } from './fetch.ts'
import { type IdTokenClaims, verifyIdToken } from './id-token.ts'
import type { TokenRules } from './jwt.ts'
import { loginClaims } from './kept-claims.ts'
import type { Metadata } from './metadata.ts'
import { issuerFor } from './tenants.ts'
import { type Taken, takeAnswer } from './token-request.ts'
import { readTokenResponse } from './token-response.ts'

/** What a successful login brings. */
export interface Login {
  identity: Identity
  tokens: TokenResponse
  /** How strongly the user was authenticated (OpenID Connect Core §2), when the provider says. */
  acr: string | undefined
}

/** What the exchange needs beside the callback. */
export interface CodeExchangeContext {
  server: Metadata
  /** Makes a client that sends its requests through this. */
  configure: (fetch: ProviderFetch) => client.Configuration
  fetch: ProviderFetch
  rules: TokenRules
  /** The issuer as it is configured. */
  authority: string
  redirectUri: string
  /** Sent along with the code. */
  parameters: Readonly<Record<string, string>>
  userInfo: 'auto' | 'always' | 'never'
  /** Names of the claims that a session keeps. */
  keptClaims: readonly string[]
  keepIdToken: boolean
}

/** What the transaction knows of the login. */
export interface ExpectedLogin {
  state: string
  nonce: string
  codeVerifier: string
  /** What the login is to satisfy. */
  challenge?: Challenge | undefined
  /** To which code and tokens are bound. */
  dpopKey: DpopKey | undefined
}

/**
 * Redeems the code of a callback (OpenID Connect Core §3.1.3) and verifies everything that comes with it. `onRedeemed` is
 * told the token to revoke should anything fail afterwards, here or at the caller.
 *
 * @throws {LoginRejected} when the response, a token or UserInfo breaks a rule
 * @throws {ProviderUnavailable} when the provider gives no definite answer
 */
export async function exchangeCode(
  context: CodeExchangeContext,
  callback: URLSearchParams,
  expected: ExpectedLogin,
  onRedeemed: (token: string) => void,
): Promise<Login> {
  const { server, rules, keptClaims } = context
  try {
    const taken = takeAnswer(context.fetch, server.token_endpoint)
    const configuration = context.configure(taken.fetch)
    const wire = await client
      .authorizationCodeGrant(
        configuration,
        callbackUrl(context, callback),
        { expectedState: expected.state, pkceCodeVerifier: expected.codeVerifier },
        { ...context.parameters },
      )
      .catch(error => {
        throw lacksAccessToken(taken) ?? error
      })
      .finally(() => {
        const token = taken.text('refresh_token') ?? taken.text('access_token')
        if (token !== undefined) onRedeemed(token)
      })
    const read = readTokenResponse(wire, { bound: expected.dpopKey !== undefined })
    if ('fault' in read) throw new LoginRejected('invalid_response', { detail: read.fault })
    const idToken = taken.text('id_token') ?? ''
    const issuer = issuerFor(idToken, server.issuer, rules.tenants?.allowed)
    const { accessToken } = read.tokens
    const verified = await verifyIdToken(idToken, { ...rules, issuer }, { nonce: expected.nonce, accessToken })
    // RFC 9207 §2.4; where the metadata names the one issuer, openid-client has compared it.
    if (isTemplate(server.issuer) && callback.has('iss') && callback.get('iss') !== issuer)
      throw new LoginRejected('invalid_response', { detail: 'the callback comes from another issuer' })
    const userInfo = await userInfoClaims(context, configuration, verified, accessToken)
    const { tooDeep, ...kept } = loginClaims(verified, userInfo, keptClaims)
    if (tooDeep.length > 0)
      throw new LoginRejected('invalid_response', { detail: `the claim ${tooDeep[0]} nests too deep` })
    return {
      identity: identityOf(verified, kept, context),
      acr: typeof verified.acr === 'string' ? verified.acr : undefined,
      tokens: { ...read.tokens, ...(context.keepIdToken && { idToken }) },
    }
  } catch (error) {
    throw loginFault(error)
  }
}

/** Some providers give an access token only to those who name an API (Azure AD B2C), which openid-client does not tell. */
function lacksAccessToken(taken: Taken): LoginRejected | undefined {
  const answer = taken.answer()
  if (answer?.status !== 200 || answer.body === null || taken.text('access_token') !== undefined) return undefined
  return new LoginRejected('invalid_response', {
    detail: 'the token endpoint gave no access token; OIDC_SCOPE may have to name an API',
  })
}

function callbackUrl({ redirectUri, server }: CodeExchangeContext, callback: URLSearchParams): URL {
  const url = new URL(`${redirectUri}?${callback}`)
  // It would be compared with the template itself.
  if (isTemplate(server.issuer)) url.searchParams.delete('iss')
  return url
}

async function userInfoClaims(
  { userInfo, keptClaims, server }: CodeExchangeContext,
  configuration: client.Configuration,
  idToken: IdTokenClaims,
  accessToken: string,
): Promise<Claims> {
  const lacking = keptClaims.some(name => !Object.hasOwn(idToken, name))
  const offered = server.userinfo_endpoint !== undefined
  const asked = userInfo === 'always' || (userInfo === 'auto' && lacking && offered)
  return asked ? await client.fetchUserInfo(configuration, accessToken, idToken.sub) : {}
}

const longestHint = 1024

function identityOf(
  idToken: IdTokenClaims,
  kept: Pick<Identity, 'claims' | 'fromUserInfo'>,
  { rules, authority }: CodeExchangeContext,
): Identity {
  const { iss, sub, sid, tid, oid, auth_time: authTime, login_hint: loginHint } = idToken
  return {
    issuer: String(iss),
    subject: sub,
    providerSessionId: typeof sid === 'string' ? sid : undefined,
    ...kept,
    nonce: String(idToken.nonce),
    authTime: typeof authTime === 'number' ? authTime : undefined,
    ...(authority !== iss && { authority }),
    ...(rules.tenants !== undefined &&
      typeof oid === 'string' && { directory: { tenantId: String(tid), objectId: oid } }),
    ...(typeof loginHint === 'string' && loginHint.length <= longestHint && { loginHint }),
  }
}
