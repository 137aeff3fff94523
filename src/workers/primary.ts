import cluster from 'node:cluster'
import { createAsks } from './asks.ts'
import type { Failure, Shared, ToPrimary, ToWorker } from './messages.ts'

/** What a worker sees of its primary. */
export interface Primary extends Shared {
  /** Those that all workers seal with. */
  readonly sealingKeys: Buffer[]
  /** Says that requests are taken, and from now on, when asked, whether they can be served: `look` rejects when not. */
  serving(address: string, look: () => Promise<void>): void
  /**
   * Calls back when this worker is to finish what it has in flight and end, also because the primary is gone. A primary
   * that goes while this worker is stopping was told to a second time, or killed: the process ends at once, as it would
   * without workers.
   */
  onStop(listener: () => void): void
  /** Says that no more requests are taken. */
  stopping(): void
  /** Resolves when the primary has been told why this worker is of no use. */
  failed(failure: Failure): Promise<void>
  /** Resolves when all that was said before is on its way. */
  done(): Promise<void>
}

/**
 * In a worker, its primary, once that has sent what a worker needs beside its environment; null in any other process.
 * Sealing keys come over the channel between the two: an argument is seen by everybody on the machine, and the
 * environment is inherited by whatever else is started and stays readable. The primary's keys are everybody's, so that a
 * worker that starts later seals like the others, whatever has become of the file that they were read from.
 */
export async function joinPrimary(): Promise<Primary | null> {
  const { worker } = cluster
  if (worker === undefined) return null
  const send = (message: ToPrimary) =>
    new Promise<void>(resolve => {
      // Whether it arrives or not: without a primary this process ends.
      if (worker.isConnected()) worker.send(message, undefined, () => resolve())
      else resolve()
    })
  const counts = createAsks<number>()
  let look = (): Promise<void> => Promise.reject(new Error('not yet serving'))
  let listener: (() => void) | undefined
  let [told, stopping] = [false, false]
  const stop = () => {
    told = true
    listener?.()
  }

  const sealingKeys = await new Promise<Buffer[]>(resolve => {
    worker.on('message', (message: ToWorker) => {
      if (message.type === 'begin') resolve(message.sealingKeys.map(key => Buffer.from(key, 'base64')))
      else if (message.type === 'counted') counts.answer(message.ask, message.waitMs)
      else if (message.type === 'stop') stop()
      else
        void look().then(
          () => send({ type: 'looked', ask: message.ask, able: true }),
          () => send({ type: 'looked', ask: message.ask, able: false }),
        )
    })
    void send({ type: 'joined' })
  })
  worker.once('disconnect', () => {
    if (stopping || listener === undefined) return
    // Node would end the process at once, with requests in flight.
    worker.exitedAfterDisconnect = true
    stop()
  })

  return {
    sealingKeys,
    serving(address, lookAtAll) {
      look = lookAtAll
      void send({ type: 'serving', address })
    },
    onStop(stopListener) {
      listener = stopListener
      if (told) stopListener()
    },
    stopping() {
      stopping = true
      void send({ type: 'stopping' })
    },
    failed: failure => send({ type: 'failed', ...failure }),
    done: () => send({ type: 'done' }),
    soon: id => void send({ type: 'soon', id }),
    within: (sessionId, inMs) => void send({ type: 'within', sessionId, inMs }),
    // A primary that does not answer hands out no new connections either: this holds up nobody's flood for long.
    count: (limit, key) => counts.ask(ask => void send({ type: 'count', ask, limit, key }), 0),
  }
}
