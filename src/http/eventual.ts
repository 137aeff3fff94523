/**
 * What is at hand or will be: waiting for what is there already costs a request more than its checks do. A function that
 * returns one may also throw at once.
 */
export type Eventual<T> = T | Promise<T>

/** Goes on with a value, at once if it is at hand. */
export function whenThere<T, U>(value: Eventual<T>, next: (value: T) => Eventual<U>): Eventual<U> {
  return value instanceof Promise ? value.then(next) : next(value)
}
