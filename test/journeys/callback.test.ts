import { type Test, test } from 'tap'
import type { BrowserResponse, TestBrowser } from '../support/browser.ts'
import { createRandom } from '../support/random.ts'
import {
  bindingPrefix,
  hopOf,
  linked,
  login,
  type Stage,
  sessionCookie,
  sessionCookiesSet,
  startStage,
} from '../support/stage.ts'

/** Runs an attack and proves that it opened nothing, ended nothing and led nowhere. */
async function opensNothing(
  t: Test,
  stage: Stage,
  attack: () => Promise<BrowserResponse>,
  { status = 400, tokenCalls = 0 } = {},
): Promise<BrowserResponse> {
  const before = { sessions: await stage.sessions(), tokenCalls: stage.provider.tokenCalls().length }
  const answer = await attack()
  t.equal(answer.status, status, 'the documented answer')
  t.strictSame(
    answer.rawSetCookie.filter(line => line.startsWith(`${sessionCookie}=`)),
    [],
    'no session cookie is set, none is cleared',
  )
  t.equal(answer.headers.location, undefined, 'no redirect')
  t.strictSame(await stage.sessions(), before.sessions, 'the sessions in Redis are those from before')
  t.equal(stage.provider.tokenCalls().length - before.tokenCalls, tokenCalls, 'calls of the token endpoint')
  return answer
}

/** The page of a failed callback: plain, without script, and on to a page of this site. */
function isPlainPage(t: Test, page: BrowserResponse): void {
  t.match(page.headers['content-type'], /^text\/html; charset=utf-8$/)
  t.match(page.headers['content-security-policy'], /default-src 'none'.*frame-ancestors 'none'/)
  t.notMatch(page.text, /<script|<img|<iframe|<link|\bon\w+=|https?:/i, 'nothing is loaded, run or linked to elsewhere')
  t.match(hopOf(page), /^\/bff\/login\/failed\?reason=\w+&reference=[a-z]{4}-[a-z]{4}$/, 'the hop stays on this site')
}

async function isAlive(t: Test, browser: TestBrowser, user: string): Promise<void> {
  const answer = await browser.api('/bff/user')
  t.equal(answer.status, 200, `the session of ${user} is untouched`)
  t.equal(answer.json<{ user: { sub: string } }>().user.sub, user)
}

const without = (callback: URL, name: string) => withParameter(callback, name, undefined)

function withParameter(callback: URL, name: string, value: string | undefined): URL {
  const url = new URL(callback)
  if (value === undefined) url.searchParams.delete(name)
  else url.searchParams.set(name, value)
  return url
}

test('a hostile callback', async t => {
  const stage = await startStage(t)
  const { gateway, provider, clock, redis } = stage
  const bystander = await stage.loggedIn('bystander')
  t.afterEach(async () => {
    const answer = await bystander.api('/bff/user')
    if (answer.status !== 200) throw new Error(`the session of a bystander is gone: ${answer.status} ${answer.text}`)
  })

  // Login CSRF: the attacker logs in, stops before the callback and lures the victim to it (RFC 9700 §4.7).
  t.test('opened in another browser than the one that began opens nothing and spends nothing', async t => {
    const attacker = stage.browser()
    const callback = await stage.pendingCallback(attacker, 'mallory')
    const bindingName = attacker.jar.list().find(({ name }) => name.startsWith(bindingPrefix))?.name ?? ''

    const empty = stage.browser()
    const page = await opensNothing(t, stage, () => stage.open(empty, callback))
    isPlainPage(t, page)
    const end = await empty.navigate(hopOf(page) ?? '', { from: gateway.url })
    t.equal(end.status, 200, 'without a session the hop ends at a page')
    t.match(end.text, /href="\/bff\/login"/, 'with a link to log in')
    t.equal(end.chain.length, 1, 'and nothing goes on by itself')

    const victim = await stage.loggedIn('victim')
    const refused = await opensNothing(t, stage, () => stage.open(victim, callback))
    const back = await victim.navigate(hopOf(refused) ?? '', { from: gateway.url, stopBefore: () => true })
    t.equal(back.status, 303, 'with a live session the hop goes on')
    t.equal(back.headers.location, '/')
    await isAlive(t, victim, 'victim')

    const busy = stage.browser()
    const own = await stage.pendingCallback(busy, 'busy')
    await opensNothing(t, stage, () => stage.open(busy, callback))
    busy.jar.set(bindingName, 'A'.repeat(43))
    await opensNothing(t, stage, () => stage.open(busy, callback))
    t.equal((await stage.open(busy, own)).status, 303, "the victim's own login goes on")

    const tossed = stage.browser()
    const genuine = attacker.jar.get(bindingName) ?? ''
    const twice = [`${bindingName}=${'A'.repeat(43)}; ${bindingName}=${genuine}`]
    await opensNothing(t, stage, () => tossed.get(callback.href, { cookies: twice }))

    t.equal((await stage.open(attacker, callback)).status, 303, 'the transaction was not spent by any of it')
  })

  // A code stolen from another login is put into the attacker's own callback (RFC 9700 §4.5).
  t.test('with the code of another login opens nothing, since the verifier is not the same', async t => {
    const [attacker, victim] = [stage.browser(), stage.browser()]
    const own = await stage.pendingCallback(attacker, 'mallory')
    const stolen = await stage.pendingCallback(victim, 'victim')
    const injected = withParameter(own, 'code', stolen.searchParams.get('code') ?? '')
    const page = await opensNothing(t, stage, () => stage.open(attacker, injected), { tokenCalls: 1 })
    isPlainPage(t, page)
    t.equal(attacker.jar.get(sessionCookie), undefined)
  })

  // A callback URL is found in a history or a log and opened again (RFC 9700 §4.2.4, RFC 6749 §4.1.2).
  t.test('replayed after its login opens nothing and leaves the session that it opened alone', async t => {
    const browser = stage.browser()
    const callback = await stage.pendingCallback(browser, 'repeat')
    const jarBefore = browser.jar.clone()
    t.equal((await stage.open(browser, callback)).status, 303)
    const page = await opensNothing(t, stage, () => stage.open(browser, callback))
    isPlainPage(t, page)
    t.match(page.text, /no longer valid/)
    const thief = stage.browser(jarBefore)
    await opensNothing(t, stage, () => stage.open(thief, callback))
    await isAlive(t, browser, 'repeat')
  })

  // Two replicas, or two clicks, race for one code; a double redemption makes the provider revoke everything.
  t.test('sent 50 times at once redeems its code once and opens one session', async t => {
    const browser = stage.browser()
    const callback = await stage.pendingCallback(browser, 'race')
    const sessions = await stage.sessions()
    const calls = provider.tokenCalls().length
    const binding = browser.jar.list().filter(({ name }) => name.startsWith(bindingPrefix))
    const cookies = [binding.map(({ name, value }) => `${name}=${value}`).join('; ')]
    const answers = await Promise.all(Array.from({ length: 50 }, () => browser.get(callback.href, { cookies })))
    t.equal(answers.filter(({ status }) => status === 303).length, 1)
    t.equal(answers.filter(({ status }) => status === 400).length, 49)
    t.equal(sessionCookiesSet(...answers).length, 1)
    t.equal(provider.tokenCalls().length - calls, 1, 'one call of the token endpoint')
    t.equal((await stage.sessions()).length - sessions.length, 1, 'one session')
    await isAlive(t, browser, 'race')
  })

  // A login left open in a tab is finished by somebody else later on (OWASP ASVS 10.1.2).
  t.test('after ten minutes is stale, and does not send the browser back to the provider by itself', async t => {
    const late = await stage.loggedIn('late')
    const callback = await stage.pendingCallback(late, 'late')
    const binding = late.jar.list().find(({ name }) => name.startsWith(bindingPrefix))
    clock.advance(600_000)
    const kept = { cookies: [`${binding?.name}=${binding?.value}`], headers: { Accept: 'text/html' } }
    await opensNothing(t, stage, () => stage.open(late, callback))
    const page = await opensNothing(t, stage, () => late.get(callback.href, kept))
    isPlainPage(t, page)
    const authorizations = provider.of('authorization').length
    await late.navigate(hopOf(page) ?? '', { from: gateway.url })
    t.equal(provider.of('authorization').length, authorizations, 'no new login began')
    await isAlive(t, late, 'late')

    const inTime = stage.browser()
    const young = await stage.pendingCallback(inTime, 'young')
    clock.advance(599_000)
    t.equal((await stage.open(inTime, young)).status, 303, 'just before it is still good')
  })

  // Parameter pollution: two parsers on the way read different values (RFC 6749 §3.1, OWASP ASVS 15.3.7).
  t.test('with a missing, empty, unknown or repeated parameter opens nothing', async t => {
    const repeated = (name: string, value?: string) => (callback: URL) => {
      const url = new URL(callback)
      url.searchParams.append(name, value ?? url.searchParams.get(name) ?? '')
      return url
    }
    const renamed = (name: string) => (callback: URL) => {
      const url = without(callback, name)
      url.searchParams.set(`${name}[]`, callback.searchParams.get(name) ?? '')
      return url
    }
    const attacks: Record<string, (callback: URL) => URL> = {
      'without a state': callback => without(callback, 'state'),
      'with an empty state': callback => withParameter(callback, 'state', ''),
      'with an unknown state': callback => withParameter(callback, 'state', 'B'.repeat(43)),
      'with a state cut short': callback =>
        withParameter(callback, 'state', callback.searchParams.get('state')?.slice(1)),
      'with a state that names a prototype': callback => withParameter(callback, 'state', '__proto__'),
      'with a state of 8 KB': callback => withParameter(callback, 'state', 'a'.repeat(8192)),
      'with the state twice': repeated('state'),
      'with another state in front': callback => new URL(callback.href.replace('?', `?state=${'B'.repeat(43)}&`)),
      'without a code': callback => without(callback, 'code'),
      'with an empty code': callback => withParameter(callback, 'code', ''),
      'with two codes': repeated('code', 'b'),
      'with the code twice': repeated('code'),
      'with an array of codes': renamed('code'),
      'with an array of states': renamed('state'),
      'with the issuer twice': repeated('iss'),
      'with an unknown parameter twice': callback => repeated('x', '2')(withParameter(callback, 'x', '1')),
      'without any parameter': callback => new URL(callback.origin + callback.pathname),
      'in the fragment': callback => new URL(`${callback.origin}${callback.pathname}#${callback.searchParams}`),
      'separated by semicolons': callback => new URL(callback.href.replaceAll('&', ';')),
      'with an ID token of the implicit flow': callback => withParameter(callback, 'id_token', 'e30.e30.e30'),
      'with an access token of the implicit flow': callback => withParameter(callback, 'token', 'x'),
      'with a response as a JWT': callback => withParameter(callback, 'response', 'e30.e30.e30'),
    }
    const browser = await stage.loggedIn('polluted')
    for (const [name, attack] of Object.entries(attacks)) {
      await t.test(name, async t => {
        const callback = await stage.pendingCallback(browser, 'polluted')
        isPlainPage(t, await opensNothing(t, stage, () => stage.open(browser, attack(callback))))
      })
    }
    await isAlive(t, browser, 'polluted')
  })

  // Mix-up: another authorization server answers, to be sent the code (RFC 9207 §2.4, RFC 9700 §4.4).
  t.test('with another issuer, or none, opens nothing before any code is redeemed', async t => {
    const browser = await stage.loggedIn('mixed')
    const issuers: Record<string, string | undefined> = {
      missing: undefined,
      'of another provider': 'https://login.evil.test',
      'with a slash at the end': `${provider.issuer}/`,
      'in capitals': provider.issuer.toUpperCase(),
      'with another scheme': provider.issuer.replace('http:', 'https:'),
      'with a path': `${provider.issuer}/tenant`,
      'with a blank': `${provider.issuer} `,
      'under another name of the host': provider.issuer.replace('127.0.0.1', 'localhost'),
    }
    for (const [name, issuer] of Object.entries(issuers)) {
      await t.test(name, async t => {
        const callback = await stage.pendingCallback(browser, 'mixed')
        const bent = withParameter(callback, 'iss', issuer)
        const page = await opensNothing(t, stage, () => stage.open(browser, bent))
        isPlainPage(t, page)
        t.match(page.text, /could not be verified/)
      })
      await t.test(`${name}, in an error`, async t => {
        const callback = await stage.pendingCallback(browser, 'mixed', { prompt: 'none' })
        const bent = withParameter(without(callback, 'code'), 'error', 'login_required')
        const page = await opensNothing(t, stage, () => stage.open(browser, withParameter(bent, 'iss', issuer)))
        t.match(page.text, /could not be verified/, 'not taken for the answer to a silent login either')
      })
    }
    await isAlive(t, browser, 'mixed')
  })

  // The provider's error text is the attacker's: it is to be reflected as markup or as a header (RFC 6749 §4.1.2.1).
  t.test('with an error is spent, keeps the session and repeats nothing of the error', async t => {
    const errors: Record<string, string>[] = [
      { error: 'access_denied', error_description: '<script>alert(1)</script>\r\nX-Injected: y' },
      { error: '<script>alert(1)</script>\r\nX-Injected: y', error_uri: 'javascript:alert(1)' },
      { error: 'server_error', error_description: '"><img src=x onerror=alert(1)>' },
      { error: 'temporarily_unavailable', error_uri: stage.evil.url },
      { error: '__proto__', error_description: '\u2028\u001b[31m' },
    ]
    const browser = await stage.loggedIn('erring')
    for (const fields of errors) {
      const callback = await stage.pendingCallback(browser, 'erring')
      const url = Object.entries(fields).reduce((bent, [name, value]) => withParameter(bent, name, value), callback)
      // A redirect cannot be a 500 or 503, so these two errors stand for them: another try makes sense.
      const status = ['server_error', 'temporarily_unavailable'].includes(fields.error ?? '') ? 503 : 400
      const page = await opensNothing(t, stage, () => stage.open(browser, without(url, 'code')), { status })
      isPlainPage(t, page)
      t.notMatch(page.text, /alert|X-Injected|onerror/)
      t.equal(page.headers['x-injected'], undefined)
      await opensNothing(t, stage, () => stage.open(browser, callback))
    }
    const both = await stage.pendingCallback(browser, 'erring')
    await opensNothing(t, stage, () => stage.open(browser, withParameter(both, 'error', 'access_denied')))
    await isAlive(t, browser, 'erring')
    t.notMatch(gateway.log.join(''), /alert\(1\)|X-Injected/, 'nor does the log')
  })

  // The target is to be changed on the way back, past the check made when the login began (RFC 9700 §4.7.1).
  t.test('cannot change where the login leads', async t => {
    const browser = stage.browser()
    const callback = await stage.pendingCallback(browser, 'steady', { returnUrl: '/reports?month=5#sum' })
    for (const name of ['returnUrl', 'redirect', 'next', 'url']) callback.searchParams.set(name, stage.evil.url)
    const answer = await stage.open(browser, callback)
    t.equal(answer.status, 303)
    t.equal(answer.headers.location, '/reports?month=5#sum')

    const tampered = stage.browser()
    const other = await stage.pendingCallback(tampered, 'steady', { returnUrl: '/reports' })
    const cookie = tampered.jar.list().find(({ name }) => name.startsWith(bindingPrefix))
    const flipped = cookie?.value.replace(/^./, first => (first === 'A' ? 'B' : 'A')) ?? ''
    await opensNothing(t, stage, () => tampered.get(other.href, { cookies: [`${cookie?.name}=${flipped}`] }))
  })

  // A page or a mail loads the address as a picture, in a frame or ahead of time (OWASP ASVS 3.5.1, 7.6.2).
  t.test('that nobody navigated to is refused and spends nothing', async t => {
    const shapes: Record<string, Record<string, string>> = {
      'a frame': { 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'iframe' },
      'an old frame': { 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'frame' },
      'an embedded object': { 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'object' },
      'a picture': { 'Sec-Fetch-Mode': 'no-cors', 'Sec-Fetch-Dest': 'image' },
      'a script': { 'Sec-Fetch-Mode': 'no-cors', 'Sec-Fetch-Dest': 'script' },
      'a fetch': { 'Sec-Fetch-Mode': 'cors', 'Sec-Fetch-Dest': 'empty' },
      'a prefetch': { 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'document', 'Sec-Purpose': 'prefetch' },
      'a prerender': {
        'Sec-Fetch-Mode': 'navigate',
        'Sec-Fetch-Dest': 'document',
        'Sec-Purpose': 'prefetch;prerender',
      },
      'a prefetch of an older browser': { Purpose: 'prefetch' },
    }
    const browser = await stage.loggedIn('framed')
    for (const [name, headers] of Object.entries(shapes)) {
      const callback = await stage.pendingCallback(browser, 'framed')
      const answer = await opensNothing(t, stage, () => browser.get(callback.href, { headers }), { status: 403 })
      t.strictSame(answer.rawSetCookie, [], `${name} changes no cookie`)
      const keys = await redis.keys()
      const started = await browser.get('/bff/login', { headers })
      t.equal(started.status, 403, `${name} starts no login`)
      t.strictSame(started.rawSetCookie, [])
      t.strictSame(await redis.keys(), keys, 'nor does Redis know of one')
      t.equal((await stage.open(browser, callback)).status, 303, `after ${name} the person still gets in`)
    }
    const callback = await stage.pendingCallback(browser, 'framed')
    for (const method of ['HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
      const body = new URLSearchParams(callback.searchParams)
      const withBody = ['HEAD', 'OPTIONS'].includes(method) ? {} : { body }
      const answer = await opensNothing(t, stage, () => browser.request(callback.href, { method, ...withBody }), {
        status: 405,
      })
      t.equal(answer.headers.allow, 'GET', `${method} is not a way in`)
      t.strictSame(answer.rawSetCookie, [])
    }
    t.equal((await stage.open(browser, callback)).status, 303)
    await isAlive(t, browser, 'framed')
  })

  // The code is to leak through the Referer of what the callback's page loads or leads to (RFC 9700 §4.2.4, §4.12).
  t.test('and an honest one answer with nothing that passes their address on', async t => {
    const browser = stage.browser()
    const callback = await stage.pendingCallback(browser, 'clean')
    const good = await stage.open(browser, callback)
    const bad = await stage.open(browser, callback)
    t.equal(good.status, 303, 'a 303 turns every method into GET; a 307 would repeat a form')
    t.equal(good.text, '')
    t.equal(good.headers.location, '/')
    for (const answer of [good, bad]) {
      t.equal(answer.headers['cache-control'], 'no-store')
      t.equal(answer.headers['referrer-policy'], 'no-referrer')
      t.equal(answer.headers['x-content-type-options'], 'nosniff')
    }
    isPlainPage(t, bad)
  })

  // The page after a failed login is a page of this site: whatever is put into its address must not be shown on it.
  t.test('leads to a page that says only what the gateway has to say', async t => {
    const browser = stage.browser()
    const sentences = new Set<string | undefined>()
    for (const reason of [
      'stale',
      'denied',
      '',
      '__proto__',
      'constructor',
      '<script>alert(1)</script>',
      'x'.repeat(8192),
    ]) {
      const page = await browser.navigate(
        `/bff/login/failed?reason=${encodeURIComponent(reason)}&returnUrl=//evil.test`,
      )
      t.equal(page.status, 200)
      t.match(page.headers['content-security-policy'], /default-src 'none'.*frame-ancestors 'none'/)
      t.notMatch(page.text, /alert|evil|xxxx|function|http-equiv="refresh"/)
      t.strictSame(page.rawSetCookie, [])
      sentences.add(/<p>(.*)<\/p>/.exec(page.text)?.[1])
    }
    t.equal(sentences.size, 2, 'a sentence for each known reason, the same one for all others')
    const user = await stage.loggedIn('returned')
    const home = await user.navigate('/bff/login/failed?returnUrl=//evil.test', { stopBefore: () => true })
    t.equal(home.headers.location, '/')
  })

  // The provider is down just when the browser comes back: no loop, no session, and the one there was stays.
  t.test('whose code the provider cannot redeem is a 503 that says when to try again', async t => {
    const browser = await stage.loggedIn('unlucky')
    for (const answer of [{ status: 503, headers: { 'retry-after': '7' } }, 'reset' as const]) {
      const callback = await stage.pendingCallback(browser, 'unlucky')
      provider.respond('token', answer, { times: 1 })
      const page = await opensNothing(t, stage, () => stage.open(browser, callback), { status: 503, tokenCalls: 1 })
      isPlainPage(t, page)
      t.equal(page.headers['retry-after'], answer === 'reset' ? '5' : '7')
      await opensNothing(t, stage, () => stage.open(browser, callback))
    }
    await isAlive(t, browser, 'unlucky')
  })

  // Whatever a generator can think of: all subsets of parameters, each valid, empty, repeated or somebody else's.
  t.test('made up at random opens a session only when every parameter is right', async t => {
    const browser = stage.browser()
    const random = createRandom(20_261_123).next
    const finished = await stage.pendingCallback(browser, 'random')
    await stage.open(browser, finished)
    let [own, other] = [await stage.pendingCallback(browser, 'random'), await stage.pendingCallback(browser, 'random')]
    const names = ['code', 'state', 'iss', 'error', 'error_description', 'session_state', 'response', 'id_token']
    const required = ['code', 'state', 'iss']
    let opened = 0

    for (let round = 0; round < 200; round += 1) {
      // Mostly nearly right, or nothing would get past the first check; `own` leaves out what does not belong there.
      const kinds = names.map(() =>
        random() < 0.8 ? 'own' : pick(random, ['absent', 'empty', 'repeated', 'array', 'other', 'finished'] as const),
      )
      const kindOf = (name: string) => kinds[names.indexOf(name)]
      const valueIn = (source: URL, name: string) =>
        source.searchParams.get(name) ?? (name === 'error' ? 'access_denied' : 'e30.e30.e30')
      const pairs = names.flatMap((name, index): [string, string][] => {
        const own1 = valueIn(own, name)
        switch (required.includes(name) || kinds[index] !== 'own' ? kinds[index] : 'absent') {
          case 'own':
            return [[name, own1]]
          case 'empty':
            return [[name, '']]
          case 'repeated':
            return [
              [name, own1],
              [name, pick(random, [own1, valueIn(other, name), 'x'])],
            ]
          case 'array':
            return [[`${name}[]`, own1]]
          case 'other':
            return [[name, valueIn(other, name)]]
          case 'finished':
            return [[name, valueIn(finished, name)]]
          default:
            return []
        }
      })
      shuffle(random, pairs)
      const query = pairs.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&')
      const method = pick(random, ['GET', 'GET', 'GET', 'GET', 'GET', 'GET', 'POST', 'HEAD'])
      const before = { sessions: (await stage.sessions()).length, calls: provider.tokenCalls().length }
      const answer = await browser.request(`/bff/callback?${query}`, { method, headers: { Accept: 'text/html' } })

      const given = new Map(pairs)
      const once = new Set(pairs.map(([name]) => name)).size === pairs.length
      const together = [own, other].some(source =>
        required.every(name => given.get(name) === source.searchParams.get(name)),
      )
      const spoilers = ['error', 'response', 'id_token']
      const spoils = spoilers.some(name => given.get(name))
      const mayOpen = method === 'GET' && once && together && !spoils
      const mustOpen = mayOpen && !spoilers.some(name => given.has(name))
      const label = `round ${round}: ${method} with ${names.map(name => `${name} ${kindOf(name)}`).join(', ')}`
      if (answer.status === 303) opened += 1
      const news = (await stage.sessions()).length - before.sessions
      const calls = provider.tokenCalls().length - before.calls
      const sound =
        answer.status === 303
          ? mayOpen && calls === 1 && sessionCookiesSet(answer).length === 1
          : !mustOpen && answer.status === (method === 'GET' ? 400 : 405) && news === 0 && calls <= 1
      const free = sessionCookiesSet(answer).length === (answer.status === 303 ? 1 : 0) && (once || calls === 0)
      if (!sound || !free) t.fail(`${label}: ${answer.status}, ${news} sessions, ${calls} token calls`)

      const touched = pairs.filter(([name]) => name === 'state').map(([, value]) => value)
      if (touched.includes(own.searchParams.get('state') ?? '')) own = await stage.pendingCallback(browser, 'random')
      if (touched.includes(other.searchParams.get('state') ?? ''))
        other = await stage.pendingCallback(browser, 'random')
    }
    t.ok(opened > 20, `${opened} of 200 were right and opened a session`)
  })
})

test('a silent login that the provider refuses', async t => {
  const stage = await startStage(t)
  const { gateway, provider } = stage

  // A page tries again and again to log in silently; each try must end, leave nothing and not log anybody out.
  t.test(
    'ten times in a row ends at the return URL each time, without a loop and without a pile of cookies',
    async t => {
      const stranger = stage.browser()
      const user = await stage.loggedIn('alice')
      for (const { host, name } of user.jar.list()) if (host === '127.0.0.1') user.jar.delete(name, host)
      const cookie = user.jar.get(sessionCookie)
      const sessions = await stage.sessions()
      const calls = provider.tokenCalls().length
      for (const browser of [stranger, user]) {
        for (let round = 0; round < 10; round += 1) {
          const params = { prompt: 'none' }
          const end = await login(browser, gateway.url, provider, { returnUrl: '/welcome?silent=1', params })
          t.equal(new URL(end.url).pathname + new URL(end.url).search, '/welcome?silent=1')
          t.equal(end.chain.length, 4, 'login, provider, callback, page')
          t.strictSame(sessionCookiesSet(...end.chain), [])
          t.notOk(
            browser.jar.list().some(({ name }) => name.startsWith(bindingPrefix)),
            'no binding cookie is left',
          )
        }
      }
      t.equal(user.jar.get(sessionCookie), cookie)
      t.equal((await user.api('/bff/user')).status, 200, 'the session there was is kept')
      t.equal((await stranger.api('/bff/user')).status, 401)
      t.strictSame(await stage.sessions(), sessions)
      t.equal(provider.tokenCalls().length, calls)
      const transactions = (await stage.redis.keys()).filter(key => key.includes(':transaction:'))
      t.strictSame(transactions, [], 'no transaction is left')
    },
  )

  // Only a refusal is an answer: a fault must not pass for "nobody is logged in".
  t.test('with any other error is a failed login like every other', async t => {
    const browser = await stage.loggedIn('bob')
    for (const error of ['server_error', 'invalid_request', 'temporarily_unavailable', 'unauthorized_client']) {
      const callback = await stage.pendingCallback(browser, 'bob', { prompt: 'none' })
      const bent = withParameter(without(callback, 'code'), 'error', error)
      const status = ['server_error', 'temporarily_unavailable'].includes(error) ? 503 : 400
      await opensNothing(t, stage, () => stage.open(browser, bent), { status })
    }
    await isAlive(t, browser, 'bob')
  })
})

test('a callback without a store', async t => {
  const stage = await startStage(t, { redisDir: t.testdir() })
  const { gateway, provider, redis } = stage

  // An outage of Redis just when browsers come back: nobody gets in, nobody loses a session or a login under way.
  t.test('is a 503, and a reload after the outage gets in', async t => {
    const [browser, user] = [stage.browser(), await stage.loggedIn('alice')]
    const callback = await stage.pendingCallback(browser, 'patient')
    const calls = provider.tokenCalls().length
    await redis.down()
    const answers = [
      await stage.open(browser, callback),
      await browser.navigate('/bff/login'),
      await user.api('/bff/user'),
    ]
    for (const answer of answers) {
      t.equal(answer.status, 503)
      t.match(answer.headers['retry-after'], /^\d+$/)
      t.strictSame(answer.rawSetCookie, [], 'no cookie is set or cleared')
    }
    t.equal(provider.tokenCalls().length, calls, 'no code was redeemed')
    await redis.restart()
    await linked(gateway)
    t.equal((await stage.open(browser, callback)).status, 303)
    await isAlive(t, browser, 'patient')
    await isAlive(t, user, 'alice')
  })
})

function pick<T>(random: () => number, from: readonly [T, ...T[]]): T {
  return from[Math.floor(random() * from.length)] ?? from[0]
}

function shuffle<T>(random: () => number, list: T[]): void {
  list.sort(() => random() - 0.5)
}
