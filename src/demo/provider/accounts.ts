import type { AccountClaims } from 'oidc-provider'

/** Somebody who can sign in at the demo provider. */
export interface DemoAccount {
  username: string
  password: string
  claims: AccountClaims
}

/** The demo's users. The first one is offered on the sign-in page. */
export const demoAccounts: readonly [DemoAccount, ...DemoAccount[]] = [
  {
    username: 'demo',
    password: 'demo',
    claims: {
      sub: 'user-1001',
      name: 'Dana Demo',
      given_name: 'Dana',
      family_name: 'Demo',
      preferred_username: 'demo',
      email: 'demo@example.com',
      email_verified: true,
      roles: ['editor'],
    },
  },
  {
    username: 'other',
    password: 'other',
    claims: {
      sub: 'user-1002',
      name: 'Oscar Other',
      given_name: 'Oscar',
      family_name: 'Other',
      preferred_username: 'other',
      email: 'other@example.com',
      email_verified: true,
      roles: ['viewer'],
    },
  },
]

/** Which claims a scope opens, for the ID token and for UserInfo alike. */
export const claimsOfScope: Record<string, string[]> = {
  openid: ['sub'],
  profile: ['name', 'given_name', 'family_name', 'preferred_username', 'roles'],
  email: ['email', 'email_verified'],
}

/** The account with this `sub`, or undefined. */
export function accountBySubject(sub: string | undefined): DemoAccount | undefined {
  return demoAccounts.find(account => account.claims.sub === sub)
}

/** The account with this user name or e-mail address, in any case, or undefined. */
export function accountByLogin(login: string | undefined): DemoAccount | undefined {
  const wanted = login?.trim().toLowerCase()
  return demoAccounts.find(({ username, claims }) => username === wanted || claims.email === wanted)
}

/** The account that these credentials open, or undefined when either is wrong. */
export function accountByCredentials(login: string, password: string): DemoAccount | undefined {
  const account = accountByLogin(login)
  return account?.password === password ? account : undefined
}
