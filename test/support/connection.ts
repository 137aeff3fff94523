import { connect, type Socket } from 'node:net'
import { eventually } from './eventually.ts'

/** A connection on which a test says exactly what it wants, when it wants. */
export interface Connection {
  readonly socket: Socket
  /** All that came so far, as latin1. */
  received(): string
  closed(): boolean
  /** Whether what came matches within the time, whatever becomes of the connection. */
  receives(pattern: RegExp, timeoutMs?: number): Promise<boolean>
  /** Whether it is closed within the time. */
  closes(timeoutMs?: number): Promise<boolean>
}

/** Connects to a port of 127.0.0.1 and says this. */
export function openConnection(port: number, begin: string): Connection {
  const socket = connect(port, '127.0.0.1')
  const chunks: Buffer[] = []
  let closed = false
  socket.on('error', () => undefined)
  socket.on('data', chunk => chunks.push(chunk))
  socket.on('close', () => {
    closed = true
  })
  socket.write(begin, 'latin1')
  const received = () => Buffer.concat(chunks).toString('latin1')
  return {
    socket,
    received,
    closed: () => closed,
    receives: (pattern, timeoutMs) => eventually(() => pattern.test(received()), timeoutMs),
    closes: timeoutMs => eventually(() => closed, timeoutMs),
  }
}

/** The head of a request with these lines; `Host` comes of itself. */
export function requestHead(line: string, headers: string[]): string {
  return [`${line} HTTP/1.1`, 'Host: localhost', ...headers, '', ''].join('\r\n')
}
