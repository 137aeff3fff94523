import { readFileSync, writeFileSync } from 'node:fs'
import { settingsTable } from '../../src/config/readme-table.ts'
import { problems } from '../../src/core/errors.ts'

/** The README's generated parts by the name of their markers. */
const parts: Record<string, () => string> = { settings: settingsTable, answers: answersTable }

/** Every answer code with its status, from the declaration of errors. */
function answersTable(): string {
  const rows = Object.entries(problems).map(([code, { status, title }]) => `| ${status} | \`${code}\` | ${title} |`)
  return ['| status | code | meaning |', '|---|---|---|', ...rows].join('\n')
}

/** The README with its generated parts as the code declares them. */
export function renderReadme(readme: string): string {
  return Object.entries(parts).reduce((text, [name, render]) => {
    const [start, end] = [`<!-- ${name} -->`, `<!-- /${name} -->`]
    const [before, after] = [text.indexOf(start), text.indexOf(end)]
    if (before < 0 || after < before) throw new Error(`README.md lacks the markers ${start} and ${end}`)
    return `${text.slice(0, before + start.length)}\n${render()}\n${text.slice(after)}`
  }, readme)
}

/** Writes the generated parts, or with `--check` only tells whether they are up to date. */
function main(check: boolean): void {
  const readme = readFileSync('README.md', 'utf8')
  const rendered = renderReadme(readme)
  if (rendered === readme) console.log('README.md is up to date')
  else if (check) {
    console.error('README.md does not match the code: run npm run docs')
    process.exitCode = 1
  } else {
    writeFileSync('README.md', rendered)
    console.log('README.md is written anew')
  }
}

if (process.argv[1]?.endsWith('docs.js')) main(process.argv.includes('--check'))
