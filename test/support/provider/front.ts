import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type EndpointKind, endpointKind, type ProviderRequest } from './journal.ts'
import { createRelay, headerOf, type Relay, type Reply, readBody, withoutFraming } from './relay.ts'
import type { Rewrite } from './rewrite.ts'
import { type Answer, type RawAnswer, type Script, sendRaw } from './script.ts'

/** A request as the provider behind gets to see it. */
export interface Forwarded {
  /** That of the request when absent. */
  method?: string
  /** Path and query. */
  url: string
  rawHeaders: string[]
  body: string
}

/** What the front needs; `rewrite` and `relay` exist only once its port is known. */
export interface FrontDeps {
  script: Script
  /** Told of each request before anything is done about it. */
  onRequest(request: ProviderRequest): void
  /** Told of each answer of the provider behind, whether or not it leaves. */
  onProcessed(request: ProviderRequest, reply: Reply): void
  onError(error: Error): void
  /** Which endpoint a path belongs to; that of `oidc-provider` when absent. */
  kindOf?(path: string): EndpointKind
  /** Answers in the provider's stead, or changes what it gets to see; requests pass as they are when absent. */
  divert?(request: ProviderRequest): Promise<Exclude<Answer, 'pass'> | Forwarded>
}

/** The server that stands before the provider. */
export interface Front {
  port: number
  /** From now on requests go to the provider at this port. */
  connect(port: number, rewrite: Rewrite): void
  close(): Promise<void>
}

/** Journals, answers by script or lets the provider work, rewrites what it says, sends. Listens on 127.0.0.1. */
export async function startFront(deps: FrontDeps): Promise<Front> {
  let behind: { relay: Relay; rewrite: Rewrite } | undefined

  const handle = async (req: IncomingMessage, res: ServerResponse) => {
    const request = describe(req, await readBody(req), deps.kindOf ?? endpointKind)
    deps.onRequest(request)
    const scripted = await deps.script.answerTo(request, 'before')
    if (scripted !== 'pass') return perform(scripted, request, res)
    if (!behind) throw new Error('the provider is not ready')
    const { relay, rewrite } = behind
    const forwarded = deps.divert ? await deps.divert(request) : withOriginalHint(req.url ?? '/', request, rewrite)
    if (isAnswer(forwarded)) return perform(forwarded, request, res)
    const reply = await relay.send(
      forwarded.method ?? request.method,
      forwarded.url,
      forwarded.rawHeaders,
      Buffer.from(forwarded.body),
    )
    deps.onProcessed(request, reply)
    const answer = await rewrite.answer(request, reply)
    const replacement = await deps.script.answerTo(request, 'after')
    if (replacement !== 'pass') return perform(replacement, request, res)
    request.answered = answer.status
    const headers = [...withoutFraming(answer.rawHeaders), 'Content-Length', String(answer.body.length)]
    res.writeHead(answer.status, headers)
    res.end(request.method === 'HEAD' ? undefined : answer.body)
  }

  const server = createServer((req, res) => {
    handle(req, res).catch(error => {
      // A client that hangs up while it is being read is part of many tests.
      if (!req.complete) return
      deps.onError(error)
      if (!res.headersSent) res.writeHead(500)
      res.end()
    })
  })
  server.keepAliveTimeout = 60_000
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    connect: (port, rewrite) => {
      behind = { relay: createRelay(port), rewrite }
    },
    close: () =>
      new Promise(resolve => {
        behind?.relay.close()
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

async function perform(answer: Exclude<Answer, 'pass'>, request: ProviderRequest, res: ServerResponse): Promise<void> {
  request.answered = typeof answer === 'string' ? answer : answer.status
  if (answer === 'hang') return
  if (answer === 'reset') {
    res.socket?.resetAndDestroy()
    return
  }
  await sendRaw(res, answer)
}

const isAnswer = (diverted: Exclude<Answer, 'pass'> | Forwarded): diverted is RawAnswer | 'reset' | 'hang' =>
  typeof diverted === 'string' || 'status' in diverted

function describe(req: IncomingMessage, body: Buffer, kindOf: (path: string) => EndpointKind): ProviderRequest {
  const url = new URL(req.url ?? '/', 'http://provider.test')
  const isForm = headerOf(req.rawHeaders, 'content-type')?.startsWith('application/x-www-form-urlencoded')
  return {
    kind: kindOf(url.pathname),
    method: req.method ?? 'GET',
    path: url.pathname,
    query: url.searchParams,
    headers: req.headers,
    rawHeaders: req.rawHeaders,
    form: new URLSearchParams(isForm ? body.toString() : ''),
    body: body.toString(),
    at: Date.now(),
    answered: undefined,
  }
}

/** The provider knows only ID tokens by its own key. */
function withOriginalHint(url: string, request: ProviderRequest, rewrite: Rewrite): Forwarded {
  const query = new URLSearchParams(request.query)
  const form = new URLSearchParams(request.form)
  return {
    url: rewrite.restoreHint(query) ? `${request.path}?${query}` : url,
    rawHeaders: request.rawHeaders,
    body: rewrite.restoreHint(form) ? form.toString() : request.body,
  }
}
