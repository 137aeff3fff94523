import { readFileSync, statSync } from 'node:fs'
import { closest, distance } from 'fastest-levenshtein'
import { crossFaults } from './cross-faults.ts'
import { type Setting, settings, upstreamSettings } from './settings.ts'
import { soundPart } from './sound.ts'

/** The environment, as `process.env` has it. */
export type Environment = Readonly<Record<string, string | undefined>>

type CamelCase<S extends string> = S extends `${infer Head}_${infer Tail}`
  ? `${Lowercase<Head>}${Capitalize<CamelCase<Tail>>}`
  : Lowercase<S>

type Values<Declared extends Record<string, Setting<unknown>>> = {
  readonly [Name in keyof Declared & string as CamelCase<Name>]: Declared[Name] extends Setting<infer T> ? T : never
}

/** One upstream: `UPSTREAM_<NAME>_…`. */
export type Upstream = Values<typeof upstreamSettings> & { readonly name: string }

/** The whole configuration, typed by its declaration: `OIDC_CLIENT_ID` is `oidcClientId`. */
export type Config = Values<typeof settings> & {
  readonly upstreams: readonly Upstream[]
  readonly production: boolean
}

/** One thing wrong with the configuration. `problem` never repeats a value. */
export interface Fault {
  variable: string
  problem: string
  example?: string | undefined
}

/** Every fault of a configuration at once. */
export class ConfigError extends Error {
  readonly faults: readonly Fault[]

  constructor(faults: readonly Fault[]) {
    const lines = faults.map(
      ({ variable, problem, example }) =>
        `  ${variable} ${problem}${example === undefined ? '' : ` (for example ${variable}=${example})`}`,
    )
    super(['The configuration has faults:', ...lines].join('\n'))
    this.name = 'ConfigError'
    this.faults = faults
  }
}

/** Prefixes under which every variable must be known, so that a typing error is not silently ignored. */
const guardedPrefixes = ['OIDC_', 'SESSION_', 'UPSTREAM_']

/**
 * Reads the configuration from the environment.
 *
 * @throws {ConfigError} with all faults together
 */
export function loadConfig(environment: Environment): Config {
  const faults: Fault[] = []
  const names = upstreamNames(environment)
  const upstreams = names.map(name => {
    const rest = { name: name.toLowerCase() }
    return readAll(upstreamSettings, `UPSTREAM_${name}_`, rest, environment, faults)
  })
  const rest = { upstreams, production: environment.NODE_ENV === 'production' }
  const config: Config = readAll(settings, '', rest, environment, faults)
  faults.push(...unknownVariables(environment, names), ...crossFaults(config, environment))
  if (faults.length > 0) throw new ConfigError(faults)
  return config
}

/** `A_B_C` → `aBC`, as {@link CamelCase}. */
function camelCase(name: string): string {
  return name.toLowerCase().replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())
}

/** The values of all settings declared, beside the rest of what they are part of. */
function readAll<Declared extends Record<string, Setting<unknown>>, Rest extends object>(
  declared: Declared,
  prefix: string,
  rest: Rest,
  environment: Environment,
  faults: Fault[],
): Values<Declared> & Rest {
  const values = { ...rest } as Record<string, unknown>
  const unsound = new Set<string>()
  for (const [name, setting] of Object.entries(declared)) {
    const before = faults.length
    values[camelCase(name)] = read(prefix + name, setting, environment, faults)
    if (faults.length > before) unsound.add(camelCase(name))
  }
  return soundPart(values, unsound) as Values<Declared> & Rest
}

function read(variable: string, setting: Setting<unknown>, environment: Environment, faults: Fault[]): unknown {
  const fault = (problem: string) => {
    faults.push({ variable, problem, example: setting.example })
    return undefined
  }
  const given = setting.secret ? readSecret(variable, environment, fault) : environment[variable]
  const text = given || setting.default
  if (text === undefined || (text === '' && setting.required))
    return setting.required ? fault('is required') : undefined
  const result = setting.type.safeParse(text)
  if (!result.success) return fault(result.error.issues[0]?.message ?? 'is not valid')
  const file = environment[`${variable}_FILE`]
  // What is no file but a pipe can be read only once.
  return setting.reread && file && statSync(file).isFile() ? { file } : result.data
}

function readSecret(
  variable: string,
  environment: Environment,
  fault: (problem: string) => undefined,
): string | undefined {
  const file = environment[`${variable}_FILE`]
  if (!file) return environment[variable]
  if (environment[variable]) return fault(`is given twice: as itself and as ${variable}_FILE`)
  try {
    return readFileSync(file, 'utf8').replace(/\r?\n$/, '') || fault(`is empty in the file that ${variable}_FILE names`)
  } catch {
    return fault(`cannot be read from the file that ${variable}_FILE names`)
  }
}

/** The names between `UPSTREAM_` and a known suffix; a name may itself contain underscores. */
function upstreamNames(environment: Environment): string[] {
  const suffixes = Object.keys(upstreamSettings)
  const names = new Set<string>()
  for (const variable of Object.keys(environment)) {
    const suffix = suffixes.find(known => variable.startsWith('UPSTREAM_') && variable.endsWith(`_${known}`))
    const name = suffix === undefined ? '' : variable.slice('UPSTREAM_'.length, -suffix.length - 1)
    if (/^[A-Z0-9]+(_[A-Z0-9]+)*$/.test(name)) names.add(name)
  }
  return [...names].sort()
}

function unknownVariables(environment: Environment, names: readonly string[]): Fault[] {
  const known = new Set<string>()
  const add = (variable: string, setting: Setting<unknown>) => {
    known.add(variable)
    if (setting.secret) known.add(`${variable}_FILE`)
  }
  for (const [name, setting] of Object.entries(settings)) add(name, setting)
  for (const upstream of names) {
    for (const [name, setting] of Object.entries(upstreamSettings)) add(`UPSTREAM_${upstream}_${name}`, setting)
  }
  const candidates = [...known, ...Object.keys(upstreamSettings).map(name => `UPSTREAM_<NAME>_${name}`)]
  return Object.keys(environment)
    .filter(variable => guardedPrefixes.some(prefix => variable.startsWith(prefix)) && !known.has(variable))
    .map(variable => ({ variable, problem: `is not known${suggestion(variable, candidates)}` }))
}

function suggestion(variable: string, candidates: readonly string[]): string {
  const nearest = closest(variable, candidates)
  return distance(variable, nearest) <= Math.max(3, variable.length / 3) ? `; did you mean ${nearest}?` : ''
}
