import { StoreUnavailable } from '../../core/errors.ts'

/** Every fault of Redis, whatever its kind, is one decision for the caller: no definite answer, try again. */
export async function answered<T>(command: Promise<unknown>): Promise<T> {
  try {
    return (await command) as T
  } catch (cause) {
    throw new StoreUnavailable({ detail: 'Redis did not answer the command', cause })
  }
}
