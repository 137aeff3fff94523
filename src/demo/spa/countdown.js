import { byId } from './elements.js'

const words = seconds => {
  const left = Math.max(0, Math.ceil(seconds))
  const [h, m, s] = [Math.floor(left / 3600), Math.floor(left / 60) % 60, left % 60]
  const two = number => String(number).padStart(2, '0')
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`
}

/**
 * The two clocks on the ticket. They only show what the gateway said last; the gateway alone ends a session.
 *
 * @param {() => void} onEnd called once when a clock has run out: time to ask the gateway
 */
export function createCountdown(onEnd) {
  let idleTimeout = 0
  let idleAt = 0
  let absoluteAt = 0
  let timer

  const now = () => performance.now() / 1000
  const show = () => {
    byId('idle-clock').textContent = words(Math.min(idleAt, absoluteAt) - now())
    byId('absolute-clock').textContent = words(absoluteAt - now())
    if (now() < Math.min(idleAt, absoluteAt)) return
    stop()
    onEnd()
  }
  const stop = () => clearInterval(timer)

  return {
    stop,
    /** Takes over what `GET /bff/user` said. */
    start({ idleExpiresIn, absoluteExpiresIn }) {
      stop()
      idleTimeout = Math.max(idleTimeout, idleExpiresIn)
      idleAt = now() + idleExpiresIn
      absoluteAt = now() + absoluteExpiresIn
      show()
      timer = setInterval(show, 1000)
    },
    /** The user did something that the gateway saw. */
    slide() {
      idleAt = now() + idleTimeout
    },
  }
}
