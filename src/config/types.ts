import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { isIP } from 'node:net'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import type { Endpoint } from '../core/address.ts'
import { isGuid } from '../core/authority.ts'
import { parseClaimHeaders, parseClaimRules } from '../core/claim-rules.ts'
import type { SecretSource } from '../core/client-authentication.ts'

/** A type of setting: text from the environment in, a value or a sentence that says what is wrong out. */
export type SettingType<T> = z.ZodType<T, string>

function settingType<T>(parse: (text: string) => T | Wrong): SettingType<T> {
  return z.string().transform((text, context) => {
    const value = parse(text)
    if (!(value instanceof Wrong)) return value
    context.addIssue({ code: 'custom', message: value.sentence })
    return z.NEVER
  })
}

class Wrong {
  readonly sentence: string

  constructor(sentence: string) {
    this.sentence = sentence
  }
}

const wrong = (sentence: string) => new Wrong(sentence)

export const text = settingType(value => value)

/** One of a few words. */
export function choice<const T extends string>(...words: readonly T[]): SettingType<T> {
  return settingType(value => words.find(word => word === value) ?? wrong(`must be one of ${words.join(', ')}`))
}

export const flag = settingType(value =>
  value === 'true' ? true : value === 'false' ? false : wrong('must be true or false'),
)

export const port = settingType(value => {
  const number = /^\d{1,5}$/.test(value) ? Number(value) : Number.NaN
  return number <= 65_535 ? number : wrong('must be a port number from 0 to 65535')
})

export const count = settingType(value => {
  const number = /^\d{1,6}$/.test(value) ? Number(value) : 0
  return number > 0 ? number : wrong('must be a whole number above 0')
})

/** More would only take memory: no machine that runs a gateway has so many cores to spare. */
const mostProcesses = 64

/** A number of processes, or `auto`: as many as this process may use cores at a time. */
export const processes = settingType(value => {
  if (value === 'auto') return Math.min(availableParallelism(), mostProcesses)
  const number = /^\d{1,2}$/.test(value) ? Number(value) : 0
  return number > 0 && number <= mostProcesses
    ? number
    : wrong(`must be auto or a whole number from 1 to ${mostProcesses}`)
})

const secondsIn = { s: 1, m: 60, h: 3600, d: 86_400 } as const

/** Seconds, from `90s`, `30m`, `12h`, `7d` or plain seconds. */
export const duration = settingType(value => {
  const match = /^(\d{1,9})([smhd]?)$/.exec(value)
  if (match === null) return wrong('must be a duration such as 90s, 30m, 12h or 7d, or plain seconds')
  const seconds = Number(match[1]) * secondsIn[(match[2] || 's') as keyof typeof secondsIn]
  return seconds > 0 ? seconds : wrong('must be longer than 0 seconds')
})

/** So many in a second, minute or hour: `300/m`. */
export const rate = settingType(value => {
  const match = /^(\d{1,6})\/([smh])$/.exec(value)
  const points = Number(match?.[1] ?? 0)
  if (match === null || points === 0) return wrong('must be a rate such as 5/s, 300/m or 10000/h')
  return { points, seconds: secondsIn[match[2] as keyof typeof secondsIn] }
})

/** A comma-separated list without empty entries. */
export const list = settingType(value => {
  const entries = splitList(value)
  return entries.length > 0 ? entries : wrong('must name at least one entry')
})

/** A comma-separated list of a few words. */
export function choices<const T extends string>(...words: readonly T[]): SettingType<readonly T[]> {
  return settingType(value => {
    const entries = splitList(value)
    const unknown = entries.filter(entry => !words.some(word => word === entry))
    if (entries.length === 0 || unknown.length > 0) return wrong(`must be a list of ${words.join(', ')}`)
    return words.filter(word => entries.includes(word))
  })
}

/** `name=value` pairs, comma-separated. */
export const parameters = settingType(value => {
  const pairs = new Map<string, string>()
  for (const entry of splitList(value)) {
    const equals = entry.indexOf('=')
    if (equals < 1) return wrong('must be a comma-separated list of name=value pairs')
    pairs.set(entry.slice(0, equals).trim(), entry.slice(equals + 1).trim())
  }
  return pairs
})

/** A path such as `/bff`: one leading slash, plain characters, no trailing slash, no segment that ends in a dot. */
export const path = settingType(value => {
  if (value === '/') return value
  const segments = value.split('/').slice(1)
  const plain = segments.length > 0 && segments.every(part => /^[\w.~-]*[\w~-]$/.test(part))
  if (!value.startsWith('/') || !plain) return wrong('must be a path such as /bff: plain segments, no trailing slash')
  return value
})

/** A local path to which a browser may be sent. */
export const localPath = settingType(value =>
  /^\/(?![/\\])[\w.~!$&'()*+,;=:@%/?-]*$/.test(value)
    ? value
    : wrong('must be a path on this origin, such as /goodbye'),
)

/** An origin: scheme, host and port, nothing more. */
export const origin = settingType(value => {
  const url = httpUrl(value)
  if (url === null) return wrong('must be an http or https URL')
  if (url.username || url.password) return wrong('must not carry a user name or password')
  if (url.pathname !== '/' || url.search || url.hash) return wrong('must be an origin: no path, query or fragment')
  return url.origin
})

/** Origins, comma-separated; may be empty. None of them by pattern: each would be trusted with the user's session. */
export const origins = settingType((value): readonly string[] | Wrong => {
  const parsed = splitList(value).map(entry => origin.safeParse(entry).data)
  const good = parsed.filter(entry => entry !== undefined)
  return good.length === parsed.length ? good : wrong('must be a list of origins such as https://spa.example.com')
})

/** Addresses and CIDRs, comma-separated; may be empty. Neither `true` nor a number of hops: who trusts must say whom. */
export const networks = settingType((value): readonly string[] | Wrong => {
  const entries = splitList(value)
  return entries.every(isNetwork) ? entries : wrong('must be a list of IP addresses and CIDRs such as 10.0.0.0/8')
})

function isNetwork(entry: string): boolean {
  const [address = '', prefix, ...rest] = entry.split('/')
  const bits = { 0: 0, 4: 32, 6: 128 }[isIP(address)] ?? 0
  return bits > 0 && rest.length === 0 && (prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) <= bits))
}

const bytesIn = { '': 1, b: 1, kb: 1024, mb: 1024 ** 2, gb: 1024 ** 3 } as const

/** Bytes, from `512kb`, `10mb`, `1gb` or a plain number. */
export const size = settingType(value => {
  const match = /^(\d{1,12})(b|kb|mb|gb)?$/i.exec(value)
  const bytes = Number(match?.[1] ?? 0) * bytesIn[(match?.[2]?.toLowerCase() ?? '') as keyof typeof bytesIn]
  return bytes > 0 && bytes <= 2 ** 50 ? bytes : wrong('must be a size such as 512kb, 10mb or 1gb, above 0')
})

/** What may stand in a header: printable ASCII. */
export const headerValue = settingType(value =>
  /^[\x20-\x7e]+$/.test(value) ? value : wrong('must be one line of printable ASCII'),
)

/** What the claims of a session must be. */
export const claimRules = settingType(value => {
  const rules = parseClaimRules(value)
  return typeof rules === 'string' ? wrong(rules) : rules
})

/** The headers in which an upstream is told of claims. */
export const claimHeaders = settingType(value => {
  const headers = parseClaimHeaders(value)
  return typeof headers === 'string' ? wrong(headers) : headers
})

/** The URL of an upstream; its path takes the place of the upstream's prefix. */
export const upstreamUrl = settingType(value => {
  const url = httpUrl(value)
  if (url === null) return wrong('must be an http or https URL')
  if (url.username || url.password) return wrong('must not carry a user name or password')
  if (url.search || url.hash) return wrong('must have no query and no fragment')
  return url
})

const wellKnown = '/.well-known/openid-configuration'

/** An issuer identifier, compared as an exact string; a well-known suffix pasted along is dropped. */
export const issuer = settingType(value => {
  const identifier = value.endsWith(wellKnown) ? value.slice(0, -wellKnown.length) : value
  const url = httpUrl(identifier)
  if (url === null) return wrong('must be an http or https URL')
  if (url.username || url.password) return wrong('must not carry a user name or password')
  if (url.search || url.hash) return wrong('must have no query and no fragment')
  return identifier
})

export const httpAddress = settingType(value => httpUrl(value) ?? wrong('must be an http or https URL'))

export const redisUrl = settingType(value => {
  const url = URL.canParse(value) ? new URL(value) : null
  if (url === null || !['redis:', 'rediss:'].includes(url.protocol) || !url.hostname)
    return wrong('must be a redis:// or rediss:// URL')
  return url
})

/** `host:port`, comma-separated; an IPv6 address stands in brackets. */
export const endpoints = settingType((value): readonly Endpoint[] | Wrong => {
  const entries = splitList(value).map(parseEndpoint)
  const good = entries.filter(entry => entry !== null)
  if (good.length > 0 && good.length === entries.length) return good
  return wrong('must be a list of host:port, such as redis-1:6379, redis-2:6379')
})

function parseEndpoint(entry: string): Endpoint | null {
  const match = /^(?:\[([0-9a-f:.]+)\]|([\w.-]+)):(\d{1,5})$/i.exec(entry)
  const host = match?.[1] ?? match?.[2] ?? ''
  const port = Number(match?.[3] ?? 0)
  const sound = port > 0 && port <= 65_535 && (match?.[1] === undefined || isIP(host) === 6)
  return host !== '' && sound ? { host, port } : null
}

/** Scopes, separated by spaces. */
export const scopes = settingType(value => value.split(/\s+/).filter(Boolean).join(' ') || wrong('must name a scope'))

/** Scopes, separated by spaces; a login without `openid` brings no ID token. */
export const scope = settingType(value => {
  const scopes = value.split(/[\s]+/).filter(Boolean)
  return scopes.includes('openid') ? scopes.join(' ') : wrong('must contain openid')
})

/** Tenant GUIDs, or `*`. */
export const tenants = settingType(value => {
  const entries = splitList(value.toLowerCase())
  const good = entries.length > 0 && entries.every(entry => entry === '*' || isGuid(entry))
  return good ? entries : wrong('must be a list of tenant GUIDs, or * for all tenants')
})

/** A cookie name that browsers hold to `Secure`, `Path=/` and no `Domain` (RFC 6265bis §4.1.3.2). */
export const cookieName = settingType(value =>
  /^__Host-[\w-]{1,64}$/.test(value)
    ? value
    : wrong('must begin with __Host- and go on with letters, digits, - or _ (browsers then bind it to this host)'),
)

/** A secret that callers send as a bearer token. */
export const bearerSecret = settingType(value =>
  /^[\x21-\x7e]{16,}$/.test(value) ? value : wrong('must be at least 16 printable characters without blanks'),
)

const sealingKeyLength = 32

/** Keys for AES-256-GCM; a fault never repeats what was given. */
export const sealingKeys = settingType(value => {
  const keys = splitList(value).map(entry => (/^[\w+/-]+={0,2}$/.test(entry) ? Buffer.from(entry, 'base64') : null))
  if (keys.length === 0) return wrong('must name at least one key')
  const good = keys.filter(key => key !== null && key.length === sealingKeyLength && new Set(key).size > 8)
  if (good.length !== keys.length)
    return wrong(`must be random 32-byte keys in base64, comma-separated (make one: openssl rand -base64 32)`)
  return good.filter(key => key !== null)
})

/** A directory with a page in it: without one, every navigation would be answered with nothing. */
export const spaDirectory = settingType(value => {
  if (!statSync(value, { throwIfNoEntry: false })?.isDirectory()) return wrong('must be a directory that can be read')
  return canRead(join(value, 'index.html')) ? value : wrong('must hold an index.html that can be read')
})

/** Certificates of authorities, read at start. What is none would be found out by the first handshake that fails. */
export const authorities = settingType(value => {
  const content = contentOf(value)
  if (content === null) return wrong('must be a file that can be read')
  const found = content.toString('latin1').match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? []
  return found.length > 0 && found.every(isCertificate) ? content : wrong('must be a file of certificates in PEM')
})

function isCertificate(pem: string): boolean {
  try {
    new X509Certificate(pem)
    return true
  } catch {
    return false
  }
}

/** A secret that is given as itself; one that is given as a file stays where it is. */
export const secretSource: SettingType<SecretSource> = settingType(value => ({ value }))

/** The path of a small file with something in it; it is read again whenever it is used. */
export const credentialFile = settingType(value => {
  const size = statSync(value, { throwIfNoEntry: false })?.size ?? 0
  return size > 0 && size <= 65_536 && canRead(value)
    ? value
    : wrong('must be a file that can be read, of at most 64 kB and not empty')
})

function canRead(path: string): boolean {
  return contentOf(path) !== null
}

function contentOf(path: string): Buffer | null {
  try {
    return readFileSync(path)
  } catch {
    return null
  }
}

function splitList(value: string): string[] {
  return value
    .split(',')
    .map(entry => entry.trim())
    .filter(Boolean)
}

function httpUrl(value: string): URL | null {
  const url = URL.canParse(value) ? new URL(value) : null
  return url !== null && ['http:', 'https:'].includes(url.protocol) ? url : null
}
