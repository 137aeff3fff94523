/** A host and its port. */
export interface Endpoint {
  readonly host: string
  readonly port: number
}

/** Whether what is sent there cannot be read on the way: https, or plain http that stays on this machine. */
export function isSecureAddress(address: string | URL): boolean {
  const url = new URL(address)
  return url.protocol === 'https:' || isLoopback(url.hostname)
}

/** Whether a host name stays on this machine: `localhost` and below it (RFC 6761 §6.3), 127.0.0.0/8, ::1. */
function isLoopback(host: string): boolean {
  return host === 'localhost' || host.endsWith('.localhost') || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host)
}
