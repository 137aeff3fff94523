import { once } from 'node:events'
import { WebSocket } from 'ws'

/** Memory of a process, in bytes. */
export interface MemoryUse {
  /** Heap and buffers in use, after a garbage collection. */
  heldBytes: number
  residentBytes: number
}

/** Asks a process that was started with `--inspect` of its memory. */
export async function watchMemory(port: number): Promise<{ use(): Promise<MemoryUse>; close(): void }> {
  const targets = (await (await fetch(`http://127.0.0.1:${port}/json/list`)).json()) as {
    webSocketDebuggerUrl: string
  }[]
  const socket = new WebSocket(targets[0]?.webSocketDebuggerUrl ?? '')
  await once(socket, 'open')
  let last = 0
  const call = async (method: string, params: object = {}) => {
    last += 1
    const id = last
    socket.send(JSON.stringify({ id, method, params }))
    for (;;) {
      const [data] = await once(socket, 'message')
      const message = JSON.parse(String(data)) as { id?: number; result?: { result?: { value?: string } } }
      if (message.id === id) return message.result?.result?.value ?? ''
    }
  }
  return {
    async use() {
      // Twice: what the first lets go of may hold on to more.
      for (let turn = 0; turn < 2; turn += 1) await call('HeapProfiler.collectGarbage')
      const expression = 'JSON.stringify(process.memoryUsage())'
      const { heapUsed, external, rss } = JSON.parse(await call('Runtime.evaluate', { expression }))
      return { heldBytes: heapUsed + external, residentBytes: rss }
    },
    close: () => socket.close(),
  }
}
