import { readFileSync } from 'node:fs'
import { test } from 'tap'
import { settingsTable } from '../../src/config/readme-table.ts'
import type { Advice } from '../../src/core/advice.ts'
import { ProviderUnavailable } from '../../src/core/errors.ts'
import type { AuditEvent } from '../../src/core/events.ts'
import { createRepeats } from '../../src/http/repeats.ts'
import { advice } from '../../src/oidc/advice.ts'
import { discoveryAdvice } from '../../src/oidc/discovery-advice.ts'
import { createDocumentReport } from '../../src/oidc/document-report.ts'
import { idTokenAdvice, networkAdvice, readAdvice } from '../../src/oidc/read-advice.ts'
import { classifyRefusal } from '../../src/oidc/refusals.ts'
import { createClock } from '../support/clock.ts'
import { callbackErrors, errors } from '../support/entra.ts'

const tells = ({ cause, mend }: Advice) => cause !== undefined && cause.length > 10 && mend !== undefined && mend !== ''

/** What Entra ID's documentation and its users name as the faults of a web application. */
const numbers = [
  9002325, 9002326, 9002327, 700025, 7000218, 7000215, 7000222, 700027, 50027, 700016, 700005, 28000, 90009, 901002,
  9010010, 650053, 65001, 65004, 90094, 90095, 50011, 50105, 50076, 50079, 50074, 50078, 53003, 50173, 700082, 700084,
  70043, 50196, 54005, 90015, 70011, 50057, 70000, 70008, 16000, 500011, 90033, 90006, 90024, 50033, 50087, 90012,
  90055, 90090, 700022, 50058, 90002,
]

const standardErrors = [
  // RFC 6749 §4.1.2.1 and §5.2
  'invalid_request',
  'unauthorized_client',
  'access_denied',
  'unsupported_response_type',
  'invalid_scope',
  'server_error',
  'temporarily_unavailable',
  'invalid_client',
  'invalid_grant',
  'unsupported_grant_type',
  // OpenID Connect Core §3.1.2.6
  'interaction_required',
  'login_required',
  'account_selection_required',
  'consent_required',
  'invalid_request_uri',
  'invalid_request_object',
  'request_not_supported',
  'request_uri_not_supported',
  'registration_not_supported',
  // RFC 8707 §2
  'invalid_target',
]

test('each standard error code has a cause and a mend, wherever it is told', t => {
  for (const place of ['authorization', 'code', 'refresh'] as const)
    for (const error of standardErrors) t.ok(tells(readAdvice({ error }, place)), `${error} at ${place}`)
  t.end()
})

test("each of Entra's numbers has a cause and a mend, as a number and at the head of a description", t => {
  for (const number of numbers) {
    const error_description = `AADSTS${number}: Some text.\r\nTrace ID: x`
    const [byNumber, byText] = [{ error_codes: [number] }, { error_description }].map(answer =>
      readAdvice({ error: 'something_new', ...answer }, 'code'),
    )
    t.ok(byNumber && tells(byNumber), `AADSTS${number}`)
    t.equal(byNumber?.providerCode, `AADSTS${number}`)
    t.strictSame(byText, byNumber)
  }
  t.match(readAdvice({ error_codes: [9002327] }, 'code'), {
    cause: 'the redirect URI is registered as a single-page application; register it as Web',
  })
  t.end()
})

test('every error that the emulator of Entra knows can be acted on', t => {
  const { slow: _, throttledHtml: _page, unavailableHtml: _other, ...said } = errors
  for (const [name, make] of Object.entries(said)) {
    const read = readAdvice(make().body, 'refresh')
    t.ok(tells(read), name)
    t.match(read, { providerCode: /^AADSTS\d+$/, traceId: /^0000aaaa-/, correlationId: /^aaaa0000-/ }, name)
  }
  for (const [name, { error, code }] of Object.entries(callbackErrors))
    t.ok(tells(readAdvice({ error, error_description: `AADSTS${code}: x` }, 'authorization')), name)
  t.end()
})

// An error's text names users, or is whatever the one who opens a callback wrote into it; the log is read by many.
test('of an error nothing is repeated but a number and two ids in the form of GUIDs', t => {
  const guid = '0000aaaa-11bb-cccc-dd22-eeeeee333333'
  const hostile: Record<string, unknown>[] = [
    { error: 'access_denied', error_description: "AADSTS50105: canary@example.test is not assigned to 'canary'" },
    { error: 'canary', error_description: 'canary' },
    { error: 'x', error_description: 'see AADSTS50105canary, AADSTS50105' },
    { error: 'x', error_description: 'AADSTS123456789012: canary' },
    { error: 'x', error_codes: ['canary', 1e300, -1, 1.5, null, {}, [50105]], trace_id: `${guid}canary` },
    { error: 'x', error_description: `AADSTS50105: x\r\nTrace ID: ${guid}-canary\r\nCorrelation ID: canary` },
    { error: 'x', error_subcode: 'canary', error_uri: 'https://canary', correlation_id: { toString: 'canary' } },
    { error: '__proto__', error_codes: '__proto__', trace_id: 'constructor' },
    { error: 'constructor', error_description: 'AADSTS: canary' },
  ]
  for (const answer of hostile) {
    const read = readAdvice(answer, 'authorization')
    t.notMatch(JSON.stringify(read), 'canary', JSON.stringify(answer))
    for (const [name, value] of Object.entries(read))
      t.ok(typeof value === 'string' && value.length < 300, `${name} is a short text`)
    t.match(read.providerCode ?? 'AADSTS50105', /^AADSTS50105$/)
    t.equal(read.traceId, undefined)
  }
  for (const answer of [null, undefined, 'text', 7, []]) t.strictSame(readAdvice(answer, 'code'), {})
  const whole = readAdvice(
    { error_description: `AADSTS599: x\r\nTrace ID: ${guid}\r\nCorrelation ID: ${guid}` },
    'code',
  )
  t.strictSame(whole, { providerCode: 'AADSTS599', traceId: guid, correlationId: guid })
  t.end()
})

test('a number changes what the log says, and no decision', t => {
  const softening = [90033, 90006, 90024, 50033, 50087, 90012, 90055, 90090, 50196]
  for (const error of standardErrors.filter(each => !['server_error', 'temporarily_unavailable'].includes(each)))
    for (const number of numbers.filter(each => !softening.includes(each))) {
      const [with_, without] = [{ error, error_codes: [number] }, { error }].map(body => classifyRefusal(400, body))
      if (with_?.outcome !== without?.outcome) t.fail(`${error} ${number}`)
    }
  t.end()
})

test('a setting that the advice names is one that exists', t => {
  const sources = ['advice', 'discovery-advice', 'client-refusal', 'refusals', 'faults']
  const text = sources.map(name => readFileSync(`src/oidc/${name}.ts`, 'utf8')).join('')
  const table = settingsTable()
  const named = new Set(text.match(/\b(?:OIDC|UPSTREAM|SESSION|REDIS|PUBLIC|BFF)_(?:<NAME>_)?[A-Z0-9_]+\b/g))
  t.ok(named.size > 10, `${named.size} settings are named`)
  for (const name of named) t.ok(table.includes(`\`${name}\``), name)
  t.end()
})

test('an ID token that is refused is explained, with the algorithm only if it is one', t => {
  for (const what of ['aud', 'azp', 'iss', 'nonce', 'iat', 'exp', 'nbf', 'sub', 'at_hash', 'typ'])
    t.ok(tells(idTokenAdvice(what)), what)
  for (const what of ['iat', 'exp', 'nbf']) t.match(idTokenAdvice(what).mend, /clock/)
  t.match(idTokenAdvice('x', 'ES512'), { cause: /with ES512,/, mend: /add ES512 to OIDC_ID_TOKEN_ALGS/ })
  for (const never of ['HS256', 'none', 'ES256K'])
    t.match(idTokenAdvice('x', never), { cause: `with ${never},`, mend: /never accepted/ })
  for (const made of ['canary', 'RS256\n', '', 7, null, ['RS256']]) t.strictSame(idTokenAdvice('x', made), {})
  for (const word of ['constructor', '__proto__', 'toString']) {
    t.strictSame(idTokenAdvice(word), {})
    t.equal(advice.network(word), undefined)
    t.equal(advice.providerCode(word), undefined)
    t.equal(advice.standard(word, 'code'), undefined)
  }
  t.end()
})

test('faults of the network are told by their codes, however deep these lie', t => {
  const failed = (code: string) =>
    new TypeError('fetch failed', { cause: Object.assign(new Error('canary'), { code }) })
  for (const code of ['DEPTH_ZERO_SELF_SIGNED_CERT', 'SELF_SIGNED_CERT_IN_CHAIN', 'UNABLE_TO_VERIFY_LEAF_SIGNATURE'])
    t.match(networkAdvice(failed(code)), { mend: /NODE_EXTRA_CA_CERTS/ })
  t.match(networkAdvice(failed('ENOTFOUND')), { cause: /DNS/ })
  t.match(networkAdvice(failed('ECONNREFUSED')), { cause: /nothing listens/ })
  t.match(networkAdvice(new DOMException('canary', 'TimeoutError')), { cause: /in time/ })
  for (const other of [failed('ESOMETHING'), new Error('canary'), 'canary', null])
    t.strictSame(networkAdvice(other), {})
  t.end()
})

test('what the metadata states as its issuer is repeated only as a plain https address', t => {
  const issuer = 'https://login.example'
  const stated = (value: unknown, ours = issuer) => discoveryAdvice.issuer(value, ours)
  t.match(stated('https://other.example:8443/realms/a-b'), {
    cause: 'the metadata says https://other.example:8443/realms/a-b',
    mend: /OIDC_ISSUER.*OIDC_DISCOVERY_URL/,
  })
  t.match(stated(`${issuer}/`), { cause: /slash/, mend: `set OIDC_ISSUER to ${issuer}/` })
  t.match(stated(issuer, `${issuer}/`), { cause: /slash/, mend: `set OIDC_ISSUER to ${issuer}` })
  t.match(stated('https://LOGIN.example'), { cause: /upper and lower case/ })
  t.match(stated('http://login.example'), { cause: /plain http/, mend: /X-Forwarded-Proto/ })
  t.match(stated('https://login.microsoftonline.com/{tenantid}/v2.0'), { mend: /one tenant/ })
  for (const hostile of [
    'https://user:canary@login.example',
    'https://login.example/?canary',
    'https://login.example/#canary',
    'https://login.example/canary\n{"level":"info"}',
    'https://login.example/\u001b[31mcanary',
    `https://login.example/${'canary'.repeat(40)}`,
    'javascript:canary',
    ['https://canary.example'],
    { toString: 'canary' },
    undefined,
  ]) {
    const told = stated(hostile)
    t.ok(tells(told))
    t.notMatch(JSON.stringify(told), 'canary', String(JSON.stringify(hostile)).slice(0, 60))
  }
  t.end()
})

test('a document that cannot be had is told at once, once a minute while it stays so, and when it works again', async t => {
  const clock = createClock()
  const events: AuditEvent[] = []
  const report = createDocumentReport('metadata', { audit: event => void events.push(event), clock })
  const address = 'https://user:canary@login.example/x?canary=1'
  const fails = (detail: string) =>
    report(address, () => Promise.reject(new ProviderUnavailable({ detail }))).catch(() => {})
  for (let second = 0; second < 120; second += 1) {
    await fails('gone')
    clock.advance(1000)
  }
  t.equal(events.length, 2)
  t.match(events[0], { event: 'provider_unusable', address: 'https://login.example/x', detail: 'gone' })
  t.notMatch(JSON.stringify(events), 'canary')
  await fails('something else')
  t.equal(events.length, 3, 'another fault is told at once')
  await report(address, async () => null)
  await report(address, async () => null)
  t.match(events.slice(3), [{ event: 'provider_usable', document: 'metadata' }])
  t.equal(events.length, 4)
})

test('what repeats is said once in ten seconds, with how often it was not', t => {
  let now = 0
  const repeats = createRepeats(() => now)
  const say = (what = 'a') => repeats(what)
  t.strictSame([say(), say(), say(), say('b')], [0, null, null, 0])
  now = 9_999
  t.equal(say(), null)
  now = 10_000
  t.equal(say(), 3)
  t.equal(say(), null)
  for (let index = 0; index < 1000; index += 1) t.notOk(say(`c${index}`) === null)
  t.end()
})
