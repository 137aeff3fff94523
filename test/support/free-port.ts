import { createServer } from 'node:net'

/**
 * Below what a kernel gives to those who leave the choice to it (32768 on): in the seconds until a port is used, nobody
 * can come by it by chance. Above what fetch and browsers refuse to call (10080 is the last, Fetch Standard §2.9).
 */
const [lowest, end] = [11_000, 32_000]

/** Test files that run side by side, one in each of tap's jobs, draw from slices of their own. */
const slices = 4
const size = (end - lowest) / slices
const slice = Number(process.env.TAP_JOB_ID ?? 0) % slices

let drawn = Math.floor(Math.random() * size)

/** A port that was free a moment ago; none comes twice. */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < size; tries += 1) {
    drawn = (drawn + 1) % size
    const port = lowest + slice * size + drawn
    if (await isFree(port)) return port
  }
  throw new Error('no port is free')
}

function isFree(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}
