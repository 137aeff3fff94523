/** Questions to another process that are under way. */
export interface Asks<T> {
  /** Sends a question with its number; what is not answered in time is taken to be `otherwise`. */
  ask(send: (ask: number) => void, otherwise: T): Promise<T>
  answer(ask: number, answer: T): void
}

const limitMs = 2000

export function createAsks<T>(): Asks<T> {
  const open = new Map<number, (answer: T) => void>()
  let last = 0
  return {
    ask: (send, otherwise) =>
      new Promise(resolve => {
        last += 1
        const ask = last
        const settle = (answer: T) => {
          clearTimeout(late)
          open.delete(ask)
          resolve(answer)
        }
        const late = setTimeout(settle, limitMs, otherwise)
        open.set(ask, settle)
        send(ask)
      }),
    answer: (ask, answer) => open.get(ask)?.(answer),
  }
}
