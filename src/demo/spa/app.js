import { createCallPanel } from './calls.js'
import { showUser } from './claims.js'
import { createCountdown } from './countdown.js'
import { byId, say } from './elements.js'
import { ask, isOutage, pauseBefore, signInUrl, wait } from './gateway.js'
import { showHoldings } from './holdings.js'

const reasons = {
  session_expired: 'Your session has expired: you were away for a while, or it was simply old. Sign in to go on.',
  session_revoked: 'Your session was ended: you signed out somewhere else, or someone ended it for you.',
  step_up_required: 'This needs a stronger sign-in. Please sign in once more.',
}

let signedInName
let logoutUrl
let asking = false

const countdown = createCountdown(() => refresh({ passive: true }))
const callPanel = createCallPanel({
  onAnswer() {
    countdown.slide()
    say(`Signed in as ${signedInName}`, 'good')
  },
  onRefused: showSignedOut,
})

function showSignedIn({ user, session }) {
  logoutUrl = session.logoutUrl
  showUser(user)
  showHoldings()
  countdown.start(session)
  signedInName = byId('user-name').textContent
  say(`Signed in as ${signedInName}`, 'good')
  byId('signed-out').hidden = true
  byId('signed-in').hidden = false
}

function showSignedOut({ code, loginUrl } = {}) {
  const wasSignedIn = signedInName !== undefined
  const reason = reasons[code] ?? (wasSignedIn ? 'Your session is no longer there. Sign in to go on.' : '')
  signedInName = undefined
  countdown.stop()
  callPanel.stop()
  byId('reason').textContent = reason
  byId('reason').hidden = reason === ''
  byId('sign-in').href = signInUrl(loginUrl)
  byId('signed-in').hidden = true
  byId('signed-out').hidden = false
  say('Not signed in', reason ? 'bad' : 'idle')
  if (wasSignedIn) byId('sign-in').focus()
}

/** Asks the gateway who is signed in, until it knows. An outage leaves the page as it is. */
async function refresh({ passive }) {
  if (asking) return
  asking = true
  // Nobody signed in yet is no error, and browsers put every 401 on the console; the end of a session has a reason.
  const path = signedInName === undefined ? '/bff/user?anonymous=200' : '/bff/user'
  for (let attempt = 0; ; attempt += 1) {
    const answer = await ask(path, { passive })
    if (answer.ok && answer.body.user) showSignedIn(answer.body)
    else if (answer.ok || answer.status === 401) showSignedOut(answer.body)
    else if (!isOutage(answer))
      say(`The gateway answered ${answer.status}: ${answer.body.title ?? 'no reason given'}`, 'bad')
    if (!isOutage(answer)) break
    say('Temporarily unavailable, retrying…', 'busy')
    await wait(pauseBefore(attempt, answer))
  }
  asking = false
}

byId('sign-in').addEventListener('click', event => {
  event.preventDefault()
  location.assign(signInUrl(event.currentTarget.href))
})
byId('sign-out').addEventListener('click', () => location.assign(logoutUrl))
byId('look-again').addEventListener('click', showHoldings)

// Back from another tab, or from the browser's back-forward cache, the session may have ended meanwhile.
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible') refresh({ passive: true })
})
addEventListener('pageshow', event => {
  if (event.persisted) refresh({ passive: true })
})

refresh({ passive: false })
