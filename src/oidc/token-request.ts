import { jsonOf, type ProviderFetch } from './fetch.ts'

/** An answer of the token endpoint as it came. */
export interface RawAnswer {
  status: number
  /** Null when it was no JSON. */
  body: unknown
}

/** What was taken note of. */
export interface Taken {
  fetch: ProviderFetch
  /** Undefined as long as there is none. */
  answer(): RawAnswer | undefined
  /** A member of a successful answer, if it is text. */
  text(name: string): string | undefined
}

/**
 * Sends through `fetch`, and takes what the token endpoint answers before anything of it is judged. openid-client does
 * not get to see the ID token: it would check that by rules of its own, and throw all tokens away with it.
 */
export function takeAnswer(fetch: ProviderFetch, tokenEndpoint: string): Taken {
  let answer: RawAnswer | undefined
  return {
    async fetch(url, init) {
      const response = await fetch(url, init)
      if (url !== tokenEndpoint) return response
      const body = await jsonOf(response)
      answer = { status: response.status, body }
      if (response.status !== 200 || typeof body !== 'object' || body === null) return response
      const { id_token: _, ...rest } = body as Record<string, unknown>
      return Response.json(rest)
    },
    answer: () => answer,
    text(name) {
      const value = ((answer?.body ?? {}) as Record<string, unknown>)[name]
      return typeof value === 'string' && value !== '' ? value : undefined
    },
  }
}
