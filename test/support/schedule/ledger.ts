import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Answer, ProviderRequest, TestProvider } from '../provider.ts'
import { claimsOf } from '../provider-logout.ts'

/** What the provider does about a refresh. The last one is done by the test: whoever asks is killed at that moment. */
export type Verdict =
  | 'prompt'
  | 'slow'
  | 'late'
  | 'lost_before'
  | 'lost_after'
  | 'unavailable'
  | 'busy'
  | 'passing'
  | 'refused'
  | 'interaction'
  | 'kill_before'
  | 'kill_after'

/** One refresh as the provider saw it. */
interface Presentation {
  token: string
  scope: string | null
  verdict: Verdict
  beganAt: number
  answeredAt: number | null
  /** The refresh token it brought. */
  child: string | null
  outcome: 'pending' | 'delivered' | 'lost' | 'not_given'
}

/** Everything that came of one login at the provider. */
export interface Chain {
  /** The authorization code it began with. */
  code: string
  /** What the provider calls its session there, and the user. */
  sid: string
  sub: string
  /** Refresh tokens, oldest first. */
  tokens: string[]
  presentations: Presentation[]
  /** What may have made the gateway end the session for its refresh token: a scripted refusal, loss or death. */
  excuse: string | null
  /** Whether an upstream has refused one of its access tokens before its time. */
  refusedByUpstream: boolean
}

/** Whose access token this is. */
export interface AccessTokenOrigin {
  chain: Chain
  /** The scope that was asked for; null for the login's own. */
  scope: string | null
  /** The refresh token that came with it. */
  refreshToken: string
}

/** What decides about refreshes, and is told of faults. */
export interface LedgerHooks {
  /** The verdict about a chain's n-th refresh, and how long a wait is, where there is one. */
  decide(chain: Chain, index: number): { verdict: Verdict; ms: number }
  /** Kills whoever refreshes the tokens of this chain, and resolves when it is dead. */
  killHolder(chain: Chain): Promise<void>
  note(line: string): void
  fault(text: string): void
}

/** The provider's book of refresh tokens: what came of which, who presented what when, and what that was worth. */
export interface Ledger {
  readonly chains: Map<string, Chain>
  hooks: LedgerHooks
  /** Seconds that access tokens live. */
  lifetime: number
  originOf(accessToken: string): AccessTokenOrigin | undefined
  /** How many replacements the gateway has to have stored before it uses this one's; null where a death may have cost some. */
  storedBefore(origin: AccessTokenOrigin): number | null
  /** Whether a refresh is under way. */
  busy(): boolean
  /** Whether the gateway may have had cause to end the session for its refresh token. */
  excused(chain: Chain): boolean
  /** Whether a refresh token never reached a gateway that lived to store it. */
  lost(chain: Chain, token: string): boolean
  /** From now on a process is dead that may have had answers not stored yet. */
  killed(signalledAt: number): void
  clear(): void
}

/** An answer may have been on its way to its storing for this long when its receiver died. */
const storingMs = 800
/** What the dead have sent may be read this much later, on a busy machine. */
const readingMs = 1000

/** Keeps the book of a provider, whose answers to refreshes it decides from now on. */
export function keepLedger(provider: TestProvider, hooks: LedgerHooks): Ledger {
  const chains = new Map<string, Chain>()
  const chainOf = new Map<string, Chain>()
  const origins = new Map<string, AccessTokenOrigin>()
  const current = new WeakMap<ProviderRequest, { chain: Chain; presentation: Presentation; ms: number }>()
  const kills: { signalledAt: number; goneAt: number }[] = []
  /** By how much later than it was sent a request may be seen here, in nanoseconds. */
  const lag = monitorEventLoopDelay({ resolution: 10 })
  lag.enable()

  /** Whether whoever made this presentation may have been killed before it could store what came of it. */
  const pardoned = ({ beganAt, answeredAt }: Presentation) =>
    kills.some(
      ({ signalledAt, goneAt }) =>
        beganAt <= goneAt + readingMs && (answeredAt ?? Number.POSITIVE_INFINITY) >= signalledAt - storingMs,
    )

  const checkOrder = (chain: Chain, presentation: Presentation) => {
    const { token } = presentation
    for (const earlier of chain.presentations) {
      if (earlier.token !== token || pardoned(earlier)) continue
      if (earlier.outcome === 'pending') ledger.hooks.fault('a refresh token was presented twice at a time')
      if (earlier.outcome === 'delivered')
        ledger.hooks.fault('a refresh token was presented after its replacement came')
    }
  }

  /** Of those who want the same token at the same time one fetches it, on whatever replica, and the others have it too. */
  const checkNeed = (chain: Chain, { scope, beganAt }: Presentation) => {
    // A refusal for one upstream is checked against the login's own token, whatever its age.
    const answered = chain.presentations.filter(({ outcome }) => outcome !== 'lost')
    if (chain.refusedByUpstream || answered.at(-1)?.outcome === 'not_given') return
    // A token is as old as the question for it, which was put before it was seen here.
    const fresh = (earlier: Presentation) => beganAt - earlier.beganAt < ledger.lifetime * 500 - lag.max / 1e6
    const same = chain.presentations.filter(each => each.scope === scope && each.outcome === 'delivered')
    if (same.some(each => fresh(each) && !pardoned(each))) ledger.hooks.fault('a token was replaced that was fresh')
  }

  const settle = (presentation: Presentation, outcome: Presentation['outcome']) => {
    Object.assign(presentation, { outcome, answeredAt: performance.now() })
    ledger.hooks.note(`  … ${presentation.verdict}: ${outcome} ${presentation.token.slice(0, 6)}`)
  }

  const before = async (request: ProviderRequest): Promise<Answer> => {
    if (request.form.get('grant_type') !== 'refresh_token') return 'pass'
    const token = request.form.get('refresh_token') ?? ''
    const chain = chainOf.get(token)
    if (chain === undefined) {
      ledger.hooks.fault('a refresh token was presented that the provider never issued')
      return 'pass'
    }
    const { verdict, ms } = ledger.hooks.decide(chain, chain.presentations.length)
    const presentation: Presentation = {
      token,
      scope: request.form.get('scope'),
      verdict,
      beganAt: performance.now(),
      answeredAt: null,
      child: null,
      outcome: 'pending',
    }
    checkOrder(chain, presentation)
    checkNeed(chain, presentation)
    chain.presentations.push(presentation)
    current.set(request, { chain, presentation, ms })
    ledger.hooks.note(`refresh ${token.slice(0, 6)} for ${presentation.scope ?? 'login'}: ${verdict} ${ms}`)
    if (excuses.includes(verdict)) chain.excuse ??= verdict
    if (verdict === 'slow') await sleep(ms)
    if (verdict === 'kill_before') await ledger.hooks.killHolder(chain)
    const answer = answers[verdict]
    if (answer !== undefined) settle(presentation, answer === 'reset' ? 'lost' : 'not_given')
    return answer ?? 'pass'
  }

  const after = async (request: ProviderRequest): Promise<Answer> => {
    const { chain, presentation, ms } = current.get(request) ?? {}
    if (chain === undefined || presentation === undefined) return 'pass'
    const { verdict, child } = presentation
    if (verdict === 'late') await sleep(ms)
    if (verdict === 'kill_after') await ledger.hooks.killHolder(chain)
    if (verdict === 'lost_after') {
      settle(presentation, 'lost')
      return 'reset'
    }
    settle(presentation, child === null ? 'not_given' : 'delivered')
    return 'pass'
  }

  provider.respond('token', before)
  provider.respond('token', after, { when: 'after' })
  provider.tamper.tokenResponse = (response, request) => {
    const { access_token: access, refresh_token: refresh, id_token: idToken } = response as Record<string, string>
    const code = request.form.get('code')
    const parent = request.form.get('refresh_token')
    const chain =
      code === null
        ? chainOf.get(parent ?? '')
        : { code, ...namesIn(idToken), tokens: [], presentations: [], excuse: null, refusedByUpstream: false }
    if (chain === undefined || access === undefined || refresh === undefined) return response
    chains.set(chain.code, chain)
    origins.set(access, { chain, scope: request.form.get('scope'), refreshToken: refresh })
    chain.tokens.push(refresh)
    chainOf.set(refresh, chain)
    if (chain.presentations.some(each => each.token === parent && each.child !== null))
      ledger.hooks.fault('two live refresh tokens came of one')
    const presentation = current.get(request)?.presentation
    if (presentation !== undefined) presentation.child = refresh
    return { ...response, expires_in: ledger.lifetime }
  }

  const ledger: Ledger = {
    chains,
    hooks,
    lifetime: 1,
    originOf: token => origins.get(token),
    storedBefore: ({ chain, refreshToken }) => {
      if (chain.presentations.some(pardoned)) return null
      const delivered = chain.presentations.filter(({ outcome }) => outcome === 'delivered')
      return delivered.findIndex(({ child }) => child === refreshToken) + 1
    },
    busy: () => [...chains.values()].some(chain => chain.presentations.some(each => each.outcome === 'pending')),
    excused: chain => chain.excuse !== null || chain.presentations.some(pardoned),
    lost: (chain, token) =>
      chain.presentations.some(each => each.child === token && (each.outcome === 'lost' || pardoned(each))),
    killed: signalledAt => void kills.push({ signalledAt, goneAt: performance.now() }),
    clear: () => {
      for (const map of [chains, chainOf, origins]) map.clear()
      kills.length = 0
      lag.reset()
    },
  }
  return ledger
}

function namesIn(idToken = ''): Pick<Chain, 'sid' | 'sub'> {
  const { sid, sub } = claimsOf(idToken)
  return { sid: String(sid), sub: String(sub) }
}

/** After these a session may end for its refresh token. */
const excuses: readonly Verdict[] = ['lost_after', 'refused', 'kill_before', 'kill_after']

/** Verdicts that keep the provider from seeing the request. */
const answers: Partial<Record<Verdict, Answer>> = {
  lost_before: 'reset',
  unavailable: { status: 503, body: 'down for maintenance' },
  busy: { status: 429, body: '' },
  passing: { status: 400, body: { error: 'temporarily_unavailable' } },
  refused: { status: 400, body: { error: 'invalid_grant' } },
  interaction: { status: 400, body: { error: 'interaction_required' } },
}
