const byReason = {
  idle: [
    'You were away.',
    'Nothing happened for a while, so the gateway ended your session and is revoking its refresh token.',
  ],
  absolute: ['Your time was up.', 'The session had lasted as long as a session may. Sign in to begin a new one.'],
  tokens_expired: ['Your sign-in ran out.', 'The identity provider no longer renews it. Sign in to go on.'],
  logout: ['You signed out.', 'The session is over in every tab of this browser.'],
  ended_elsewhere: ['Signed out from another device.', 'You, or someone with your account, ended this session there.'],
  too_many: ['One session too many.', 'You signed in elsewhere, and this was the oldest of more than are allowed.'],
  replaced: ['A newer sign-in took over.', 'This session ended when you signed in again in this browser.'],
  admin: ['Ended by an administrator.', 'Somebody in charge ended this session. Sign in to begin a new one.'],
  backchannel_logout: ['Ended by the identity provider.', 'You signed out there, and it told the gateway.'],
  frontchannel_logout: ['You signed out at the identity provider.', 'Its logout page told the gateway.'],
}

const byCode = {
  session_expired: ['Your session has expired.', 'You were away for a while, or it was simply old. Sign in to go on.'],
  session_revoked: ['Your session was ended.', 'You signed out somewhere else, or someone ended it for you.'],
  step_up_required: ['This needs a stronger sign-in.', 'Please sign in once more.'],
}

/**
 * Why somebody is signed out: a headline and a sentence, or undefined when there is nothing to explain.
 *
 * @param {{ reason?: string | null, code?: string }} problem of a 401, or an `ended` event
 * @param {boolean} wasSignedIn
 */
export function explain({ reason, code }, wasSignedIn) {
  const known = byReason[reason] ?? byCode[code]
  if (known || !wasSignedIn) return known
  return ['Your session is no longer there.', 'Sign in to go on.']
}
