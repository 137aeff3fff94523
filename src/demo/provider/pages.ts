import { demoAccounts } from './accounts.ts'
import { type Html, html, trusted } from './html.ts'

const badge = html`<svg class="badge" viewBox="0 0 48 48" aria-hidden="true" focusable="false">
  <rect x="7" y="5" width="34" height="40" rx="7" fill="none" stroke="currentColor" stroke-width="2.5"/>
  <path d="M19 11h10" stroke="currentColor" stroke-width="2.5" stroke-linecap="round"/>
  <circle cx="24" cy="23" r="5.5" fill="currentColor"/>
  <path d="M14 38c1.4-5.4 5.2-8 10-8s8.6 2.6 10 8" fill="none" stroke="currentColor" stroke-width="2.5" stroke-linecap="round"/>
</svg>`

function page(title: string, body: Html, script?: string): string {
  return html`<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>${title} · Demo provider</title>
  <link rel="stylesheet" href="/style.css">
  <link rel="icon" href="data:,">
  ${script && html`<script type="module" src="${script}"></script>`}
</head>
<body>
  <main>
    <p class="brand">${badge}<span>Demo provider</span></p>
    ${body}
  </main>
</body>
</html>
`.markup
}

/** What the sign-in page shows. */
export interface SignInView {
  uid: string
  /** The site that the user signs in to. */
  clientHost: string
  login: string
  password: string
  /** What went wrong with the last attempt, in words. */
  fault?: string
}

/** The sign-in form. */
export function signInPage({ uid, clientHost, login, password, fault }: SignInView): string {
  return page(
    'Sign in',
    html`<h1>Sign in</h1>
    <p class="lead">to continue to <strong>${clientHost}</strong></p>
    ${fault && html`<p class="fault" id="fault" role="alert">${fault}</p>`}
    <form method="post" action="/interaction/${uid}">
      <label for="login">User name or e-mail</label>
      <input id="login" name="login" value="${login}" autocomplete="username" autocapitalize="none" spellcheck="false"
        required ${fault ? trusted('aria-describedby="fault"') : trusted('autofocus')}>
      <label for="password">Password</label>
      <input id="password" name="password" type="password" value="${password}" autocomplete="current-password"
        required ${fault && trusted('aria-describedby="fault" aria-invalid="true" autofocus')}>
      <button class="primary" id="submit" name="action" value="sign-in">Sign in</button>
      <button class="quiet" id="cancel" name="action" value="cancel" formnovalidate>Cancel</button>
    </form>
    <p class="hint">Users of this demo: ${demoAccounts.map(
      ({ username, password }, at) =>
        html`${at > 0 && ', '}<span class="user"><code>${username}</code> with password <code>${password}</code></span>`,
    )}.</p>`,
  )
}

/** What the account chooser shows. */
export interface ChooserView {
  uid: string
  clientHost: string
  name: string
  email: string
}

/** Asks a signed-in user whether to go on as the same or as somebody else. */
export function chooserPage({ uid, clientHost, name, email }: ChooserView): string {
  return page(
    'Choose an account',
    html`<h1>Choose an account</h1>
    <p class="lead">to continue to <strong>${clientHost}</strong></p>
    <form method="post" action="/interaction/${uid}">
      <button class="account" id="continue" name="action" value="continue" autofocus>
        <span class="initial" aria-hidden="true">${name.slice(0, 1)}</span>
        <span>Continue as <strong>${name}</strong><small>${email}</small></span>
      </button>
      <button class="quiet" id="cancel" name="action" value="cancel">Cancel</button>
    </form>
    <p class="hint"><a id="another" href="/interaction/${uid}?as=another">Use another account</a></p>`,
  )
}

/** Signs out by itself; the button is for browsers without script. `form` is oidc-provider's own, with id `op.logoutForm`. */
export function signOutPage(form: string): string {
  return page(
    'Signing out',
    html`<h1>Signing out…</h1>
    <p class="lead">You go straight back to where you came from.</p>
    ${trusted(form)}
    <button class="primary" id="sign-out" form="op.logoutForm" name="logout" value="yes">Sign out</button>`,
    '/sign-out.js',
  )
}

/** One sentence and a way back. */
export function messagePage(title: string, text: string, backTo: string): string {
  return page(
    title,
    html`<h1>${title}</h1>
    <p class="lead">${text}</p>
    <p><a class="primary" href="${backTo}">Back to the app</a></p>`,
  )
}
