import { type Setting, settings, upstreamSettings } from './settings.ts'

/** The declaration of all settings as the README's Markdown table. */
export function settingsTable(): string {
  const rows = [
    ...Object.entries(settings).map(([name, setting]) => row(name, setting)),
    ...Object.entries(upstreamSettings).map(([name, setting]) => row(`UPSTREAM_<NAME>_${name}`, setting)),
  ]
  return ['| variable | default | meaning |', '|---|---|---|', ...rows].join('\n')
}

function row(name: string, setting: Setting<unknown>): string {
  const names = setting.secret ? `\`${name}\`, \`${name}_FILE\`` : `\`${name}\``
  const preset = setting.required ? 'required' : setting.default ? `\`${setting.default}\`` : ''
  return `| ${names} | ${preset} | ${setting.doc} |`
}
