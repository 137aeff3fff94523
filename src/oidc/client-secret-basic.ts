import type { ClientAuth } from 'openid-client'

/**
 * Sends the client's id and secret in the Authorization header, each as a form would encode it (RFC 6749 §2.3.1).
 * openid-client's own encodes `-`, `.`, `_` and `*` as well, which forms leave alone (WHATWG URL §5.2): right for a
 * provider that decodes, and a wrong secret for the many that do not.
 */
export function clientSecretBasic(clientSecret: string): ClientAuth {
  return (_server, client, _body, headers) => {
    const credentials = `${formEncode(client.client_id)}:${formEncode(clientSecret)}`
    headers.set('authorization', `Basic ${Buffer.from(credentials).toString('base64')}`)
  }
}

const formEncode = (value: string): string => new URLSearchParams([['', value]]).toString().slice(1)
