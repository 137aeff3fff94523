import { test } from 'tap'
import { ProviderUnavailable } from '../../src/core/errors.ts'
import { classifyRefusal } from '../../src/oidc/refusals.ts'

const classes: Record<string, [status: number, body: unknown][]> = {
  dead: [
    [400, { error: 'invalid_grant' }],
    [400, { error: 'invalid_grant', suberror: 'bad_token', error_codes: [50173] }],
    [400, { error: 'invalid_grant', suberror: 'token_expired', error_codes: [70043] }],
    [400, { error: 'invalid_grant', error_codes: [700082] }],
    [401, { error: 'invalid_grant' }],
  ],
  interaction: [
    [400, { error: 'interaction_required' }],
    [400, { error: 'consent_required' }],
    [400, { error: 'login_required' }],
    [400, { error: 'invalid_grant', suberror: 'basic_action', claims: '{"access_token":{}}' }],
    [400, { error: 'invalid_grant', claims: '{}' }],
    [400, { error: 'invalid_grant', suberror: 'consent_required' }],
    [400, { error: 'invalid_grant', suberror: 'message_only' }],
  ],
  client_refused: [
    [401, { error: 'invalid_client', error_codes: [7000215] }],
    [400, { error: 'unauthorized_client' }],
  ],
  misconfigured: [
    [400, { error: 'invalid_scope' }],
    [400, { error: 'invalid_request', error_codes: [90009] }],
    [400, { error: 'invalid_target' }],
    [400, { error: 'unsupported_grant_type' }],
    [400, { error: 'something_new' }],
    [200, {}],
    [200, { id_token: 'x' }],
  ],
}

for (const [outcome, answers] of Object.entries(classes)) {
  test(`answers that mean ${outcome}`, async t => {
    for (const [status, body] of answers) t.match(classifyRefusal(status, body), { outcome }, JSON.stringify(body))
  })
}

// An outage that is taken for a refusal logs every user out.
test('what is no definite answer ends no session', async t => {
  const answers: [number, unknown][] = [
    [200, null],
    [400, null],
    [400, '<html>'],
    [400, []],
    [403, { message: 'blocked by a firewall' }],
    [400, { error: 7 }],
    [400, { error: 'temporarily_unavailable' }],
    [400, { error: 'server_error' }],
    [400, { error: 'invalid_grant', error_codes: [50196] }],
    [400, { error: 'invalid_grant', error_codes: [90033] }],
  ]
  for (const [status, body] of answers)
    t.throws(() => classifyRefusal(status, body), ProviderUnavailable, JSON.stringify(body))
})

test('it is told whether an answer may concern one request alone', t => {
  const answers: [status: number, body: unknown, isolated: boolean][] = [
    [400, null, true],
    [400, '<html>', true],
    [403, { message: 'blocked by a firewall' }, true],
    [400, { error: 'invalid_grant', error_codes: [50196] }, true],
    [400, { error: 'invalid_grant', error_codes: [90033] }, false],
    [400, { error: 'temporarily_unavailable' }, false],
    [401, null, false],
    [302, null, false],
    [200, null, false],
  ]
  for (const [status, body, isolated] of answers)
    try {
      t.fail(`${status} is a refusal: ${classifyRefusal(status, body).outcome}`)
    } catch (error) {
      t.match(error, { isolated }, `${status} ${JSON.stringify(body)}`)
    }
  t.end()
})
