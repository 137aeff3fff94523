import { createHash } from 'node:crypto'
import type { FastifyReply } from 'fastify'

/** A page for people: a sentence or two and at most one thing to do. All of it is text; markup in it is shown, not run. */
export interface Page {
  status: number
  title: string
  text: string
  link?: { href: string; label: string }
  /** Where the page goes by itself, at once: a hop that starts on this site, so that Strict cookies go along. */
  hop?: string
  /** A form sent by GET, with hidden fields, for what must not happen by a link alone. */
  form?: { action: string; fields: Record<string, string>; label: string }
  /** By which the operator finds the line of the log; see `reference.ts`. */
  reference?: string
}

const style = `
:root { color-scheme: light dark; --ink: #1d2230; --paper: #f5f2ea; --card: #fffdf8; --accent: #8a3324; }
@media (prefers-color-scheme: dark) { :root { --ink: #ece8df; --paper: #15171d; --card: #1f222b; --accent: #e08a6d; } }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--paper); color: var(--ink);
  font: 1.05rem/1.6 ui-sans-serif, system-ui, sans-serif; }
main { box-sizing: border-box; width: min(30rem, 92vw); padding: 2.5rem; background: var(--card); border-radius: 1rem;
  border-left: .4rem dotted var(--accent); box-shadow: 0 1rem 3rem rgb(0 0 0 / .12); }
h1 { margin: 0 0 .5rem; font-size: 1.4rem; line-height: 1.25; }
p { margin: 0 0 1.5rem; }
small { display: block; margin-top: 1.5rem; opacity: .75; }
a, button { display: inline-block; padding: .6rem 1.2rem; border: 0; border-radius: .5rem; background: var(--accent);
  color: var(--card); font: inherit; font-weight: 600; text-decoration: none; cursor: pointer; }
a:focus-visible, button:focus-visible { outline: .2rem solid var(--ink); outline-offset: .2rem; }
`

const styleHash = createHash('sha256').update(style).digest('base64')

/**
 * Nothing but the one style sheet; the page loads nothing, runs nothing and fits in no frame. A form's answer redirects
 * to the provider and from there to who knows where, and Chromium holds `form-action` against every hop: a page with a
 * form goes without, all else may send none.
 */
function contentSecurityPolicy({ form }: Page): string {
  return [
    "default-src 'none'",
    `style-src 'sha256-${styleHash}'`,
    ...(form === undefined ? ["form-action 'none'"] : []),
    "base-uri 'none'",
    "frame-ancestors 'none'",
  ].join('; ')
}

/** Sends a page. */
export function sendPage(reply: FastifyReply, page: Page): FastifyReply {
  return reply
    .code(page.status)
    .type('text/html; charset=utf-8')
    .header('content-security-policy', contentSecurityPolicy(page))
    .send(render(page))
}

function render({ title, text, link, hop, form, reference }: Page): string {
  const fields = Object.entries(form?.fields ?? {}).map(
    ([name, value]) => `<input type="hidden" name="${escapeHtml(name)}" value="${escapeHtml(value)}">`,
  )
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
${hop === undefined ? '' : `<meta http-equiv="refresh" content="0; url=${escapeHtml(hop)}">`}
<title>${escapeHtml(title)}</title>
<style>${style}</style>
</head>
<body>
<main>
<h1>${escapeHtml(title)}</h1>
<p>${escapeHtml(text)}</p>
${link === undefined ? '' : `<a href="${escapeHtml(link.href)}">${escapeHtml(link.label)}</a>`}
${form === undefined ? '' : `<form action="${escapeHtml(form.action)}">${fields.join('')}<button>${escapeHtml(form.label)}</button></form>`}
${reference === undefined ? '' : `<small>Reference: <code>${escapeHtml(reference)}</code></small>`}
</main>
</body>
</html>
`
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, character => `&#${character.charCodeAt(0)};`)
}
