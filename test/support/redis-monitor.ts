import { connect } from 'node:net'

/** What clients ask of Redis. */
export interface RedisMonitor {
  /** Each command as its words, so far. */
  commands: string[][]
  /** The clients that swept, by address, and how often. */
  sweeps: Map<string, number>
  stop(): void
}

/**
 * Watches the commands that clients send, on a connection of its own: ioredis's monitor falls over a busy server. What
 * scripts do inside is left out, and so is what gateways do without a request, at any time: sweeps, the outbox, flushes, and
 * looking whether a link is alive.
 */
export function monitorRedis(port: number): Promise<RedisMonitor> {
  return new Promise((resolve, reject) => {
    const commands: string[][] = []
    const sweeps = new Map<string, number>()
    const socket = connect(port, '127.0.0.1', () => socket.write('MONITOR\r\n'))
    let rest = ''
    socket.once('error', reject)
    socket.setEncoding('latin1').on('data', (data: string) => {
      const lines = (rest + data).split('\r\n')
      rest = lines.pop() ?? ''
      for (const line of lines) {
        if (line === '+OK') resolve({ commands, sweeps, stop: () => void socket.destroy() })
        else if (!line.includes(' lua] ')) {
          const words = wordsOf(line)
          const client = / \d+ ([^\]]+)\]/.exec(line)?.[1] ?? ''
          if (isSweep(words)) sweeps.set(client, (sweeps.get(client) ?? 0) + 1)
          if (!isBackground(words)) commands.push(words)
        }
      }
    })
  })
}

function wordsOf(line: string): string[] {
  return [...line.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map(([, word = '']) => word)
}

/** A script whose first argument after the channel is a number concerns a bucket, and no session that a request names. */
function isBackground([name, , , , , argument = '']: string[]): boolean {
  return name === 'ping' || (/^eval/i.test(name ?? '') && /^\d+$/.test(argument))
}

/** The one script whose first argument after the channel is so large a number of sessions. */
function isSweep([name, , , , , argument]: string[]): boolean {
  return /^eval/i.test(name ?? '') && argument === '200'
}
