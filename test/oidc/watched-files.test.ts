import { mkdirSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { test } from 'tap'
import { ProviderUnavailable } from '../../src/core/errors.ts'
import { createWatchedFiles } from '../../src/oidc/watched-files.ts'
import { createSecretFiles } from '../support/client-keys.ts'
import { createClock } from '../support/clock.ts'

function setUp(names: string[], texts: string[]) {
  const files = createSecretFiles()
  for (const [index, name] of names.entries()) if (texts[index] !== undefined) files.write(name, texts[index])
  const clock = createClock()
  const warnings: object[] = []
  let parsed = 0
  const watched = createWatchedFiles({
    files: names.map(files.path),
    parse: read => {
      parsed += 1
      return read.includes('broken') ? { fault: 'is broken' } : { value: read.join('+') }
    },
    log: { warn: fields => void warnings.push(fields) },
    clock,
  })
  const later = () => {
    clock.advance(1000)
    return watched.get()
  }
  return { files, clock, warnings, watched, later, parsed: () => parsed }
}

test('a file that changes is read again, once a second at most, less one final newline', async t => {
  const { files, clock, watched, later, parsed } = setUp(['secret'], ['one\n\n'])
  t.equal(await watched.get(), 'one\n')
  files.write('secret', 'two\r\n')
  clock.advance(999)
  t.equal(await watched.get(), 'one\n')
  clock.advance(1)
  t.equal(await watched.get(), 'two')
  for (let second = 0; second < 5; second += 1) await later()
  t.equal(parsed(), 2, 'what is the same is not parsed again')
  files.write('secret', 'three')
  clock.advance(-3_600_000)
  t.equal(await watched.get(), 'three', 'also when the clock was set back')
  files.write('secret', 'four')
  await watched.look()
  t.equal(await watched.get(), 'four', 'and at once when asked to')
})

// A rotation that writes as many bytes within one tick of the file system's clock would go unseen by size and time.
test('a change that neither time nor size gives away is seen', async t => {
  const { files, watched, later } = setUp(['secret'], ['one'])
  utimesSync(files.path('secret'), 1, 1)
  t.equal(await watched.get(), 'one')
  files.write('secret', 'two')
  utimesSync(files.path('secret'), 1, 1)
  t.equal(await later(), 'two')
})

test('files are followed when Kubernetes swaps the link above them', async t => {
  const { files, watched, later, warnings } = setUp(['data/key', 'data/cert'], [])
  const version = (name: string, text: string) => {
    mkdirSync(files.path(name))
    for (const file of ['key', 'cert']) writeFileSync(files.path(`${name}/${file}`), text)
    symlinkSync(files.path(name), files.path('data.new'))
    renameSync(files.path('data.new'), files.path('data'))
  }
  await t.rejects(watched.get(), ProviderUnavailable, 'never sound so far')
  version('v1', 'one')
  t.equal(await later(), 'one+one')
  version('v2', 'two')
  rmSync(files.path('v1'), { recursive: true })
  t.equal(await later(), 'two+two')
  t.equal(warnings.length, 1)
})

test('what is missing, empty, too large or broken changes nothing, and is said once', async t => {
  const { files, later, warnings } = setUp(['key', 'cert'], ['one', 'a'])
  const breaks: (() => unknown)[] = [
    () => files.write('key', 'broken'),
    () => files.write('key', ''),
    () => files.write('key', '\n'),
    () => files.write('key', 'x'.repeat(65_537)),
    () => {},
    () => mkdirSync(files.path('key')),
  ]
  for (const [index, breakIt] of breaks.entries()) {
    rmSync(files.path('key'), { recursive: true, force: true })
    files.write('key', 'one')
    t.equal(await later(), 'one+a')
    rmSync(files.path('key'))
    breakIt()
    for (let second = 0; second < 3; second += 1) t.equal(await later(), 'one+a')
    t.equal(warnings.length, index + 1)
  }
  t.notMatch(JSON.stringify(warnings), /one|xxx/)
  rmSync(files.path('key'), { recursive: true })
  files.write('key', 'two')
  t.equal(await later(), 'two+a')
})
