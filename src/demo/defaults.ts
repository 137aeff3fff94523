/** What the pieces of the demo agree on when nothing else is said. None of it is a secret: it is all printed here. */
export const demoDefaults = {
  clientId: 'coatcheck-demo',
  clientSecret: 'not-a-secret-only-a-demo',
  audience: 'urn:coatcheck:demo-api',
  accessTokenLifetime: 24 * 3600,
} as const
