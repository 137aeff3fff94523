/**
 * What is at hand or will be: waiting for what is there already costs a request more than its checks do. A function that
 * returns one may also throw at once.
 */
export type Soon<T> = T | Promise<T>

/** Goes on with a value, at once if it is at hand. */
export function whenThere<T, U>(value: Soon<T>, next: (value: T) => Soon<U>): Soon<U> {
  return value instanceof Promise ? value.then(next) : next(value)
}
