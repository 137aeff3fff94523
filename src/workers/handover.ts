import type { Worker } from 'node:cluster'

/** Connections that were sent to a worker which has not yet said that it has them. */
export interface Handover {
  /** Of a worker that is gone: they go to another one, or are closed when there is none. */
  recover(anotherOne: boolean): void
}

/**
 * Node's primary keeps a connection until a worker says whether it takes it. From one that dies in between it waits for
 * ever for that word (`RoundRobinHandle.handoff` in its lib/internal/cluster), and so does the client: here the word is
 * given in the dead worker's place. The messages are Node's own and nowhere promised; should they change, none is found
 * here, and things are as they were.
 */
export function watchHandover({ process: child }: Worker): Handover {
  const open = new Set<number>()
  const { send } = child
  child.send = (...parameters: unknown[]) => {
    const { act, seq } = parameters[0] as { act?: string; seq?: number }
    if (act === 'newconn' && seq !== undefined) open.add(seq)
    return Reflect.apply(send, child, parameters) as boolean
  }
  child.on('internalMessage', ({ ack }: { ack?: number }) => {
    if (ack !== undefined) open.delete(ack)
  })
  return {
    recover(anotherOne) {
      for (const ack of open) child.emit('internalMessage', { cmd: 'NODE_CLUSTER', ack, accepted: !anotherOne })
    },
  }
}
