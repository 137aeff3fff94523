import type * as client from 'openid-client'
import type { ClientAuthentication } from '../core/client-authentication.ts'
import type { Clock } from '../core/clock.ts'
import { ProviderUnavailable } from '../core/errors.ts'
import type { Audit } from '../core/events.ts'
import { createLimit } from '../core/limit.ts'
import { type AssertionAudience, type Credential, createCredentials } from './client-credentials.ts'
import { diagnose, judgeClient, type Verdict } from './client-refusal.ts'
import { jsonOf, type ProviderFetch } from './fetch.ts'
import type { Warn } from './watched-files.ts'

/** Authenticates the gateway at the provider, and remembers how that went. */
export interface ClientAuth {
  /** Notes which requests of openid-client want authentication; {@link through} then adds it. */
  mark: client.ClientAuth
  /**
   * Sends the requests that want it with the credential that worked last. One that is refused with `invalid_client` is
   * followed by the others: a code or token is not looked at before the client is known, so that it is not used up
   * (RFC 6749 §3.2.1). The answer of the last credential is the answer.
   */
  through(fetch: ProviderFetch): ProviderFetch
  /**
   * Rejects while every credential is refused. Now and then `probe` then asks the provider again: a gateway that is not
   * ready gets no requests to find out by.
   *
   * @throws {ProviderUnavailable}
   */
  ready(probe: () => Promise<unknown>): Promise<void>
}

export interface ClientAuthDeps {
  /** Whether a refusal at an address is about the client as such, and not about one tenant that does not want it. */
  concernsAll: (url: string) => boolean
  authentication: ClientAuthentication
  assertionAudience: AssertionAudience
  audit: Audit
  log: Warn
  clock: Clock
}

/** What openid-client says of a request that wants authentication. */
type Marked = [server: client.ServerMetadata, metadata: client.ClientMetadata]

const alarmIntervalMs = 60_000
const probeIntervalMs = 10_000

/** No request and no session ends over a refused client; readiness and the audit log tell of it. */
export function createClientAuth(deps: ClientAuthDeps): ClientAuth {
  const { authentication, audit, clock } = deps
  const credentials = createCredentials(authentication, deps)
  const marked = new WeakMap<object, Marked>()
  let preferred = credentials[0]
  /** Endpoints whose last word on the client was no. */
  const refusing = new Set<string>()
  const alarmDue = createLimit(clock, alarmIntervalMs)
  const probeDue = createLimit(clock, probeIntervalMs)

  async function* candidates(): AsyncGenerator<[Credential, client.ClientAuth]> {
    const tried = new Set<client.ClientAuth>()
    const each = [...credentials].sort((a, b) => Number(b === preferred) - Number(a === preferred))
    for (const credential of each) {
      const authenticate = await credential.get()
      tried.add(authenticate)
      yield [credential, authenticate]
    }
    for (const credential of each) {
      // A file may have been replaced since it was last looked at.
      await credential.look()
      const authenticate = await credential.get()
      if (!tried.has(authenticate)) yield [credential, authenticate]
    }
  }

  const ask = async (fetch: ProviderFetch, url: string, init: Init, request: Marked, by: client.ClientAuth) => {
    const body = new URLSearchParams(init.body as URLSearchParams)
    const headers = new Headers(init.headers)
    await by(...request, body, headers)
    const response = await fetch(url, { ...init, body, headers: Object.fromEntries(headers) })
    const answer = response.status === 200 ? null : await jsonOf(response)
    return { response, verdict: judgeClient(response.status, answer) }
  }

  const accepted = (url: string, server: client.ServerMetadata, by: Credential, fellBack: boolean) => {
    if (fellBack && by !== preferred) {
      audit({ event: 'client_credential_changed', from: String(preferred?.name), to: by.name })
      preferred = by
    }
    if (refusing.size === 0) return
    // Some revocation endpoints ask nobody who they are; the token endpoint's word is good for all.
    if (url === server.token_endpoint) refusing.clear()
    else refusing.delete(url)
    if (refusing.size === 0) audit({ event: 'client_accepted' })
  }

  const refused = (url: string, verdict: Verdict) => {
    if (deps.concernsAll(url)) refusing.add(url)
    if (!alarmDue()) return
    const detail = `${new URL(url).pathname}: ${verdict.error}`
    audit({ event: 'client_refused', severity: 'high', detail, ...diagnose(verdict, authentication.method) })
  }

  return {
    mark(server, metadata, body) {
      marked.set(body, [server, metadata])
    },

    through: fetch => async (url, init) => {
      const request = marked.get((init?.body ?? {}) as object)
      if (init === undefined || request === undefined) return fetch(url, init)
      let last: Awaited<ReturnType<typeof ask>> | undefined
      for await (const [credential, authenticate] of candidates()) {
        const fellBack = last !== undefined
        last = await ask(fetch, url, init, request, authenticate)
        if (last.verdict.error === 'invalid_client') continue
        if (last.verdict.client === 'accepted') accepted(url, request[0], credential, fellBack)
        break
      }
      if (last === undefined) throw new ProviderUnavailable({ detail: 'the client has no credential' })
      if (last.verdict.client !== 'refused') return last.response
      refused(url, last.verdict)
      return withoutChallenge(last.response)
    },

    async ready(probe) {
      if (refusing.size === 0) return
      if (probeDue()) void probe().catch(() => {})
      throw new ProviderUnavailable({ detail: 'the provider refuses the client' })
    },
  }
}

type Init = NonNullable<Parameters<ProviderFetch>[1]>

/** openid-client sees no further than a challenge, which Basic authentication brings; the error code is in the body. */
function withoutChallenge(response: Response): Response {
  const headers = new Headers(response.headers)
  headers.delete('www-authenticate')
  return new Response(response.body, { status: response.status, headers })
}
