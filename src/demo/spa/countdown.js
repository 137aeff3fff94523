import { byId } from './elements.js'

/** Seconds as a clock shows them. */
export function clock(seconds) {
  const left = Math.max(0, Math.ceil(seconds - 0.01))
  const [h, m, s] = [Math.floor(left / 3600), Math.floor(left / 60) % 60, left % 60]
  const two = number => String(number).padStart(2, '0')
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`
}

function show(id, left, total) {
  const text = clock(left)
  if (byId(`${id}-clock`).textContent !== text) byId(`${id}-clock`).textContent = text
  byId(`${id}-meter`).value = total > 0 ? Math.max(0, left / total) : 0
}

/**
 * The two clocks on the ticket. They only show what the gateway said last; the gateway alone ends a session.
 *
 * @param {{ onTick: (left: { idle: number, absolute: number }) => void, onEnd: () => void }} handlers
 *   `onEnd` is called once when a clock has run out: time to ask the gateway
 */
export function createCountdown({ onTick, onEnd }) {
  let idleTotal = 0
  let absoluteTotal = 0
  let idleAt = 0
  let absoluteAt = 0
  let timer

  const now = () => performance.now() / 1000
  const stop = () => clearTimeout(timer)
  const tick = () => {
    const at = now()
    const left = { idle: Math.min(idleAt, absoluteAt) - at, absolute: absoluteAt - at }
    show('idle', left.idle, idleTotal)
    show('absolute', left.absolute, absoluteTotal)
    onTick(left)
    if (left.idle > 0) return
    stop()
    // The gateway's figures are whole seconds, rounded down.
    timer = setTimeout(onEnd, 1000)
  }
  const run = () => {
    stop()
    timer = setInterval(tick, 250)
    tick()
  }

  return {
    stop,
    /** Takes over what the gateway said. */
    start({ idleExpiresIn, absoluteExpiresIn }) {
      idleTotal = Math.max(idleTotal, idleExpiresIn)
      absoluteTotal = Math.max(absoluteTotal, absoluteExpiresIn)
      const at = now()
      idleAt = at + idleExpiresIn
      absoluteAt = at + absoluteExpiresIn
      run()
    },
    /** The user did something that the gateway saw. */
    slide() {
      idleAt = Math.min(now() + idleTotal, absoluteAt)
      run()
    },
    /** How long ago the session began, in seconds: what the absolute clock has used up. */
    began(secondsAgo) {
      absoluteTotal = Math.max(absoluteTotal, absoluteAt - now() + secondsAgo)
    },
  }
}
