/** What the pieces of the demo agree on when nothing else is said. None of it is a secret: it is all printed here. */
export const demoDefaults = {
  clientId: 'coatcheck-demo',
  clientSecret: 'not-a-secret-only-a-demo',
  audience: 'urn:coatcheck:demo-api',
  /** Seconds; short, so that a visitor sees tokens being refreshed. */
  accessTokenLifetime: 120,
} as const
