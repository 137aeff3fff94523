/** The element with this id. */
export const byId = id => document.getElementById(id)

/**
 * A new element with text or children.
 *
 * @param {string} name
 * @param {...(string | Node)} children
 */
export function make(name, ...children) {
  const element = document.createElement(name)
  element.append(...children)
  return element
}

/** Fills a definition list. */
export function fillList(list, entries) {
  list.replaceChildren(...entries.map(([term, value]) => make('div', make('dt', term), make('dd', value))))
}

/**
 * Says what is going on, in the header and to screen readers.
 *
 * @param {string} text
 * @param {'good' | 'bad' | 'busy' | 'idle'} tone
 */
export function say(text, tone) {
  const status = byId('status')
  status.dataset.tone = tone
  if (status.textContent !== text) status.textContent = text
}
