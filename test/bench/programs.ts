import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { findBinary } from '../support/binary.ts'
import { versionOf } from './machine.ts'

/** The programs that are not of this repository, by path. */
export interface Programs {
  wrk: string
  nginx: string
  /** Apache httpd and the folder of its modules, mod_auth_openidc among them; undefined when they are not to be had. */
  apache: { httpd: string; modules: string } | undefined
  /** Environment in which they find their libraries. */
  env: Record<string, string>
}

const unpacked = resolve('.bench/root')

/** @throws when one that cannot be done without is missing; the message says what to install */
export function findPrograms(): Programs {
  const httpd = [join(unpacked, 'usr/sbin/apache2'), '/usr/sbin/apache2'].find(existsSync)
  const modules = [join(unpacked, 'usr/lib/apache2/modules'), '/usr/lib/apache2/modules'].find(folder =>
    existsSync(join(folder, 'mod_auth_openidc.so')),
  )
  const architecture = { x64: 'x86_64', arm64: 'aarch64' }[process.arch as string] ?? process.arch
  return {
    wrk: findBinary({ variable: 'WRK', names: [join(unpacked, 'usr/bin/wrk'), 'wrk'], install: 'apt-get install wrk' }),
    nginx: findBinary({
      variable: 'NGINX',
      names: [join(unpacked, 'usr/sbin/nginx'), resolve('.programs/root/usr/sbin/nginx'), 'nginx', '/usr/sbin/nginx'],
      install: 'apt-get install nginx',
    }),
    apache: httpd && modules ? { httpd, modules } : undefined,
    env: { LD_LIBRARY_PATH: join(unpacked, `usr/lib/${architecture}-linux-gnu`) },
  }
}

/** Which versions the figures are of; undefined for those that are not there. */
export function versions({ wrk, nginx, apache, env }: Programs): Record<string, string | undefined> {
  return {
    wrk: versionOf(wrk, ['-v'], env),
    nginx: versionOf(nginx, ['-v'], env),
    redis: versionOf('redis-server', ['--version'], env),
    apache: apache && versionOf(apache.httpd, ['-v'], env),
  }
}
