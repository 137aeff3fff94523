import type { ProviderRequest } from '../provider/journal.ts'
import type { Scripted } from '../provider/script.ts'
import type { CallbackError } from './authorize.ts'

/** Token requests that a test wants refused; what is absent matches anything. */
export interface TokenMatch {
  grant?: string
  /** A scope of the request, or the resource that one of them belongs to. */
  scope?: string
  /** Login name of the user whose sign-in it is. */
  user?: string
  /** How many requests; all of them when absent. */
  times?: number
  /** `after`: Entra has done its work, only the answer is replaced (or lost, with `reset`). */
  when?: 'before' | 'after'
}

/** Whether a token request is one of those. */
export function matchesToken({ form }: ProviderRequest, match: TokenMatch, isOf: (user: string) => boolean): boolean {
  const scopes = form.get('scope')?.split(' ') ?? []
  const { grant, scope, user } = match
  return (
    (grant === undefined || form.get('grant_type') === grant) &&
    (scope === undefined || scopes.some(each => each === scope || each.startsWith(`${scope}/`))) &&
    (user === undefined || isOf(user))
  )
}

/** Authorization requests that a test wants refused. */
export interface AuthorizeMatch {
  /** Exact values of parameters, e.g. `{ prompt: 'none' }`. */
  params?: Record<string, string>
  times?: number
}

/** Refusals of authorization requests, the first one that fits is used up first. */
export function createRefusals() {
  const entries = new Set<{ match: AuthorizeMatch; refusal: CallbackError; calls: number }>()
  return {
    refuse: (match: AuthorizeMatch, refusal: CallbackError): Scripted => {
      const entry = { match, refusal, calls: 0 }
      entries.add(entry)
      return {
        get calls() {
          return entry.calls
        },
        stop: () => {
          entries.delete(entry)
        },
      }
    },
    refusalOf: (params: URLSearchParams): CallbackError | undefined => {
      const fits = ({ match, calls }: { match: AuthorizeMatch; calls: number }) =>
        calls < (match.times ?? Number.POSITIVE_INFINITY) &&
        Object.entries(match.params ?? {}).every(([name, value]) => params.get(name) === value)
      const entry = [...entries].find(fits)
      if (entry) entry.calls += 1
      return entry?.refusal
    },
    reset: () => entries.clear(),
  }
}
