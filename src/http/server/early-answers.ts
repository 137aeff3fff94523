import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { type ProblemCode, problems } from '../../core/errors.ts'
import { fromFramework, problemOf, sendProblem } from '../problem.ts'
import type { Connections } from './connections.ts'
import type { Cors } from './cors.ts'

/** What the early answers need. */
export interface EarlyAnswersDeps {
  ownHeaders: Record<string, string>
  cors: Cors
}

/** So long a client may take to read an answer after which the connection is closed. */
const lingerMs = 2000

/** Answers to what is refused before there is a route, or even a request: they are problems like all others. */
export function createEarlyAnswers({ ownHeaders, cors }: EarlyAnswersDeps) {
  let connections: Connections | undefined
  const headers = { ...ownHeaders, ...cors.headersFor(undefined) }

  /** Whether an answer would be read as that to the request at fault, and not as part of another one's. */
  const isTurn = (socket: Duplex): boolean => {
    const response = connections?.latest(socket)
    if (response === undefined || response.writableFinished) return true
    return !response.req.complete && !response.headersSent && response.socket !== null
  }

  const close = (socket: Duplex, lastWords = '') => {
    socket.end(lastWords)
    setTimeout(() => socket.destroy(), lingerMs).unref()
  }

  const answer = (socket: Duplex, code: ProblemCode, detail: string) => {
    if (!socket.writable || !isTurn(socket)) return void socket.destroy()
    const { status } = problems[code]
    const body = JSON.stringify(problemOf(code, detail, {}))
    const lines = [
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
      'content-type: application/problem+json',
      `content-length: ${Buffer.byteLength(body)}`,
      ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
      'connection: close',
    ]
    close(socket, `${lines.join('\r\n')}\r\n\r\n${body}`)
  }

  return {
    /** Fastify's `frameworkErrors`: a path that cannot be decoded, say. */
    ofFramework(error: Error & { statusCode?: number }, request: FastifyRequest, reply: FastifyReply): void {
      const known = fromFramework(error)
      reply.headers(cors.headersFor(request.headers.origin))
      sendProblem(reply, problemOf(known.code, known.message, {}))
    },

    /** Fastify's `clientErrorHandler`: what the HTTP parser refused, or what took too long to arrive. */
    ofParser(error: Error & { code?: string }, socket: Duplex): void {
      if (error.code === 'ECONNRESET') return void socket.destroy()
      const last = connections?.latest(socket)
      // What follows the last request of a connection is nobody's; its answer may still be to come, and Node closes after it.
      if (last?.shouldKeepAlive === false && (last.writableFinished || error.code === 'HPE_CLOSED_CONNECTION')) return
      // Refused already, before its body came: a second answer would be taken for that to another request.
      if (last?.writableFinished && !last.req.complete) return void close(socket)
      const code = parserProblems[error.code ?? ''] ?? 'bad_request'
      const late = code === 'request_timeout'
      const detail = late ? 'The request took too long to arrive.' : 'The request is not valid HTTP/1.1, or too large.'
      answer(socket, code, detail)
    },

    /** Takes part in the exchanges of a server, and answers what Node would not, or not as we do. */
    watch({ server }: FastifyInstance, watched: Connections): void {
      connections = watched
      server.on('connect', (_request: IncomingMessage, socket: Duplex) => {
        // Who hangs up meanwhile is of no interest.
        socket.on('error', () => socket.destroy())
        answer(socket, 'method_not_allowed', 'The method is not allowed here.')
      })
      server.on('checkExpectation', (_request: IncomingMessage, response: ServerResponse) => {
        const body = JSON.stringify(problemOf('bad_request', 'What the request expects is not to be had here.', {}))
        response.writeHead(problems.bad_request.status, {
          ...headers,
          'content-type': 'application/problem+json',
          'content-length': Buffer.byteLength(body),
          connection: 'close',
        })
        response.end(body)
      })
    },
  }
}

const parserProblems: Record<string, ProblemCode> = {
  HPE_HEADER_OVERFLOW: 'headers_too_large',
  HPE_CHUNK_EXTENSIONS_OVERFLOW: 'payload_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timeout',
}
