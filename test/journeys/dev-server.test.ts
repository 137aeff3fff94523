import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Page, WebSocket } from 'playwright-core'
import { type Test, test } from 'tap'
import { createServer } from 'vite'
import { launchChromium } from '../support/chromium.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { startStage } from '../support/stage.ts'

test('a developer works on the SPA through the gateway', { timeout: 90_000 }, async t => {
  const vite = await startVite(t)
  const { gateway, provider, upstream } = await startStage(t, { memory: true, env: { SPA_URL: vite.url } })
  const chromium = await launchChromium()
  t.teardown(() => chromium.close())
  const page = await chromium.newPage()
  page.setDefaultTimeout(15_000)
  const complaints = complaintsOf(page)
  const sockets: WebSocket[] = []
  const connected = new Set<WebSocket | undefined>()
  page.on('websocket', socket => {
    sockets.push(socket)
    socket.on('framereceived', ({ payload }) => {
      if (String(payload).includes('"connected"')) connected.add(socket)
    })
  })

  await t.test('the page comes from the dev server, and logs in', async t => {
    await page.goto(gateway.url)
    await shows(page, 'user', 'nobody')
    await shows(page, 'greeting', 'first greeting')
    await page.click('#sign-in')
    await page.fill('input[name=login]', 'dora')
    await page.click('button')
    await shows(page, 'user', 'dora')
    t.equal(page.url(), `${gateway.url}/shelf/7`, 'the dev server has the page for a path of the SPA')
  })

  await t.test('its calls reach the API with a token', async t => {
    await shows(page, 'items', '200')
    t.match(await page.textContent('#items'), '"/items"')
    const token = upstream.requests.at(-1)?.headers.authorization?.replace('Bearer ', '') ?? ''
    t.ok(provider.issued.accessTokens.has(token))
    t.equal(await page.evaluate('document.cookie'), '')
  })

  await t.test('a changed module is swapped in the open page, whose state stays', async t => {
    for (const _ of [1, 2]) await page.click('#count')
    await page.evaluate('window.sameDocument = true')
    t.ok(await eventually(() => connected.has(sockets.at(-1)), 15_000), 'the page listens for changes')
    vite.edit('greeting.js', 'first greeting', 'second greeting')
    await shows(page, 'greeting', 'second greeting')
    t.equal(await page.textContent('#count'), '2')
    t.equal(await page.evaluate('window.sameDocument'), true)
  })

  await t.test('a changed page is loaded again, and the user is still there', async t => {
    vite.edit('index.html', 'First heading', 'Second heading')
    await shows(page, 'heading', 'Second heading')
    await shows(page, 'user', 'dora')
    await shows(page, 'items', '200')
    t.equal(await page.evaluate('window.sameDocument'), undefined)
    t.equal(await page.textContent('#greeting'), 'second greeting')
  })

  await t.test('all of it went through the gateway, and no console complained', async t => {
    // Vite's client would go to its own server if the gateway did not let it through.
    t.same([...new Set(sockets.map(socket => new URL(socket.url()).host))], [new URL(gateway.url).host])
    const ofProvider = `(${provider.issuer}/`
    t.same(
      complaints.filter(complaint => !complaint.includes(ofProvider)),
      [],
    )
    const tokens = [...provider.issued.accessTokens, ...provider.issued.refreshTokens]
    t.ok(tokens.length > 0 && vite.seen.length > 0)
    t.same(
      vite.seen.filter(text => /__Host-/.test(text) || tokens.some(token => text.includes(token))),
      [],
      'the dev server saw neither cookie nor token',
    )
  })
})

/** A Vite dev server on a copy of the fixture, which may be edited. */
async function startVite(t: Test) {
  const root = t.testdir({ cache: {}, app: {} })
  const app = join(root, 'app')
  cpSync(join(process.cwd(), 'test/fixtures/spa'), app, { recursive: true })
  const port = await freePort()
  const seen: string[] = []
  const server = await createServer({
    configFile: false,
    root: app,
    cacheDir: join(root, 'cache'),
    appType: 'spa',
    logLevel: 'error',
    optimizeDeps: { noDiscovery: true },
    server: { host: '127.0.0.1', port, strictPort: true },
  })
  server.httpServer?.prependListener('request', request => seen.push(request.rawHeaders.join('\n')))
  server.httpServer?.prependListener('upgrade', request => seen.push(request.rawHeaders.join('\n')))
  await server.listen()
  t.teardown(() => server.close())
  return {
    url: `http://127.0.0.1:${port}`,
    /** The headers of every request and upgrade. */
    seen,
    edit(name: string, from: string, to: string) {
      const file = join(app, name)
      writeFileSync(file, readFileSync(file, 'utf8').replace(from, to))
    },
  }
}

async function shows(page: Page, id: string, text: string): Promise<void> {
  await page.waitForFunction(`document.getElementById('${id}')?.textContent?.startsWith('${text}')`)
}

/** Errors and warnings of the page, as they come. */
function complaintsOf(page: Page): string[] {
  const complaints: string[] = []
  page.on('console', message => {
    if (['error', 'warning'].includes(message.type())) complaints.push(`${message.text()} (${message.location().url})`)
  })
  page.on('pageerror', error => complaints.push(String(error)))
  return complaints
}
