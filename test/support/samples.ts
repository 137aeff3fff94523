/** A user, where it does not matter who. */
export const identity = {
  issuer: 'https://idp',
  subject: 'alice',
  providerSessionId: undefined,
  claims: {},
  nonce: 'nonce',
  authTime: undefined,
}

/** Tokens that are never over. */
export const tokensWith = (refresh: string) => ({
  access: { value: 'at', expiresAt: Number.MAX_SAFE_INTEGER, refreshAt: Number.MAX_SAFE_INTEGER, scope: undefined },
  refresh,
})
