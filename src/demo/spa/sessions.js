import { byId, once } from './elements.js'
import { ask, isOutage } from './gateway.js'
import { summarize } from './user-agent.js'

const lookEveryMs = 10_000

const timeOfDay = new Intl.DateTimeFormat('en', { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
const day = new Intl.DateTimeFormat('en', { day: 'numeric', month: 'short' })

const since = time => {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000)
  if (seconds < 15) return 'just now'
  if (seconds < 60) return 'less than a minute ago'
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`
  return `${Math.floor(seconds / 3600)} h ago`
}

const at = time => {
  const date = new Date(time)
  const today = date.toDateString() === new Date().toDateString()
  return today ? timeOfDay.format(date) : `${day.format(date)}, ${timeOfDay.format(date)}`
}

/**
 * The list of one's own sessions. It looks again now and then while somebody can see it; looking counts for nothing.
 *
 * @param {object} handlers
 * @param {() => void} handlers.onActivity the user did something that the gateway saw
 * @param {(problem: object) => void} handlers.onRefused gets the problem of a 401
 * @param {(current: { createdAt: string }) => void} handlers.onCurrent gets this very session
 * @param {() => void} handlers.signOut ends this very session
 */
export function createSessionList({ onActivity, onRefused, onCurrent, signOut }) {
  const list = byId('sessions')
  const others = byId('sign-out-others')
  const rows = new Map()
  let timer
  let latest

  // What had the focus is about to go.
  const focusTitle = () => byId('sessions-title').focus({ preventScroll: true })

  const note = (text, tone) => {
    byId('sessions-note').dataset.tone = tone
    byId('sessions-note').textContent = text
  }

  async function look() {
    const turn = Symbol()
    latest = turn
    const answer = await ask('/bff/sessions', { passive: true })
    if (latest !== turn) return
    if (answer.ok) show(answer.body.sessions)
    else if (answer.status === 401) onRefused(answer.body)
  }

  function show(sessions) {
    const ids = new Set(sessions.map(({ id }) => id))
    for (const [id, row] of rows) {
      if (ids.has(id)) continue
      if (row.contains(document.activeElement)) focusTitle()
      row.remove()
      rows.delete(id)
    }
    // This very session first, then the newest.
    const sorted = sessions.toReversed().sort((one, other) => Number(other.current) - Number(one.current))
    for (const [place, session] of sorted.entries()) {
      const row = rows.get(session.id) ?? createRow(session)
      row.querySelector('.session-active').textContent = since(session.lastActiveAt)
      if (list.children[place] !== row) list.insertBefore(row, list.children[place] ?? null)
      if (session.current) onCurrent(session)
    }
    const alone = sessions.every(({ current }) => current)
    if (alone && others === document.activeElement) focusTitle()
    others.hidden = alone
    byId('sessions-alone').hidden = !alone
  }

  function createRow(session) {
    const { name, kind } = summarize(session.userAgent)
    const row = byId('session-row').content.firstElementChild.cloneNode(true)
    row.dataset.id = session.id
    row.dataset.kind = kind
    row.dataset.current = String(session.current)
    row.querySelector('.session-name').textContent = name
    row.querySelector('.session-name').title = session.userAgent
    row.querySelector('.session-current').hidden = !session.current
    row.querySelector('.session-address').textContent = session.address
    const begun = row.querySelector('.session-begun')
    begun.dateTime = session.createdAt
    begun.textContent = at(session.createdAt)
    const button = row.querySelector('button')
    button.setAttribute('aria-label', `Sign out ${name}, signed in ${at(session.createdAt)}`)
    button.addEventListener('click', () => (session.current ? signOut() : endOne(session.id, name, button)))
    rows.set(session.id, row)
    return row
  }

  /** Ends sessions, and looks what is left. A session that is gone already is as good as ended. */
  async function end(path, button, done) {
    const answer = await once(button, () => ask(path, { method: 'DELETE' }))
    if (answer === undefined) return
    if (answer.status === 401) return onRefused(answer.body)
    if (isOutage(answer)) return note('Temporarily unavailable. Please try again.', 'bad')
    onActivity()
    note(done(answer), 'good')
    await look()
  }

  const endOne = (id, name, button) => end(`/bff/sessions/${id}`, button, () => `${name} is signed out.`)

  others.addEventListener('click', () =>
    end('/bff/sessions', others, ({ body: { ended } }) =>
      ended === 1 ? 'One other session is signed out.' : `${ended} other sessions are signed out.`,
    ),
  )

  const lookIfSeen = () => {
    if (document.visibilityState === 'visible') look()
  }

  return {
    look,
    start() {
      clearInterval(timer)
      timer = setInterval(lookIfSeen, lookEveryMs)
      look()
    },
    stop() {
      clearInterval(timer)
      latest = undefined
      rows.clear()
      note('', 'idle')
      list.replaceChildren()
    },
  }
}
