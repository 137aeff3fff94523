/** The one place where a token may stand in an address: the provider's own logout, which wants to be shown it. */
export function withoutHint(location: string): string {
  return location.replace(/^(https?:\/\/[^?]*\/(?:session\/end|logout)\?(?:[^#]*&)?id_token_hint=)[^&#]*/, '$1')
}
