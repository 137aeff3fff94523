import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { BrowserContext, Page, Response } from 'playwright-core'
import { type Test, test } from 'tap'
import { launchChromium } from './support/chromium.ts'
import { freePort } from './support/free-port.ts'
import { withoutHint } from './support/logout-hint.ts'

const main = fileURLToPath(new URL('../src/demo/main.js', import.meta.url))
const sessionCookie = '__Host-coatcheck'
const portVariables = ['PORT', 'ADMIN_PORT', 'DEMO_API_PORT', 'DEMO_PROVIDER_PORT'] as const
const waitMs = 25_000

test('the demo lets a person see that the browser holds no token', { timeout: 110_000 }, async t => {
  const demo = await startDemo(t)
  const { url, user } = demo
  const browser = await launchChromium()
  t.teardown(() => browser.close())
  const seen = createWitness()
  const open = async () => {
    const context = await browser.newContext()
    context.setDefaultTimeout(waitMs)
    seen.watch(context)
    return context
  }
  const context = await open()
  const page = await context.newPage()
  let ticket = ''

  await t.test('a user signs in with one round trip to the provider, although the cookie is Strict', async t => {
    await page.goto(url)
    await page.getByTestId('sign-in').click()
    await page.getByLabel('Password').waitFor()
    t.equal(new URL(page.url()).host, `127.0.0.1:${demo.ports.DEMO_PROVIDER_PORT}`, 'the provider is another site')
    await fillIn(page, user)
    await page.getByTestId('sign-out').waitFor()
    t.equal(await page.getByTestId('user-name').textContent(), 'Dana Demo')
    t.equal(page.url(), `${url}/`)

    const visits = await seen.visits()
    const ways = visits.map(({ way }) => way)
    for (const way of ['GET /bff/login', 'GET /auth', 'GET /bff/callback'])
      t.equal(ways.filter(name => name === way).length, 1, `one ${way}`)
    const [first, landing] = visits.filter(({ way }) => way === 'GET /')
    t.ok(first && landing, 'the page was loaded twice')
    t.notMatch(landing?.cookies, `${sessionCookie}=`, 'the redirect from the other site brought no cookie')
    t.match(visits.filter(({ way }) => way === 'GET /bff/user').at(-1)?.cookies, `${sessionCookie}=`)

    const cookies = await context.cookies(url)
    const [cookie] = cookies
    t.same(
      cookies.map(({ name }) => name),
      [sessionCookie],
      'the binding cookie of the login is gone',
    )
    t.match(cookie, { httpOnly: true, secure: true, sameSite: 'Strict', domain: 'localhost', path: '/', expires: -1 })
    ticket = cookie?.value ?? ''
    t.ok(seen.cookieValues.has(ticket) && ticket.length >= 32, 'the watch over the answers saw the cookie come')
  })

  await t.test('the page calls the API and adds an item', async t => {
    const status = page.getByTestId('api-status')
    const result = page.getByTestId('api-result')
    await page.getByTestId('call-api').click()
    await status.getByText('200', { exact: true }).waitFor()
    t.match(JSON.parse((await result.textContent()) ?? ''), { items: [{ id: 1 }, { id: 2 }, { id: 3 }] })

    const added = { name: 'Tweed jacket', addedBy: 'user-1001' }
    await page.getByLabel('Something to hang up').fill(added.name)
    await page.getByTestId('add-item').getByRole('button').click()
    await status.getByText('201', { exact: true }).waitFor()
    t.match(JSON.parse((await result.textContent()) ?? ''), added)
    await page.getByTestId('call-api').click()
    await status.getByText('200', { exact: true }).waitFor()
    t.match(JSON.parse((await result.textContent()) ?? '').items.at(-1), added)

    await page.getByTestId('look-again').click()
    t.equal(await page.getByTestId('verdict').textContent(), 'No token within reach of script.')
    t.same(await withinReach(page), { cookie: '', local: [], session: [] })
  })

  await t.test('a second tab is signed in too, and signing out ends both and what the cookie was worth', async t => {
    const tab = await context.newPage()
    await tab.goto(url)
    await tab.getByTestId('sign-out').waitFor()
    for (const path of ['/bff/user', '/api/items']) t.equal(await replay(url + path, ticket), 200, `before: ${path}`)

    await page.getByTestId('sign-out').click()
    await page.getByTestId('sign-in').waitFor()
    t.equal(page.url(), `${url}/`)
    await tab.reload()
    await tab.getByTestId('sign-in').waitFor()
    t.same(await context.cookies(url), [])
    for (const path of ['/bff/user', '/api/items']) t.equal(await replay(url + path, ticket), 401, `after: ${path}`)
  })

  await t.test('a wrong password is told, and a deep link survives the login', async t => {
    const visitor = await (await open()).newPage()
    const deepLink = `${url}/coats/7?shelf=a%20b&sort=colour#row-3`
    await visitor.goto(deepLink)
    await visitor.getByTestId('sign-in').click()
    await fillIn(visitor, { ...user, password: 'wrong' })
    t.match(await visitor.getByRole('alert').textContent(), 'do not match')
    await fillIn(visitor, user)
    await visitor.getByTestId('sign-out').waitFor()
    t.equal(visitor.url(), deepLink)
  })

  await t.test('nothing that reached the browser holds a token or the cookie, and no console complains', async t => {
    const visits = await seen.visits()
    const told = visits.filter(({ way }) => /^\w+ \/(bff\/user|api\/items)$/.test(way))
    // The body of an answer to a page that is left at once is out of reach.
    t.ok(told.filter(({ body }) => body !== '').length >= 10, 'what scripts were told was seen')
    t.same(
      visits.flatMap(({ way, text }) => secretsIn(text, seen.cookieValues).map(secret => `${way}: ${secret}`)),
      [],
    )
    const expected = /status of 401 .*(\/interaction\/|\/bff\/user\?slide=false|\/bff\/events)/
    const others = seen.complaints.filter(complaint => !expected.test(complaint))
    t.same(others, [], 'a wrong password and a session that ended in another tab are all that a console told')
  })

  await t.test('what it printed tells each way, and no token, cookie or code', async t => {
    await demo.stop()
    const printed = demo.output()
    for (const [request, way] of [
      ['GET /', 'no cookie → page 200'],
      ['GET /bff/login', 'no cookie → off to the provider 302'],
      ['GET /auth', 'demo provider: browser asks for a login 303'],
      ['POST /token', 'demo provider: gateway trades the code for tokens 200'],
      ['GET /bff/callback', 'no cookie → code traded for tokens, ticket handed out 303'],
      ['GET /bff/user', 'cookie in → tells who is signed in, no token 200'],
      ['GET /api/items', 'cookie in → token out → demo API 200'],
      ['POST /api/items', 'cookie in → token out → demo API 201'],
      ['GET /bff/logout', 'cookie in → ticket torn up, on to the provider 302'],
      ['POST /token/revocation', 'demo provider: gateway revokes the refresh token 200'],
      ['GET /api/items', 'cookie in → gateway 401'],
    ] as const)
      t.ok(
        linesOf(printed, request).some(line => line.includes(` ${way} (`)),
        `${request}: ${way}`,
      )
    t.ok(seen.codes.size === 2 && seen.cookieValues.size === 4, 'there were secrets to look for')
    t.same(secretsIn(printed, [...seen.cookieValues, ...seen.codes]), [])
  })
})

test('a port in use is named, with the variable that moves it, and ends the demo with code 1', async t => {
  const holder = createServer().listen(0, '127.0.0.1')
  await once(holder, 'listening')
  t.teardown(() => holder.close())
  const { port } = holder.address() as { port: number }
  await Promise.all(
    portVariables.map(async variable => {
      const demo = run(t, { ...(await freePorts()), [variable]: port })
      t.equal(await demo.exitCode(), 1, variable)
      t.match(demo.output(), new RegExp(`Port ${port} is in use.* set ${variable} to another port`))
    }),
  )
})

type Ports = Record<(typeof portVariables)[number], number>

interface User {
  name: string
  password: string
}

async function freePorts(): Promise<Ports> {
  const [PORT, ADMIN_PORT, DEMO_API_PORT, DEMO_PROVIDER_PORT] = await Promise.all([
    freePort(),
    freePort(),
    freePort(),
    freePort(),
  ])
  return { PORT, ADMIN_PORT, DEMO_API_PORT, DEMO_PROVIDER_PORT }
}

/** Runs the demo as `npm run demo` does; it ends with the test at the latest. */
function run(t: Test, ports: Ports) {
  const environment = Object.entries(ports).map(([name, port]) => [name, String(port)])
  const child: ChildProcess = spawn(process.execPath, [main], {
    env: { PATH: process.env.PATH, ...Object.fromEntries(environment) },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', text => {
      output += text
    })
  }
  const closed = once(child, 'close')
  return {
    output: () => output,
    running: () => child.exitCode === null && child.signalCode === null,
    kill: (signal: NodeJS.Signals) => child.kill(signal),
    /** Null when it does not end in time, or by a signal. */
    exitCode: async () => {
      await Promise.race([closed, pause(waitMs, undefined, { ref: false })])
      return child.exitCode
    },
  }
}

/** Starts the demo and reads from its banner where to go and who may sign in. */
async function startDemo(t: Test) {
  const ports = await freePorts()
  const demo = run(t, ports)
  const limit = Date.now() + 2 * waitMs
  while (demo.running() && Date.now() < limit && !demo.output().includes('Ctrl-C')) await pause(50)
  const [, url, name, password] = /Open +(\S+)\s+Sign in +user (\S+), password (\S+)/.exec(demo.output()) ?? []
  if (!url || !name || !password) throw new Error(`the demo did not say where to go:\n${demo.output()}`)
  t.equal(url, `http://localhost:${ports.PORT}`, 'the banner says where to go')
  return {
    url,
    ports,
    user: { name, password },
    output: demo.output,
    /** Ends it as Ctrl-C does. */
    stop: async () => {
      demo.kill('SIGINT')
      t.equal(await demo.exitCode(), 0, 'it ends with code 0 when told to')
    },
  }
}

async function fillIn(page: Page, { name, password }: User): Promise<void> {
  await page.getByLabel('User name or e-mail').fill(name)
  await page.getByLabel('Password').fill(password)
  await page.getByRole('button', { name: 'Sign in' }).click()
}

/** One answer that the browser got. */
interface Visit {
  /** Method and path. */
  way: string
  /** The cookies that went with the request. */
  cookies: string
  body: string
  /**
   * Everything that a page could get hold of: the address, the headers (`Set-Cookie` excepted) and the body. The ID token
   * that is shown to the provider at the logout is let pass there.
   */
  text: string
}

/** Keeps all that browsers are sent, and what their consoles say. */
function createWitness() {
  const answers: Promise<Visit>[] = []
  const complaints: string[] = []
  const cookieValues = new Set<string>()
  const codes = new Set<string>()

  const read = async (response: Response): Promise<Visit> => {
    const request = response.request()
    const address = new URL(response.url())
    // A redirect has no body, and that of a page which was left at once is out of reach.
    const [headers, body] = await Promise.all([response.headersArray(), bodyOf(response)])
    for (const { name, value } of headers) {
      const set = name.toLowerCase() === 'set-cookie' ? /^__Host-[^=]+=([^;]+)/.exec(value)?.[1] : undefined
      if (set) cookieValues.add(set)
    }
    const code = address.searchParams.get('code')
    if (code) codes.add(code)
    return {
      way: `${request.method()} ${address.pathname}`,
      cookies: (await request.allHeaders()).cookie ?? '',
      body,
      text: [
        address.href,
        ...headers.filter(({ name }) => name.toLowerCase() !== 'set-cookie').map(({ value }) => value),
        body,
      ]
        .map(withoutHint)
        .join('\n'),
    }
  }
  const watch = (context: BrowserContext) => {
    context.on('response', response => {
      const answer = read(response)
      answer.catch(() => {}) // What was under way when the browser closed is of no interest.
      answers.push(answer)
    })
    context.on('console', message => {
      if (['error', 'warning'].includes(message.type()))
        complaints.push(`${message.text()} (${message.location().url})`)
    })
    context.on('weberror', error => complaints.push(String(error.error())))
  }
  return { watch, visits: () => Promise.all(answers), complaints, cookieValues, codes }
}

/** All that script can read in this browser. */
function withinReach(page: Page): Promise<{ cookie: string; local: string[]; session: string[] }> {
  return page.evaluate(
    '({ cookie: document.cookie, local: Object.entries(localStorage), session: Object.entries(sessionStorage) })',
  )
}

/** Status of a script's request with a cookie that somebody kept. */
async function replay(url: string, ticket: string): Promise<number> {
  const response = await fetch(url, { headers: { cookie: `${sessionCookie}=${ticket}`, 'x-csrf': '1' } })
  await response.body?.cancel()
  return response.status
}

/** What a text holds of these secrets, and of anything shaped like a JWT. */
function secretsIn(text: string, secrets: Iterable<string>): string[] {
  return [...(text.match(/eyJ[\w-]{8,}\.[\w-]+/g) ?? []), ...[...secrets].filter(secret => text.includes(secret))]
}

function linesOf(printed: string, request: string): string[] {
  return printed.split('\n').filter(line => line.replace(/ +/g, ' ').startsWith(`${request} `))
}

/** The body of an answer; an event stream has none that ends. */
async function bodyOf(response: Response): Promise<string> {
  const endless = (response.headers()['content-type'] ?? '').startsWith('text/event-stream')
  return endless ? '' : response.text().catch(() => '')
}
