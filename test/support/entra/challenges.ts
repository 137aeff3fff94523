import type { Json } from '../provider/tamper.ts'

/** What a resource may demand of the next token. */
export const demands = {
  /** A stronger login: an authentication context. */
  acrs: (value = 'c1'): Json => ({ access_token: { acrs: { essential: true, value } } }),
  /** A token newer than this, in epoch seconds: something happened to the user. */
  newerThan: (at: number): Json => ({ access_token: { nbf: { essential: true, value: String(at) } } }),
}

const encoded = (claims: Json, encoding: 'base64' | 'base64url' = 'base64') =>
  Buffer.from(JSON.stringify(claims)).toString(encoding)

const header = (claims: string) =>
  `Bearer realm="", authorization_uri="https://idp.test/common/oauth2/authorize", error="insufficient_claims", claims="${claims}"`

/** `WWW-Authenticate` values of claims challenges and of what looks like one; each is a list of headers. */
export const challenges = {
  plain: (claims: Json) => [header(encoded(claims))],
  base64url: (claims: Json) => [header(encoded(claims, 'base64url'))],
  /** Parameters in another order, with more of them, quoted commas and equals signs. */
  shuffled: (claims: Json) => [
    `Bearer claims="${encoded(claims)}", client_id="a,b=c", cc_type="authcontext", error="insufficient_claims", realm="x=\\"y\\", z"`,
  ],
  /** Beside challenges of other schemes, each in a header of its own. */
  amongOthers: (claims: Json) => ['Negotiate', header(encoded(claims)), 'Basic realm="api, really"'],
  /** As one header, which is the same (RFC 9110 §11.6.1). */
  joined: (claims: Json) => [`Negotiate, ${header(encoded(claims))}, Basic realm="api"`],
  otherError: (claims: Json) => [header(encoded(claims)).replace('insufficient_claims', 'invalid_token')],
  brokenBase64: () => [header('%%%not-base64%%%')],
  brokenJson: () => [header(Buffer.from('{"access_token":').toString('base64'))],
  notAnObject: () => [header(Buffer.from('["access_token"]').toString('base64'))],
  foreignMembers: () => [header(encoded({ access_token: {}, redirect_uri: 'https://evil.test/' }))],
  /** Well formed, and far too long. */
  huge: (bytes = 100_000) => [header(encoded({ access_token: { acrs: { values: ['c'.repeat(bytes)] } } }))],
}
