import { byId, fillList, make } from './elements.js'

const looksLikeToken = text => /eyJ[\w-]{8,}\.[\w-]+\.[\w-]*/.test(text)

const describeStorage = storage => {
  const names = Object.keys(storage)
  return names.length === 0
    ? 'empty'
    : `${names.length} ${names.length === 1 ? 'entry' : 'entries'}: ${names.join(', ')}`
}

/** Shows all that script can read in this browser: cookies and both storages. */
export function showHoldings() {
  const everything = [document.cookie, ...Object.values(localStorage), ...Object.values(sessionStorage)]
  fillList(byId('holdings'), [
    ['document.cookie', document.cookie || make('code', '""')],
    ['localStorage', describeStorage(localStorage)],
    ['sessionStorage', describeStorage(sessionStorage)],
  ])
  const found = everything.some(looksLikeToken)
  const verdict = byId('verdict')
  verdict.dataset.tone = found ? 'bad' : 'good'
  verdict.textContent = found ? 'Something here looks like a token.' : 'No token within reach of script.'
}
