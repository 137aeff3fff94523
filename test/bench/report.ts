import type { Goal } from './statistics.ts'

/** What a section found. */
export interface Section {
  title: string
  tables: Table[]
  goals: Goal[]
  /** What a reader of the figures has to know. */
  notes: string[]
  /** Everything, for the JSON. */
  figures: unknown
}

export interface Table {
  head: string[]
  rows: string[][]
}

/** A section as text. */
export function written({ title, tables, goals, notes }: Section): string {
  const parts = [`${title}\n${'='.repeat(title.length)}`, ...tables.map(writtenTable)]
  if (goals.length > 0) parts.push(goals.map(writtenGoal).join('\n'))
  if (notes.length > 0) parts.push(notes.map(note => `- ${note}`).join('\n'))
  return `${parts.join('\n\n')}\n`
}

function writtenTable({ head, rows }: Table): string {
  const widths = head.map((_, column) => Math.max(...[head, ...rows].map(row => row[column]?.length ?? 0)))
  // Names to the left, figures to the right.
  const line = (row: string[]) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ')
  return [line(head), widths.map(width => '-'.repeat(width)).join('  '), ...rows.map(line)].join('\n')
}

function writtenGoal({ what, value, limit, side, met, aim }: Goal): string {
  const aimed = aim === undefined ? '' : `, aiming at ${aim}`
  return `${met ? 'met   ' : 'MISSED'}  ${what}: goal ${side} ${limit}${aimed}, ${figure(value)}`
}

/** A number with three digits that matter. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return '?'
  if (Math.abs(value) >= 100) return value.toFixed(0)
  if (Math.abs(value) >= 10) return value.toFixed(1)
  return value.toFixed(Math.abs(value) >= 1 ? 2 : 3)
}
