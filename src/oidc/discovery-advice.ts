import type { Diagnosis } from '../core/advice.ts'

const address =
  'check OIDC_ISSUER: the document is looked for under it, at /.well-known/openid-configuration; if it is elsewhere, set OIDC_DISCOVERY_URL to its full address'
const ownAddress =
  "mend the provider's own idea of its public address (a host name setting, or X-Forwarded-Proto and X-Forwarded-Host from the proxy in front of it)"

/** What is probably wrong with the settings when the metadata is not what it should be. */
export const discoveryAdvice = {
  status(status: number): Diagnosis {
    if (status === 404 || status === 410)
      return { cause: 'there is no metadata document at this address', mend: address }
    if (status >= 300 && status < 400)
      return {
        cause: 'this address leads on to another one, which the gateway does not follow',
        mend: 'set OIDC_ISSUER, or OIDC_DISCOVERY_URL, to the address at the end of it',
      }
    if (status === 401 || status === 403)
      return {
        cause: 'the metadata document, which is meant to be public, is not given to the gateway',
        mend: 'see what stands between the gateway and the provider (proxy, firewall, login page)',
      }
    return {
      cause: 'what answers at this address is no OpenID Provider, or it does not know the tenant or realm',
      mend: address,
    }
  },

  noMetadata: {
    cause: 'what answers at this address is a web page or another service, no OpenID Provider',
    mend: address,
  },

  keySet: {
    cause: 'what answers at the jwks_uri of the metadata is no key set',
    mend: `${ownAddress}, and see what stands between the gateway and the provider`,
  },

  /** What the metadata states in the place of OIDC_ISSUER; repeated only if it is a plain https address. */
  issuer(stated: unknown, issuer: string): Diagnosis {
    if (typeof stated !== 'string') return discoveryAdvice.noMetadata
    if (/\{tenant/.test(stated))
      return {
        cause: 'the metadata is that of many tenants together (common, organizations)',
        mend: 'set OIDC_PROVIDER=entra and OIDC_ALLOWED_TENANTS, or OIDC_ISSUER to the authority of one tenant: https://login.microsoftonline.com/<tenant ID>/v2.0',
      }
    if (bare(stated) === bare(issuer))
      return {
        cause: 'the two differ by a slash at the end',
        mend: `set OIDC_ISSUER to ${issuer.endsWith('/') ? issuer.replace(/\/+$/, '') : `${issuer}/`}`,
      }
    if (stated.toLowerCase() === issuer.toLowerCase())
      return { cause: 'the two differ in upper and lower case', mend: 'write OIDC_ISSUER as the provider does' }
    if (stated === issuer.replace(/^https:/, 'http:'))
      return { cause: 'the provider believes that it is reached over plain http', mend: ownAddress }
    if (!isPlainAddress(stated))
      return {
        cause: 'the metadata states another issuer, and not as a plain https address',
        mend: `${address}; or ${ownAddress}`,
      }
    return {
      cause: `the metadata says ${stated}`,
      mend: `if that is your provider, set OIDC_ISSUER to it (and OIDC_DISCOVERY_URL to the address asked here, should the two be apart); if not, ${ownAddress}`,
    }
  },

  endpoint(name: string, given: unknown): Diagnosis {
    if (given === undefined)
      return { cause: `the metadata has no ${name}: no OpenID Provider, or one without the code flow`, mend: address }
    if (typeof given === 'string' && given.startsWith('http:'))
      return { cause: 'the provider believes that it is reached over plain http', mend: ownAddress }
    return { cause: `the ${name} is no address that could be called`, mend: ownAddress }
  },
} as const

const bare = (url: string) => url.replace(/\/+$/, '')

/** Fit to be repeated: host, port and path in plain letters, no user, query or fragment. */
function isPlainAddress(text: string): boolean {
  return text.length <= 200 && /^https:\/\/[a-z0-9.-]+(:\d{1,5})?(\/[\w.~-]+)*\/?$/i.test(text)
}
