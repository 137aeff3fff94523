import type { AuditRecord } from './narrator.ts'

const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']

/** The level that the gateway must log at for its audit events to be among the lines, when `level` is asked for. */
export function auditingLevel(level: string): string {
  return levels.indexOf(level) > levels.indexOf('info') ? 'info' : level
}

/** Takes the gateway's log: audit events go to `audit`, the lines at `level` or above to `print`. */
export function createGatewayLog(options: {
  level: string
  audit: (event: AuditRecord) => void
  print: (line: string) => void
}) {
  return {
    write(line: string) {
      const entry: AuditRecord & { level: string; msg?: unknown } = JSON.parse(line)
      if (entry.msg === 'audit') options.audit(entry)
      if (levels.indexOf(entry.level) >= levels.indexOf(options.level)) options.print(line.trimEnd())
    },
  }
}
