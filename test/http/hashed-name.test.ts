import { test } from 'tap'
import { carriesHash } from '../../src/http/hashed-name.ts'

test("a bundler's hash is recognised", async t => {
  const names = {
    'Vite, Rollup': ['index-BX3kZ1aQ.js', 'index-BX3kZ1aQ.css', 'logo-D_2x-kZ9.svg', 'vendor-B-x3kZ1a.js.map'],
    'webpack, Rspack, Parcel': [
      'main.3f2a9c1b.js',
      '787.1a2b3c4d.chunk.js',
      'logo.6ce24c58023cc2f8fd88fe9d219db6c6.svg',
      'main.3f2a9c1b.js.LICENSE.txt',
      '3f2a9c1b2d4e5f60718a.png',
    ],
    'Angular, esbuild': ['main-ABCDEF12.css', 'main-2HQ5ZQ7A.js', 'chunk-QWERTYUI.js', 'styles.ef46db3751d8e999.css'],
    'SvelteKit, Nuxt': ['start.DxK9_2ab.js', 'DxK9_2ab.js'],
  }
  for (const [bundler, files] of Object.entries(names))
    for (const name of files) t.ok(carriesHash(name), `${bundler}: ${name}`)
})

// A file that keeps its name and is called immutable stays in browsers for a year, whatever is put in its place.
test('words, versions, dates and sizes are no hash', async t => {
  const names = [
    ...['jquery-validation.js', 'font-awesome.css', 'app-settings.js', 'main.bundle.js', 'app.js', 'config.json'],
    ...['jquery-3.7.1.min.js', 'lib-v1.2.3.js', 'page-chapter1.js', 'theme-summer24.css', 'polyfills.es2015.js'],
    ...['report-20240131.csv', 'report-2024-01-31.csv', 'day-24-01-31.json', 'icon-512x512.png', 'logo-1024x768.png'],
    ...['Inter-SemiBold.woff2', 'Roboto-MediumItalic.woff2', 'fa-solid-900.woff2', 'iPhone4S.png', 'DSC23456.JPG'],
    ...['scan-CHAPTER2.pdf', 'logo-VERTICAL.svg', 'api.deadbeef.js', 'lib-Base64Js.js', 'SETTINGS.js'],
    ...['index.html', 'about-BX3kZ1aQ.html', 'noextension', 'BX3kZ1aQ', ''],
  ]
  for (const name of names) t.notOk(carriesHash(name), name)
})

test('a name of any length is looked at in no time', async t => {
  for (const piece of ['a', '-', '.', 'aA1-', '-0a.', '_'])
    for (const end of ['', '.js', '!']) {
      // Of the processor: other work on the machine counts for nothing.
      const started = process.cpuUsage()
      carriesHash(`${piece.repeat(16_000 / piece.length)}${end}`)
      t.ok(process.cpuUsage(started).user < 200_000, `${piece}…${end}`)
    }
})
