import type { Config, Upstream } from './config/load.ts'
import { hash } from './core/random.ts'
import type { TokenAudience } from './flows/access-token.ts'
import type { UpstreamRoute } from './http/upstream/proxy.ts'
import { loginSlot } from './store/store.ts'

/** All that the public listener stands before: the upstreams, and a server of the SPA that gets neither cookie nor token. */
export function upstreamsOf({ upstreams, spaUrl, spaCsp }: Config): UpstreamRoute[] {
  const routes = upstreams.map(upstream => ({ ...upstream, audience: audienceOf(upstream), answerHeaders: {} }))
  return spaUrl === undefined ? routes : [...routes, spaRoute(spaUrl, spaCsp)]
}

/** Where an upstream's token is kept: with the login's, unless it asks for one of its own. */
function audienceOf({ name, scope, resource }: Pick<Upstream, 'name' | 'scope' | 'resource'>): TokenAudience {
  const own = scope !== undefined || resource !== undefined
  // A token that was obtained for another scope is not this upstream's, whatever its name.
  const slot = own ? `${name}-${hash(JSON.stringify([scope, resource])).slice(0, 12)}` : loginSlot
  return { slot, upstream: name, scope, resource }
}

/** A server of the SPA: for anybody, without a token, and not a sign of anybody's presence. */
function spaRoute(url: URL, contentSecurityPolicy: string | undefined): UpstreamRoute {
  return {
    path: '/',
    url,
    audience: audienceOf({ name: 'spa', scope: undefined, resource: undefined }),
    auth: 'none',
    csrf: 'none',
    activity: 'passive',
    require: [],
    claimsHeaders: [],
    timeout: 30,
    maxBody: 1024 * 1024,
    websocket: true,
    caFile: undefined,
    redirects: [],
    answerHeaders: contentSecurityPolicy === undefined ? {} : { 'content-security-policy': contentSecurityPolicy },
  }
}
