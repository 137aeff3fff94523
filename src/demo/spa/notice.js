import { clock } from './countdown.js'
import { byId } from './elements.js'

const { title } = document

/** The notice that the session is about to end: by idleness, which a click prevents, or because its time is over. */
export function createNotice() {
  const notice = byId('idle-notice')
  let warnedAt = 0
  let shownAs

  const show = kind => {
    if (shownAs === kind) return
    shownAs = kind
    const idle = kind === 'idle'
    notice.dataset.kind = kind
    byId('notice-title').textContent = idle ? 'Are you still here?' : 'Your time is almost up'
    byId('notice-text').textContent = idle
      ? 'Nothing has happened here for a while. When the clock runs out, the gateway ends your session.'
      : 'Your session has lasted about as long as a session may. Sign in again to go on.'
    byId('still-here').hidden = !idle
    byId('sign-in-again').hidden = idle
    notice.hidden = false
    document.title = `${byId('notice-title').textContent} · ${title}`
    const seconds = Math.ceil(warnedAt)
    byId('announcement').textContent = idle
      ? `Are you still here? Your session ends in ${seconds} seconds. Choose “I'm still here” to stay signed in.`
      : `Your session ends in ${seconds} seconds. Sign in again to go on.`
  }

  const hide = () => {
    if (shownAs === undefined) return
    const hadFocus = notice.contains(document.activeElement)
    shownAs = undefined
    notice.hidden = true
    document.title = title
    byId('announcement').textContent = ''
    if (hadFocus) byId('main').focus({ preventScroll: true })
  }

  return {
    hide,
    /** The user's answer did not get through. */
    fault() {
      byId('notice-text').textContent = 'The gateway cannot be reached just now. Please try once more.'
    },
    /** The gateway warns. Activity moves the idle deadline, but never past the absolute one. */
    warn({ idleExpiresIn, absoluteExpiresIn }) {
      warnedAt = Math.min(idleExpiresIn, absoluteExpiresIn)
      show(absoluteExpiresIn <= idleExpiresIn ? 'absolute' : 'idle')
    },
    /** Time passes, or has been given back. */
    tick({ idle, absolute }) {
      if (shownAs === undefined) return
      if (idle > warnedAt + 2) return hide()
      show(absolute <= idle ? 'absolute' : 'idle')
      const text = clock(idle)
      if (byId('notice-clock').textContent !== text) byId('notice-clock').textContent = text
      const used = warnedAt > 0 ? 1 - Math.max(0, idle) / warnedAt : 1
      byId('notice-ring').setAttribute('stroke-dashoffset', String(Math.round(used * 1000) / 10))
    },
  }
}
