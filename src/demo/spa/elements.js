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

/** Does something for a button, which is busy meanwhile; not again while it is. A disabled one would lose the focus. */
export async function once(button, act) {
  if (button.ariaDisabled === 'true') return undefined
  button.ariaDisabled = 'true'
  try {
    return await act()
  } finally {
    button.ariaDisabled = 'false'
  }
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
