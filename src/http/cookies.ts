import type { CookieSerializeOptions } from '@fastify/cookie'
import type { FastifyReply } from 'fastify'
import { isRandomToken } from '../core/random.ts'
import { transactionLifetime, transactionTag } from '../core/transaction.ts'

/** A browser has at most this many logins under way; each costs it a cookie. */
const maximumLogins = 8

/** The gateway's two kinds of cookie: the session's, and one for each login under way. */
export interface Cookies {
  /**
   * The session cookie of a request, or null. It must be there once and have the form of one: two cookies of the name
   * are not guessed between (RFC 6265bis §8.6).
   */
  session(header: string | undefined): string | null
  setSession(reply: FastifyReply, value: string): void
  clearSession(reply: FastifyReply): void
  /** The binding cookie that belongs to a `state`, or null. */
  binding(header: string | undefined, state: string): string | null
  /** Sets a binding cookie, and drops the oldest of too many. */
  setBinding(reply: FastifyReply, header: string | undefined, state: string, value: string): void
  clearBinding(reply: FastifyReply, state: string): void
}

/** Cookies that never leave this host, https and HTTP (RFC 6265bis §4.1.3.2). */
export function createCookies(options: {
  name: string
  sameSite: 'strict' | 'lax'
  /** Whether the provider answers a login by a form that its own page posts. */
  crossSitePost: boolean
}): Cookies {
  const common = { path: '/', secure: true, httpOnly: true } as const
  const session: CookieSerializeOptions = { ...common, sameSite: options.sameSite }
  // The callback is a navigation from the provider's site: a Strict cookie would not arrive, and with a POST no Lax one.
  const sameSite = options.crossSitePost ? 'none' : 'lax'
  const binding: CookieSerializeOptions = { ...common, sameSite, maxAge: transactionLifetime }
  const bindingPrefix = `${options.name}-login-`
  const bindingName = (state: string) => bindingPrefix + transactionTag(state)

  return {
    session: header => onlyToken(header, options.name),
    setSession: (reply, value) => reply.setCookie(options.name, value, session),
    clearSession: reply => reply.clearCookie(options.name, session),
    binding: (header, state) => onlyToken(header, bindingName(state)),
    setBinding(reply, header, state, value) {
      // Browsers send older cookies first (RFC 6265 §5.4).
      const names = pairs(header).map(([name]) => name)
      const pending = names.filter(name => name.startsWith(bindingPrefix))
      for (const name of pending.slice(0, Math.max(0, pending.length - maximumLogins + 1)))
        if (/^[\w-]+$/.test(name)) reply.clearCookie(name, binding)
      reply.setCookie(bindingName(state), value, binding)
    },
    clearBinding: (reply, state) => reply.clearCookie(bindingName(state), binding),
  }
}

/** The value of a name that occurs exactly once, compared to the letter, and only if it can be one of ours. */
function onlyToken(header: string | undefined, name: string): string | null {
  const value = valueOfOnly(header ?? '', name)
  return value !== null && isRandomToken(value) ? value : null
}

function valueOfOnly(header: string, name: string): string | null {
  const start = header.indexOf(name)
  // Most requests of a flood carry nothing of ours.
  if (start < 0) return null
  const plain = (start === 0 || header.startsWith('; ', start - 2)) && header[start + name.length] === '='
  // The name stands nowhere else, not even within another one: no need to take the whole header apart.
  if (plain && header.indexOf(name, start + 1) < 0)
    return header.slice(start + name.length + 1).split(';', 1)[0] ?? null
  const values = pairs(header).filter(pair => pair[0] === name)
  return values.length === 1 ? (values[0]?.[1] ?? null) : null
}

/**
 * Only the blank between two pairs is dropped (RFC 6265 §4.2.1). `trim` would also drop U+00A0, and a neighbour under the
 * same domain may well set a cookie that is named `__Host-…` but for that character in front.
 */
function pairs(header: string | undefined): [name: string, value: string][] {
  return (header ?? '').split(';').map(pair => {
    const equals = pair.indexOf('=')
    return equals < 0 ? ['', pair] : [pair.slice(0, equals).replace(/^ +/, ''), pair.slice(equals + 1)]
  })
}
