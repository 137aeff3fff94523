/** Claims of one user; any claim may be added. */
export interface TestUser {
  sub: string
  name: string
  email: string
  preferred_username: string
  roles: string[]
  [claim: string]: unknown
}

/** The provider's users: every login name exists, with claims made from the name until they are set. */
export interface TestUsers {
  /** The user of a login name; the object may be changed, at once visible to UserInfo and the next ID token. */
  get(login: string): TestUser
  /** Changes some claims of a user and returns the whole. */
  set(login: string, claims: Partial<TestUser>): TestUser
  /** The user whose `sub` this is; a name nobody logged in with is a user too. */
  bySub(sub: string): TestUser
}

/** An empty user directory. */
export function createUsers(): TestUsers {
  const users = new Map<string, TestUser>()
  const get = (login: string) => {
    const user = users.get(login) ?? defaultUser(login)
    users.set(login, user)
    return user
  }
  return {
    get,
    set: (login, claims) => Object.assign(get(login), claims),
    bySub: sub => [...users.values()].find(user => user.sub === sub) ?? get(sub),
  }
}

function defaultUser(login: string): TestUser {
  return { sub: login, name: login, email: `${login}@example.test`, preferred_username: login, roles: ['user'] }
}
