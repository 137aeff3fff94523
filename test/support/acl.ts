import { readFileSync } from 'node:fs'
import type { Redis } from 'ioredis'

/** The rules of the README for the gateway's user, and those that a cluster needs beside them. */
export function aclOfReadme(): { line: string; forCluster: string } {
  const blocks = readFileSync('README.md', 'utf8').matchAll(/```acl\n(.+)\n```/g)
  const [line = '', forCluster = ''] = [...blocks].map(([, block = '']) => block)
  if (line === '') throw new Error('the README has no rules for the user of Redis')
  return { line, forCluster }
}

/** The line with a password of the test's own. */
export const withPassword = (line: string, password: string) => line.replace(/>\S+/, `>${password}`)

/** Makes the README's user on a server that is running. */
export async function permit(client: Redis, password: string, cluster: boolean): Promise<void> {
  const { line, forCluster } = aclOfReadme()
  const [, name = '', ...rules] = withPassword(line, password).split(' ')
  await client.call('ACL', 'SETUSER', name, ...rules, ...(cluster ? forCluster.split(' ') : []))
}

/** The commands that rules permit, subcommands as `client|info`. */
export const commandsOf = (rules: string) => [...rules.matchAll(/ \+([\w|-]+)/g)].map(([, name = '']) => name)

/** What a server has refused to its users since its log of that was reset. */
export async function denials(client: Redis): Promise<{ reason: string; object: string }[]> {
  const entries = (await client.call('ACL', 'LOG', '1000')) as (string[] | Record<string, string>)[]
  return entries.map(entry => {
    const words = Array.isArray(entry) ? entry : Object.entries(entry).flat()
    const of = (name: string) => String(words[words.indexOf(name) + 1])
    return { reason: of('reason'), object: of('object') }
  })
}

/** How often a server was asked for a command. */
export async function callsOf(client: Redis, command: string): Promise<number> {
  const stats = await client.info('commandstats')
  return Number(new RegExp(`^cmdstat_${command}:calls=(\\d+)`, 'm').exec(stats)?.[1] ?? 0)
}
