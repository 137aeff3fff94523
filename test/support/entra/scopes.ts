/** Audience of access tokens for Microsoft Graph. */
export const graphAudience = '00000003-0000-0000-c000-000000000000'

/** The resource that unqualified scopes belong to. */
export const graph = 'https://graph.microsoft.com'

/** A scope parameter taken apart. */
export interface AskedScopes {
  /** Those of OpenID Connect. */
  oidc: string[]
  /** Names of scopes by the resource they belong to, in order of appearance. */
  resources: Map<string, string[]>
}

const oidcScopes = new Set(['openid', 'offline_access', 'profile', 'email'])

/** Takes a scope parameter apart; an unqualified scope is one of Graph, and the client id as a scope names itself. */
export function parseScopes(scope: string | null | undefined, clientId: string): AskedScopes {
  const oidc: string[] = []
  const resources = new Map<string, string[]>()
  for (const each of (scope ?? '').split(' ').filter(Boolean)) {
    if (oidcScopes.has(each)) {
      oidc.push(each)
      continue
    }
    const slash = each.lastIndexOf('/')
    const resource = slash >= 0 ? each.slice(0, slash) : each === clientId ? clientId : graph
    resources.set(resource, [
      ...(resources.get(resource) ?? []),
      each === clientId ? '.default' : each.slice(slash + 1),
    ])
  }
  return { oidc, resources }
}

/** The first unqualified scope that Graph does not have: its own look like `User.Read`. */
export function unknownToGraph({ resources }: AskedScopes): string | undefined {
  return resources.get(graph)?.find(name => name !== '.default' && !/^[A-Z][A-Za-z]+\.[A-Z][A-Za-z.]*$/.test(name))
}

/** The resource whose `.default` stands beside named scopes of its own, which is not allowed. */
export function mixedDefault({ resources }: AskedScopes): string | undefined {
  return [...resources].find(([, names]) => names.includes('.default') && names.length > 1)?.[0]
}
