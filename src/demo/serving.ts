/** Something that listens and can be stopped. */
interface Stoppable {
  close(): Promise<unknown>
}

/** The number of a port, from the environment. Exits with 1 when it is not one. */
export function portFrom(variable: string, text: string | undefined, otherwise: number): number {
  const port = Number(text || otherwise)
  if (Number.isInteger(port) && port > 0 && port < 65536) return port
  return exitWith(`${variable} is not a port number (for example ${variable}=${otherwise}).`)
}

/**
 * Runs `start`. If that fails, says why (a taken port in one sentence) and exits with 1.
 *
 * @param ports which variable moves which port
 */
export async function startOrExit(what: string, ports: Record<number, string>, start: () => Promise<unknown>) {
  try {
    await start()
  } catch (fault) {
    const port = takenPort(fault)
    if (port === undefined) exitWith(`The ${what} cannot start.`, fault)
    exitWith(`Port ${port} is in use, the ${what} cannot start. Free it, or set ${ports[port]} to another port.`)
  }
}

function takenPort(fault: unknown): number | undefined {
  if (!(fault instanceof Error)) return undefined
  if ('code' in fault && fault.code === 'EADDRINUSE' && 'port' in fault) return Number(fault.port)
  return takenPort(fault.cause)
}

function exitWith(...words: unknown[]): never {
  console.error(...words)
  process.exit(1)
}

/** Closes everything on SIGINT or SIGTERM and exits with 0; a second signal does not wait. */
export function stopOnSignal(...parts: Stoppable[]): void {
  let stopping = false
  const stop = async (signal: string) => {
    if (stopping) process.exit(1)
    stopping = true
    console.log(`${signal}: stopping.`)
    const closed = await Promise.allSettled(parts.map(part => part.close()))
    process.exit(closed.some(({ status }) => status === 'rejected') ? 1 : 0)
  }
  process.on('SIGINT', stop)
  process.on('SIGTERM', stop)
}
