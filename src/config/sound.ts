/** A rule wanted to read a setting that has a fault of its own. */
class Unsound extends Error {}

/** The values as they are; to read one of those that are not sound ends the rule that does. */
export function soundPart<Values extends object>(values: Values, unsound: ReadonlySet<string>): Values {
  if (unsound.size === 0) return values
  return new Proxy(values, {
    get(target, name, receiver) {
      if (typeof name === 'string' && unsound.has(name)) throw new Unsound(name)
      return Reflect.get(target, name, receiver)
    },
  })
}

/** What a rule finds; nothing when it cannot be judged before a setting is mended. */
export function judged<Finding>(rule: () => readonly Finding[]): readonly Finding[] {
  try {
    return rule()
  } catch (error) {
    if (error instanceof Unsound) return []
    throw error
  }
}
