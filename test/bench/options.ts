import { parseArgs } from 'node:util'

/** The parts of the benchmark, in the order in which they run. */
export const sectionNames = ['proxy', 'logins', 'refreshes', 'sweep', 'memory', 'growth', 'workers'] as const
export type SectionName = (typeof sectionNames)[number]

/** What the benchmark is asked to do. */
export interface Options {
  quick: boolean
  sections: SectionName[]
  /** Where the figures go as JSON. */
  json: string | undefined
  /** Folder for a CPU profile of a gateway under the load of warm sessions; nothing else is done then. */
  profile: string | undefined
  help: boolean
}

export const usage = `npm run bench -- [options]

  --quick           fewer and shorter rounds, and fewer sessions: a few minutes instead of about 25
  --only a,b        some sections alone: ${sectionNames.join(', ')}
  --json FILE       writes all figures, each round's included
  --profile FOLDER  writes a CPU profile of the gateway with warm sessions, and measures nothing
  --help            this

The figures that are quoted are of Node 24: npx -p node@24 -- npm run bench
`

/** @throws when an option or a section is unknown; the message says which */
export function readOptions(args: string[]): Options {
  const { values } = parseArgs({
    args,
    options: {
      quick: { type: 'boolean', default: false },
      only: { type: 'string', default: sectionNames.join(',') },
      json: { type: 'string' },
      profile: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  const asked = values.only.split(',').filter(Boolean)
  const unknown = asked.filter(name => !sectionNames.some(known => known === name))
  if (unknown.length > 0) throw new Error(`there is no section ${unknown.join(', ')}: ${sectionNames.join(', ')}`)
  const sections = sectionNames.filter(name => asked.includes(name))
  return { quick: values.quick, sections, json: values.json, profile: values.profile, help: values.help }
}
