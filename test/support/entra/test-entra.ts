import type { EndpointKind, Issued, ProviderRequest } from '../provider/journal.ts'
import type { SigningKey } from '../provider/keys.ts'
import type { Responder, RespondOptions, Scripted } from '../provider/script.ts'
import type { Tamper } from '../provider/tamper.ts'
import type { TestUsers } from '../provider/users.ts'
import type { CallbackError } from './authorize.ts'
import type { Credentials } from './client-auth.ts'
import type { Directory } from './directory.ts'
import type { EntraAsked } from './journal.ts'
import type { EntraKeys } from './keys.ts'
import type { FrontchannelCall } from './logout.ts'
import type { AuthorizeMatch, TokenMatch } from './matches.ts'
import type { EntraKnobs } from './options.ts'

/** Microsoft Entra ID on 127.0.0.1, as far as an app can tell; every answer can be bent. */
export interface TestEntra {
  readonly origin: string
  readonly port: number
  /** Issuer of the first tenant. */
  readonly issuer: string
  /** The address that the gateway is pointed at; also of `common` and its kind. */
  readonly authority: string
  readonly tenants: readonly string[]
  readonly clientId: string
  readonly clientSecret: string
  readonly credentials: Credentials
  readonly requests: ProviderRequest[]
  readonly issued: Issued
  readonly users: TestUsers
  readonly directory: Directory
  readonly keys: EntraKeys
  readonly knobs: EntraKnobs
  /** Resources that need the consent of each user. */
  readonly unconsented: Set<string>
  readonly spaRedirectUris: Set<string>
  readonly logoutUrls: string[]
  /** Front-channel logout calls so far, with their answers. */
  readonly frontchannelCalls: FrontchannelCall[]
  readonly errors: Error[]
  tamper: Tamper
  autoLogin: string | undefined
  issuerOf(tenant: string): string
  of(kind: EndpointKind): ProviderRequest[]
  tokenCalls(grantType?: string): ProviderRequest[]
  jwksFetches(): ProviderRequest[]
  revocations(): ProviderRequest[]
  /** Token requests with a refresh token that had been replaced; Entra itself does not mind. */
  replays(): ProviderRequest[]
  /** Authorization requests as they came from the gateway, read. */
  authorizations(): EntraAsked[]
  /** Refreshes, read. */
  refreshes(): EntraAsked[]
  clear(): void
  respond(kind: EndpointKind | '*', responder: Responder, options?: RespondOptions): Scripted
  /** Answers matching token requests otherwise; see `errors`, `err`, and `reset`, `hang`. */
  refuse(match: TokenMatch, answer: Responder): Scripted
  /** Sends matching authorization requests back at once; see `callbackErrors`. */
  refuseAuthorize(match: AuthorizeMatch, refusal: CallbackError): Scripted
  /** All refresh tokens of a user are revoked from now on (50173); browsers stay signed in. */
  revokeSessions(user: string): void
  /** The user signs out elsewhere: every app is told of each of the user's sessions; refresh tokens live on. */
  signOutElsewhere(user: string): Promise<FrontchannelCall[]>
  /** Values of the `sid` claim given out for a user. */
  sidsOf(user: string): string[]
  rotateKeys(options?: { keepOld?: boolean }): Promise<SigningKey>
  /** The gateway's environment. */
  env(): Record<string, string>
  /** Ends all tampering, refusals and scripted answers; knobs, keys, users and journal stay. */
  reset(): void
  close(): Promise<void>
}
