const name = 'coatcheck'
const reopenAfterMs = 5000

/**
 * What the tabs of this browser tell each other, and what the gateway tells them of their session. Browsers allow six
 * HTTP/1.1 connections to an origin, so one tab holds the event stream for all: the one that has the lock. When it goes,
 * the browser gives the lock to the next.
 *
 * @param {Record<string, (message: object) => void>} handlers by type: `expiring`, `extended` and `ended` are the
 *   gateway's events; `unsure` when something may have been missed; all others are what tabs told with `tell`
 */
export function createBrowserEvents(handlers) {
  const channel = new BroadcastChannel(name)
  let joined

  const receive = message => handlers[message.type]?.(message)
  const tell = message => channel.postMessage(message)
  const tellAll = message => {
    receive(message)
    tell(message)
  }

  channel.onmessage = ({ data }) => receive(data)

  /** Holds the stream, and with it the lock, until the signal says to let go. */
  const hold = signal =>
    new Promise(resolve => {
      let source
      let reopening
      let opened = false

      const open = () => {
        source = new EventSource('/bff/events')
        for (const type of ['expiring', 'extended', 'ended']) {
          source.addEventListener(type, ({ data }) => tellAll({ ...JSON.parse(data), type }))
        }
        source.onopen = () => {
          if (opened) tellAll({ type: 'unsure' })
          opened = true
        }
        source.onerror = () => {
          // A broken connection is mended by the browser, an answer other than 200 is not.
          if (source.readyState !== EventSource.CLOSED) return
          tellAll({ type: 'unsure' })
          if (!signal.aborted) reopening = setTimeout(open, reopenAfterMs)
        }
      }
      const letGo = () => {
        source?.close()
        clearTimeout(reopening)
        resolve()
      }

      signal.addEventListener('abort', letGo)
      if (signal.aborted) letGo()
      else open()
    })

  return {
    /** Tells the other tabs. */
    tell,
    /** There is a session: follow it. */
    join() {
      if (joined !== undefined) return
      joined = new AbortController()
      const { signal } = joined
      // Rejected when the wait for the lock is given up.
      navigator.locks.request(name, { signal }, () => hold(signal)).catch(() => {})
      tell({ type: 'joined' })
    },
    /** There is no session any more. */
    leave() {
      joined?.abort()
      joined = undefined
    },
  }
}
