import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { test } from 'tap'

const source = join(process.cwd(), 'src')

/** Which floor may stand on which: arrows go down, never up, never between the two outside worlds. */
const floors: Record<string, readonly string[]> = {
  'main.ts': ['app.ts', 'config', 'workers'],
  'app.ts': ['config', 'http', 'parts.ts', 'upstreams.ts', 'workers', 'store', 'oidc', 'core'],
  'upstreams.ts': ['config', 'http', 'flows', 'store', 'core'],
  'parts.ts': ['config', 'flows', 'store', 'oidc', 'core'],
  workers: ['workers', 'core'],
  http: ['http', 'flows', 'store', 'core'],
  flows: ['flows', 'store', 'oidc', 'core'],
  store: ['store', 'core'],
  oidc: ['oidc', 'core'],
  config: ['config', 'core'],
  core: ['core'],
  demo: ['demo', 'app.ts', 'config'],
}

/** Which packages may be seen from where. */
const packages: Record<string, readonly string[]> = {
  fastify: ['http', 'app.ts', 'demo'],
  ioredis: ['store', 'app.ts'],
  'openid-client': ['oidc', 'app.ts'],
  jose: ['oidc', 'app.ts', 'demo'],
}

const files = readdirSync(source, { recursive: true, encoding: 'utf8' }).filter(file => file.endsWith('.ts'))
const room = (file: string) => file.split('/')[0] ?? ''
const importsOf = (file: string) =>
  [
    ...readFileSync(join(source, file), 'utf8').matchAll(/^(?:import|export) [^;]*?from '([^']+)'|^import '([^']+)'/gm),
  ].map(match => match[1] ?? match[2] ?? '')

test('imports go down the floors of the house, never up or sideways', async t => {
  for (const file of files) {
    for (const target of importsOf(file).filter(name => name.startsWith('.'))) {
      const to = room(relative(source, join(source, dirname(file), target)))
      t.ok(floors[room(file)]?.includes(to), `${file} may import ${to}`)
    }
  }
  t.ok(files.length > 20, 'the house was found')
})

test('each outside world is seen from its own rooms alone', async t => {
  for (const file of files) {
    for (const name of importsOf(file)) {
      const allowed = packages[name]
      if (allowed !== undefined) t.ok(allowed.includes(room(file)), `${file} may import ${name}`)
    }
  }
})

test('the nouns of core import nothing but node:crypto and each other', async t => {
  for (const file of files.filter(name => room(name) === 'core')) {
    for (const name of importsOf(file)) t.ok(name.startsWith('./') || name === 'node:crypto', `${file} imports ${name}`)
  }
})

test('only the entry points read the environment, and only the clock reads the time', async t => {
  const entries = ['main.ts', 'demo/main.ts', 'demo/serve-provider.ts', 'demo/serve-api.ts']
  for (const file of files) {
    const text = readFileSync(join(source, file), 'utf8')
    if (!entries.includes(file))
      t.notMatch(text, /\bprocess\.env\b(?!`)|\{ env \} = process/, `${file} and the environment`)
    if (room(file) !== 'demo' && file !== 'core/clock.ts') t.notMatch(text, /Date\.now\(/, `${file} and the time`)
  }
})
