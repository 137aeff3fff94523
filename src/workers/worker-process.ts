import cluster from 'node:cluster'
import { createAsks } from './asks.ts'
import { watchHandover } from './handover.ts'
import type { Failure, Shared, ToPrimary, ToWorker } from './messages.ts'

/** How a worker came to its end. */
export interface End {
  pid: number | undefined
  code: number | null
  signal: string | null
  /** A crash tells nothing of the next start; what a worker says does, or the code with which it gives up at its start. */
  failure: Failure | undefined
}

/** A worker, as its primary sees it. */
export interface WorkerProcess {
  readonly pid: number | undefined
  /** Whether it takes connections now. */
  takesRequests(): boolean
  /** Whether it can serve what it takes; false without an answer. */
  isAble(): Promise<boolean>
  stop(): void
  kill(): void
  /** Once it has ended: what it was sent and had not yet taken goes to another one, or is closed when there is none. */
  recover(anotherOne: boolean): void
  /** Resolves when it is gone and all that it said has been heard. */
  readonly ended: Promise<End>
}

/** What a worker is given. */
export interface WorkerDeps {
  sealingKeys: readonly Buffer[]
  shared: Shared
  /** Told once that it takes requests. */
  onServing: (address: string) => void
}

/** Starts the program once more, as a worker of this process. */
export function startWorker({ sealingKeys, shared, onServing }: WorkerDeps): WorkerProcess {
  const worker = cluster.fork()
  const handover = watchHandover(worker)
  const looks = createAsks<boolean>()
  const { pid } = worker.process
  let [serving, everServed, toldToStop] = [false, false, false]
  let failure: Failure | undefined

  const send = (message: ToWorker) => {
    // One that is gone by now is told nothing more, and that is no error.
    if (worker.isConnected()) worker.send(message, undefined, () => {})
  }

  worker.on('message', (message: ToPrimary) => {
    switch (message.type) {
      case 'joined':
        send({ type: 'begin', sealingKeys: sealingKeys.map(key => key.toString('base64')) })
        return toldToStop ? send({ type: 'stop' }) : undefined
      case 'serving':
        serving = true
        everServed = true
        return onServing(message.address)
      case 'stopping':
        serving = false
        return
      case 'failed':
        failure = message
        return
      case 'looked':
        return looks.answer(message.ask, message.able)
      case 'soon':
        return shared.soon(message.id)
      case 'within':
        return shared.within(message.sessionId, message.inMs)
      case 'count': {
        const { ask } = message
        return void shared.count(message.limit, message.key).then(waitMs => send({ type: 'counted', ask, waitMs }))
      }
    }
  })
  const ended = new Promise<End>(resolve => {
    const end = (code: number | null, signal: string | null) => {
      serving = false
      resolve({ pid, code, signal, failure: failure ?? (everServed ? undefined : failureOf(code)) })
    }
    // Unlike `exit` this comes after its last message.
    worker.process.once('close', end)
    worker.process.once('exit', () => {
      serving = false
    })
    worker.on('error', () => {
      // It never was a process.
      if (pid === undefined) end(null, null)
    })
  })

  return {
    pid,
    takesRequests: () => serving,
    isAble: () => looks.ask(ask => send({ type: 'look', ask }), false),
    stop() {
      toldToStop = true
      send({ type: 'stop' })
    },
    recover: handover.recover,
    kill: () => void worker.process.kill('SIGKILL'),
    ended,
  }
}

function failureOf(code: number | null): Failure | undefined {
  return code === null || code === 0 ? undefined : { message: `A worker ended at its start with code ${code}.`, code }
}
