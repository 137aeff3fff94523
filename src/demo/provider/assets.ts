/** The provider's style sheet. Its colours differ from the app's, so that one sees whose page one is on. */
export const styleSheet = `
:root {
  color-scheme: light dark;
  --page: #e9eef0; --card: #ffffff; --ink: #14242b; --soft: #51656e; --line: #c9d5d9;
  --accent: #0f5c6b; --on-accent: #ffffff; --fault: #a3261b; --fault-page: #fdecea;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0d1518; --card: #162126; --ink: #e8f0f2; --soft: #9fb3ba; --line: #31434a;
    --accent: #7fd0df; --on-accent: #06262d; --fault: #ffb4a9; --fault-page: #3b1a17;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem 1rem;
  background: radial-gradient(60rem 40rem at 50% -10rem, color-mix(in srgb, var(--accent) 16%, transparent), transparent) var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif;
}
main {
  width: min(25rem, 100%); padding: 2rem; background: var(--card); border: 1px solid var(--line); border-radius: 1rem;
  box-shadow: 0 1rem 2.5rem rgb(8 30 38 / 0.12);
}
.brand { display: flex; align-items: center; gap: 0.6rem; margin: 0 0 1.5rem; color: var(--accent); font-weight: 650; }
.badge { width: 2rem; height: 2rem; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.2; letter-spacing: -0.015em; }
.lead { margin: 0.35rem 0 1.5rem; color: var(--soft); }
.lead strong { color: var(--ink); font-weight: 600; }
label { display: block; margin: 1rem 0 0.35rem; font-size: 0.9rem; font-weight: 600; }
input[type='password'], input:not([type]) {
  width: 100%; padding: 0.65rem 0.8rem; font: inherit; color: inherit; background: var(--page);
  border: 1px solid var(--line); border-radius: 0.6rem;
}
input[aria-invalid='true'] { border-color: var(--fault); }
button, a.primary {
  display: block; width: 100%; margin-top: 0.75rem; padding: 0.7rem 1rem; font: inherit; font-weight: 600; text-align: center;
  border: 1px solid transparent; border-radius: 0.6rem; cursor: pointer; text-decoration: none;
}
.primary { background: var(--accent); color: var(--on-accent); }
form .primary { margin-top: 1.5rem; }
.primary:hover { filter: brightness(1.08); }
.quiet { background: none; color: var(--soft); }
.quiet:hover { background: var(--page); color: var(--ink); }
.account {
  display: flex; align-items: center; gap: 0.9rem; text-align: left; font-weight: 400;
  background: var(--page); color: inherit; border-color: var(--line);
}
.account:hover { border-color: var(--accent); }
.account small { display: block; color: var(--soft); }
.initial {
  flex: none; display: grid; place-items: center; width: 2.5rem; height: 2.5rem; border-radius: 50%;
  background: var(--accent); color: var(--on-accent); font-weight: 700;
}
.fault { margin: 0 0 1rem; padding: 0.7rem 0.9rem; border-radius: 0.6rem; background: var(--fault-page); color: var(--fault); }
.hint { margin: 1.5rem 0 0; padding-top: 1.25rem; border-top: 1px solid var(--line); color: var(--soft); font-size: 0.9rem; }
.user { white-space: nowrap; }
.hint a { color: var(--accent); }
code { padding: 0.05em 0.35em; border-radius: 0.3em; background: var(--page); color: var(--ink); font-size: 0.95em; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
`

/** Presses the sign-out button, so that the value of the button goes with the form. */
export const signOutScript = `
const button = document.getElementById('sign-out')
button.form.requestSubmit(button)
`
