import { createBrowserEvents } from './browser-events.js'
import { createCallPanel } from './calls.js'
import { showUser } from './claims.js'
import { createCountdown } from './countdown.js'
import { byId, make, once, say } from './elements.js'
import { ask, isOutage, pauseBefore, signInUrl, wait } from './gateway.js'
import { showHoldings } from './holdings.js'
import { createNotice } from './notice.js'
import { explain } from './reasons.js'
import { createSessionList } from './sessions.js'

const stayAfterMs = 10_000

let signedInName
let logoutUrl
let leaving = false
let asking = false
let askAgain = false
let endedBy

const notice = createNotice()
const countdown = createCountdown({ onTick: notice.tick, onEnd: look })
const callPanel = createCallPanel({
  onAnswer({ passive }) {
    if (!passive) sawActivity()
    say(`Signed in as ${signedInName}`, 'good')
  },
  onRefused: showSignedOut,
})
const sessionList = createSessionList({
  onActivity: sawActivity,
  onRefused: showSignedOut,
  onCurrent: ({ createdAt }) => countdown.began((Date.now() - Date.parse(createdAt)) / 1000),
  signOut,
})

const events = createBrowserEvents({
  expiring(figures) {
    if (signedInName === undefined) return
    notice.warn(figures)
    countdown.start(figures)
  },
  extended(figures) {
    if (signedInName === undefined) return
    notice.hide()
    countdown.start(figures)
  },
  // The session that ended may have been followed by another one: the gateway knows.
  ended({ reason }) {
    endedBy = reason
    look()
  },
  unsure: look,
  joined() {
    if (signedInName === undefined) look()
  },
  activity() {
    if (signedInName !== undefined) countdown.slide()
  },
})

function showSignedIn({ user, session }) {
  const isNews = signedInName === undefined || logoutUrl !== session.logoutUrl
  logoutUrl = session.logoutUrl
  endedBy = undefined
  showUser(user)
  showHoldings()
  countdown.start(session)
  signedInName = byId('user-name').textContent
  say(`Signed in as ${signedInName}`, 'good')
  byId('signed-out').hidden = true
  byId('signed-in').hidden = false
  events.join()
  if (!isNews) return
  sessionList.stop()
  sessionList.start()
}

function showSignedOut(problem = {}) {
  if (leaving) return
  const wasSignedIn = signedInName !== undefined
  const reason = problem.reason ?? endedBy
  const words = explain({ ...problem, reason }, wasSignedIn)
  signedInName = undefined
  endedBy = undefined
  countdown.stop()
  notice.hide()
  callPanel.stop()
  sessionList.stop()
  events.leave()
  if (words) byId('reason').replaceChildren(make('strong', words[0]), ` ${words[1]}`)
  byId('reason').dataset.reason = reason ?? ''
  byId('reason').hidden = words === undefined
  byId('stamp').hidden = words === undefined
  byId('sign-in').href = signInUrl(problem.loginUrl)
  byId('signed-in').hidden = true
  byId('signed-out').hidden = false
  say('Not signed in', words ? 'bad' : 'idle')
  if (!wasSignedIn) return
  scrollTo(0, 0)
  byId('sign-in').focus({ preventScroll: true })
}

/** The gateway has seen the user: the idle clock starts over, here and in the other tabs. */
function sawActivity() {
  countdown.slide()
  events.tell({ type: 'activity' })
}

/** Goes where this session ends. It does so before the next page is here: that is not to be shown as news. */
function leaveTo(url) {
  leaving = true
  setTimeout(stay, stayAfterMs)
  location.assign(url)
}

/** Nobody has left after all. */
function stay() {
  leaving = false
  look()
}

function signOut() {
  leaveTo(logoutUrl)
}

/** Asks the gateway who is signed in, until it knows. An outage leaves the page as it is. */
async function refresh({ slide }) {
  if (asking) {
    askAgain = true
    return
  }
  asking = true
  for (let attempt = 0; ; attempt += 1) {
    askAgain = false
    // Only the first try can be the user's doing, the others are the page's.
    const query = new URLSearchParams(slide && attempt === 0 ? {} : { slide: 'false' })
    // Nobody signed in yet is no error, and browsers put every 401 on the console; the end of a session has a reason.
    if (signedInName === undefined) query.set('anonymous', '200')
    const answer = await ask(`/bff/user?${query}`)
    if (askAgain) continue
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

/** Asks without being taken for the user. */
function look() {
  refresh({ slide: false })
}

async function stillHere() {
  const answer = await once(byId('still-here'), () => ask('/bff/activity', { method: 'POST' }))
  if (answer === undefined) return
  if (answer.ok) sawActivity()
  else if (answer.status === 401) showSignedOut(answer.body)
  else notice.fault()
}

for (const id of ['sign-in', 'sign-in-again']) {
  byId(id).addEventListener('click', event => {
    event.preventDefault()
    const url = signInUrl(event.currentTarget.href)
    if (signedInName === undefined) location.assign(url)
    else leaveTo(url)
  })
}
byId('sign-out').addEventListener('click', signOut)
byId('still-here').addEventListener('click', stillHere)
byId('look-again').addEventListener('click', showHoldings)

// Back from another tab, or from the browser's back-forward cache, the session may have ended meanwhile.
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState !== 'visible') return
  look()
  if (signedInName !== undefined) sessionList.look()
})
addEventListener('pageshow', event => {
  if (event.persisted) stay()
})

refresh({ slide: true })
