import { byId, fillList, make } from './elements.js'

const shown = value => {
  if (Array.isArray(value)) return make('ul', ...value.map(entry => make('li', String(entry))))
  return typeof value === 'object' ? make('code', JSON.stringify(value)) : String(value)
}

/** Shows who is signed in, with every claim that the gateway lets the page see. */
export function showUser(user) {
  byId('user-name').textContent = user.name ?? user.preferred_username ?? user.sub
  byId('user-email').textContent = user.email ?? ''
  fillList(
    byId('claims'),
    Object.entries(user).map(([name, value]) => [name, shown(value)]),
  )
}
