import cluster from 'node:cluster'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Elapsed } from '../core/clock.ts'
import type { Failure, Shared } from './messages.ts'
import { type End, startWorker, type WorkerProcess } from './worker-process.ts'

/** The processes that share the public port. */
export interface Workers {
  /**
   * Resolves when all take requests, and replaces from then on each that ends.
   *
   * @throws {WorkerFailed} when the first ones say why they cannot start; none is left then
   */
  start(options: WorkersStart): Promise<void>
  /** Rejects unless requests are taken, and whoever takes them can serve them. */
  ready(): Promise<void>
  /** Resolves when all have finished what they had in flight, and are gone. */
  stop(): Promise<void>
  /** Ends all at once, whatever they are at. */
  kill(): void
}

/** What workers are given, and where it is told what becomes of them. */
export interface WorkersStart {
  sealingKeys: readonly Buffer[]
  shared: Shared
  log: Record<'info' | 'error', (fields: object, message: string) => void>
}

/** Workers cannot start, for a reason that would be the same the next time. */
export class WorkerFailed extends Error {
  readonly code: number

  constructor({ message, code }: Failure) {
    super(message)
    this.name = 'WorkerFailed'
    this.code = code
  }
}

/** Who does not serve for so long may end like that again and again. */
const earlyMs = 5000
const [shortestRestMs, longestRestMs] = [100, 10_000]

/**
 * So many processes with the environment of this one. This one accepts the connections and hands them out in turn, so
 * that none waits at a worker that is gone, or is taken by one that has closed its door.
 */
export function createWorkers({ count, elapsed }: { count: number; elapsed: Elapsed }): Workers {
  cluster.schedulingPolicy = cluster.SCHED_RR
  const running = new Set<WorkerProcess>()
  let [started, stopping] = [false, false]

  const kill = () => {
    stopping = true
    for (const worker of running) worker.kill()
  }

  /** One worker from its start to its end. */
  const live = async ({ sealingKeys, shared }: WorkersStart, onServing: OnServing): Promise<End> => {
    const worker = startWorker({ sealingKeys, shared, onServing: address => onServing(worker, address) })
    running.add(worker)
    const end = await worker.ended
    running.delete(worker)
    worker.recover([...running].some(other => other.takesRequests()))
    return end
  }

  /** Keeps one worker running, one after the other; resolves with why the first could not start. */
  const keep = async (options: WorkersStart, onServing: OnServing): Promise<Failure | null> => {
    for (let early = 0; !stopping; ) {
      let servedAt = Number.POSITIVE_INFINITY
      const serving: OnServing = (worker, address) => {
        servedAt = elapsed()
        onServing(worker, address)
      }
      const { pid, code, signal, failure } = await live(options, serving).catch(neverWas)
      if (stopping) return null
      if (!started && failure !== undefined) return failure
      early = elapsed() - servedAt >= earlyMs ? 0 : early + 1
      const restMs = early === 0 ? 0 : Math.min(shortestRestMs * 2 ** (early - 1), longestRestMs)
      const fields = { worker: pid, code, signal, detail: failure?.message, restMs }
      // Code 0: somebody told it to stop, and it has finished what it had in flight.
      if (code === 0) options.log.info(fields, 'a worker was stopped and is replaced')
      else options.log.error(fields, 'a worker died and is replaced')
      await sleep(restMs, undefined, { ref: false })
    }
    return null
  }

  return {
    async start(options) {
      const { log } = options
      const first: string[] = []
      await new Promise<void>((resolve, reject) => {
        const onServing: OnServing = ({ pid }, address) => {
          if (started) return log.info({ worker: pid }, 'a worker takes requests')
          first.push(address)
          // One that dies meanwhile is counted when it comes again.
          if ([...running].filter(worker => worker.takesRequests()).length === count) resolve()
        }
        for (let index = 0; index < count; index += 1)
          void keep(options, onServing).then(failure => {
            if (started || failure === null) return
            kill()
            reject(new WorkerFailed(failure))
          })
      })
      started = true
      log.info({ workers: [...running].map(({ pid }) => pid) }, `Server listening at ${first[0]}`)
    },

    async ready() {
      const asked = [...running].filter(worker => worker.takesRequests())
      const able = await Promise.all(asked.map(worker => worker.isAble()))
      // Who has gone meanwhile is handed nothing more.
      const counted = able.filter((_, index) => asked[index]?.takesRequests())
      if (counted.length === 0 || counted.includes(false)) throw new Error('a worker cannot serve')
    },

    async stop() {
      stopping = true
      for (const worker of running) worker.stop()
      await Promise.all([...running].map(worker => worker.ended))
    },

    kill,
  }
}

type OnServing = (worker: WorkerProcess, address: string) => void

/** No memory or no process number is left for another process. */
function neverWas(error: Error): End {
  return {
    pid: undefined,
    code: null,
    signal: null,
    failure: { message: `A worker cannot start: ${error.message}`, code: 1 },
  }
}
