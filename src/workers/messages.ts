/** What workers leave to their primary: what is to be done once, or counted over all of them. */
export interface Shared {
  /** Something was put into the outbox under this id. */
  soon(id: string): void
  /** A session was opened that may be over sooner than its idle timeout, in so many milliseconds. */
  within(sessionId: string, inMs: number): void
  /** Counts once more against a limit: 0, or the milliseconds after which there is room again. */
  count(limit: string, key: string): Promise<number>
}

/** What the primary tells a worker. */
export type ToWorker =
  | { type: 'begin'; sealingKeys: string[] }
  | { type: 'look'; ask: number }
  | { type: 'counted'; ask: number; waitMs: number }
  | { type: 'stop' }

/** What a worker tells the primary. */
export type ToPrimary =
  /** What was sent before this has not been heard: the program was not yet loaded. */
  | { type: 'joined' }
  | { type: 'serving'; address: string }
  | { type: 'looked'; ask: number; able: boolean }
  | { type: 'soon'; id: string }
  | { type: 'within'; sessionId: string; inMs: number }
  | { type: 'count'; ask: number; limit: string; key: string }
  | { type: 'stopping' }
  | ({ type: 'failed' } & Failure)
  /** Nobody acts on it: once it is on its way, so is all before it. */
  | { type: 'done' }

/** Why a worker cannot do anything, in a sentence for the operator, and the exit code that says so. */
export interface Failure {
  message: string
  code: number
}
