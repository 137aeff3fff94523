import { byId, say } from './elements.js'
import { ask, isOutage, pauseBefore, wait } from './gateway.js'

function show(request, answer) {
  const reached = answer.status === 0 ? 'no answer' : String(answer.status)
  const tone = answer.ok ? 'good' : 'bad'
  byId('route').dataset.state = tone
  byId('api-node').textContent = answer.ok ? 'answered' : reached
  byId('api-request').textContent = request
  byId('api-time').textContent = `${answer.ms} ms`
  byId('api-result').textContent = typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body, null, 2)
  const chip = byId('api-status')
  chip.hidden = false
  chip.dataset.tone = tone
  chip.textContent = reached
}

/**
 * The panel that calls the API through the gateway.
 *
 * @param {{ onAnswer: (how: { passive: boolean }) => void, onRefused: (problem: object) => void }} handlers
 *   `onRefused` gets the problem of a 401
 */
export function createCallPanel({ onAnswer, onRefused }) {
  let latest

  async function call(path, options = {}) {
    const turn = Symbol()
    latest = turn
    const request = `${options.method ?? 'GET'} ${path}`
    byId('route').dataset.state = 'busy'
    for (let attempt = 0; ; attempt += 1) {
      // Only the first try is the user's doing, the others are the page's.
      const passive = attempt > 0
      const answer = await ask(path, { ...options, passive })
      if (latest !== turn) return answer
      show(request, answer)
      if (answer.status === 401) onRefused(answer.body)
      else if (!isOutage(answer)) onAnswer({ passive })
      // Whether a POST got through is unknown: only the user may send it again.
      else if (options.method === 'POST')
        say('Temporarily unavailable. You are still signed in; please try again.', 'bad')
      if (!isOutage(answer) || options.method === 'POST') return answer

      say('Temporarily unavailable, retrying…', 'busy')
      await wait(pauseBefore(attempt, answer))
      if (latest !== turn) return answer
    }
  }

  byId('call-api').addEventListener('click', () => call('/api/items'))
  byId('call-whoami').addEventListener('click', () => call('/api/whoami'))
  byId('add-item').addEventListener('submit', async event => {
    event.preventDefault()
    const form = event.currentTarget
    const answer = await call('/api/items', { method: 'POST', json: { name: new FormData(form).get('name') } })
    if (answer.ok) form.reset()
  })

  return {
    /** Gives up what is under way. */
    stop() {
      latest = undefined
    },
  }
}
