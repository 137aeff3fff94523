import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Page } from 'playwright-core'
import type { Wiretap } from './wiretap.ts'

/** Where the providers are unpacked. */
export const unpacked = join(process.cwd(), '.interop', 'root')

/** Seconds for which providers let access tokens live here: short, so that they are refreshed while a test waits. */
export const accessTokenSeconds = 10

/** How the gateway is registered at a provider: once for each algorithm, under a client of its own. */
export interface Registration {
  redirectUri: string
  postLogoutUri: string
  /** Signature algorithms of ID tokens. */
  algorithms: readonly string[]
  /** Where a provider that offers back-channel logout sends its logout tokens. */
  backchannelUri: string
}

/** An OpenID Provider that is no part of this project and shares no code with it. */
export interface ForeignProvider {
  readonly issuer: string
  readonly wire: Wiretap
  /** Paths of its endpoints, as its metadata states them. */
  readonly paths: { token: string; userinfo: string; endSession: string; revocation?: string }
  /** The gateway's environment, for the client whose ID tokens are signed with this algorithm. */
  env(algorithm: string): Record<string, string>
  readonly user: { name: string; password: string; claims: Record<string, string> }
  /** Fills in the provider's own pages, from its login to where it sends the browser back. */
  signIn(page: Page): Promise<void>
  /** Does what its page after the end-session endpoint asks for. */
  confirmLogout(page: Page): Promise<void>
  output(): string
  stop(): Promise<void>
}

/** Version of an unpacked package. */
export function versionOf(name: string): string {
  const versions = JSON.parse(readFileSync(join(unpacked, '..', 'versions.json'), 'utf8')) as Record<string, string>
  return versions[name] ?? 'unknown'
}
