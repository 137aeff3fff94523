import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { findBinary } from './binary.ts'
import { type Program, startProgram } from './program.ts'

/** What the example configurations under docs/forward-auth are filled in with. */
export interface Surroundings {
  /** Where the proxy listens, on 127.0.0.1. */
  port: number
  /** Ports of the gateway's two listeners and of the API. */
  gatewayPort: number
  internalPort: number
  apiPort: number
  /** FORWARD_AUTH_TOKEN. */
  secret: string
}

/** A proxy in front of gateway and API, set up as the example says. */
export type StartReverseProxy = (surroundings: Surroundings) => Promise<Program>

const examples = resolve('docs/forward-auth')
const unpacked = resolve('.programs/root')

/** Starts nginx with docs/forward-auth/nginx.conf. */
export const startNginx: StartReverseProxy = surroundings =>
  inFolder('nginx', folder => {
    const command = findBinary({
      variable: 'NGINX',
      names: [join(unpacked, 'usr/sbin/nginx'), 'nginx', '/usr/sbin/nginx'],
      install: 'apt-get install nginx',
    })
    writeFileSync(
      join(folder, 'site.conf'),
      filledIn('nginx.conf', surroundings, 'listen 80;', 'listen 127.0.0.1:PORT;'),
    )
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      kind => `${kind}_temp_path ${join(folder, kind)};`,
    )
    // One process, so that nothing is left when it is killed.
    const main = [
      'daemon off; master_process off;',
      `pid ${join(folder, 'pid')}; error_log stderr info;`,
      'events { worker_connections 128; }',
      `http { access_log off; ${temporary.join(' ')} include ${join(folder, 'site.conf')}; }`,
    ]
    writeFileSync(join(folder, 'nginx.conf'), main.join('\n'))
    return { command, args: ['-p', folder, '-c', join(folder, 'nginx.conf')], env: {} }
  })(surroundings)

/** Starts Caddy with docs/forward-auth/Caddyfile. */
export const startCaddy: StartReverseProxy = surroundings =>
  inFolder('caddy', folder => {
    const command = findBinary({
      variable: 'CADDY',
      names: [join(unpacked, 'usr/bin/caddy'), 'caddy'],
      install: 'apt-get install caddy',
    })
    const site = filledIn('Caddyfile', surroundings, 'app.example.com {', 'http://localhost:PORT {')
    writeFileSync(join(folder, 'Site'), site)
    const options = ['admin off', 'auto_https off', 'default_bind 127.0.0.1', 'log {', '  level DEBUG', '}']
    const main = ['{', ...options, '}', `import ${join(folder, 'Site')}`, '']
    writeFileSync(join(folder, 'Caddyfile'), main.join('\n'))
    // It keeps its configuration and certificates in the user's folders.
    const env = { HOME: folder, XDG_CONFIG_HOME: join(folder, 'config'), XDG_DATA_HOME: join(folder, 'data') }
    return { command, args: ['run', '--config', join(folder, 'Caddyfile'), '--adapter', 'caddyfile'], env }
  })(surroundings)

type Command = Pick<Parameters<typeof startProgram>[0], 'command' | 'args' | 'env'>

/** A server with a folder that goes when it stops, ready when the SPA comes through it. */
function inFolder(name: string, commandIn: (folder: string) => Command): StartReverseProxy {
  return async ({ port }) => {
    const folder = mkdtempSync(join(tmpdir(), `coatcheck-${name}-`))
    const remove = () => rmSync(folder, { recursive: true, force: true })
    try {
      const program = await startProgram({ ...commandIn(folder), ready: `http://localhost:${port}/` })
      return { ...program, stop: () => program.stop().finally(remove) }
    } catch (error) {
      remove()
      throw error
    }
  }
}

/** An example with nothing changed but where it listens, addresses and the secret. @throws when one of them is not in it */
function filledIn(name: string, surroundings: Surroundings, listens: string, here: string): string {
  const { port, gatewayPort, internalPort, apiPort, secret } = surroundings
  const changes: [string, string][] = [
    [listens, here.replace('PORT', String(port))],
    ['127.0.0.1:8080', `127.0.0.1:${gatewayPort}`],
    ['127.0.0.1:9090', `127.0.0.1:${internalPort}`],
    ['127.0.0.1:3000', `127.0.0.1:${apiPort}`],
    ['replace-with-FORWARD_AUTH_TOKEN', secret],
  ]
  let text = readFileSync(join(examples, name), 'utf8')
  for (const [from, to] of changes) {
    if (text.split(from).length !== 2) throw new Error(`${name} does not have ${from} exactly once`)
    text = text.replace(from, () => to)
  }
  return text
}
