import { createPublicKey, generateKeyPairSync, type KeyObject, sign, X509Certificate } from 'node:crypto'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'

/** An https server that only its own certificate vouches for. */
export interface UntrustedServer {
  readonly url: string
  /** Connections that were opened. */
  readonly connections: number
  /** Requests that got through: none in a sound system. */
  readonly requests: number
  close(): Promise<void>
}

/** Starts an https server on 127.0.0.1 with a self-signed certificate; it answers anything with `{}`. */
export async function startUntrustedServer(): Promise<UntrustedServer> {
  let connections = 0
  let requests = 0
  const server = createServer(selfSigned('ec'), (_req, res) => {
    requests += 1
    res.end('{}')
  })
  server.on('connection', () => {
    connections += 1
  })
  server.on('tlsClientError', () => undefined)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`,
    get connections() {
      return connections
    },
    get requests() {
      return requests
    },
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

/** What a certificate says. */
export interface Subject {
  /** Of the host; `127.0.0.1`, which Node takes for no address, when absent. */
  name?: string
  /** The end of its time, `YYMMDDhhmmssZ`. */
  until?: string
}

/** A private key and its certificate (RFC 5280 §4.1, version 1), both PEM; a fresh key unless one is given. */
export function selfSigned(
  type: 'ec' | 'rsa',
  privateKey: KeyObject = freshKey(type),
  subject: Subject = {},
): { key: string; cert: string; der: Buffer } {
  const cert = certify(createPublicKey(privateKey), privateKey, subject)
  return {
    key: privateKey.export({ format: 'pem', type: 'pkcs8' }) as string,
    cert,
    der: new X509Certificate(cert).raw,
  }
}

/** A certificate, PEM, of a key of any kind; an issuer on P-256 or with RSA signs it. */
export function certify(
  publicKey: KeyObject,
  issuer: KeyObject = freshKey('ec'),
  { name: host = '127.0.0.1', until = '491231235959Z' }: Subject = {},
): string {
  // ecdsa-with-SHA256 or sha256WithRSAEncryption; id-at-commonName.
  const algorithmId = issuer.asymmetricKeyType === 'ec' ? '06082a8648ce3d040302' : '06092a864886f70d01010b0500'
  const algorithm = der(0x30, Buffer.from(algorithmId, 'hex'))
  const commonName = der(0x30, Buffer.from('0603550403', 'hex'), der(0x0c, Buffer.from(host)))
  const name = der(0x30, der(0x31, commonName))
  const validity = der(0x30, der(0x17, Buffer.from('200101000000Z')), der(0x17, Buffer.from(until)))
  const subjectKey = publicKey.export({ format: 'der', type: 'spki' })
  const body = der(0x30, der(0x02, Buffer.from([1])), algorithm, name, validity, name, subjectKey)
  const signature = der(0x03, Buffer.from([0]), sign('sha256', body, issuer))
  const certificate = der(0x30, body, algorithm, signature)
  // A blank line, which a length of whole lines would leave at the end, is no PEM.
  const lines = certificate.toString('base64').match(/.{1,64}/g) ?? []
  return ['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', ''].join('\n')
}

const freshKey = (type: 'ec' | 'rsa'): KeyObject =>
  type === 'ec'
    ? generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
    : generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey

/** One value of DER: tag, length, content. */
function der(tag: number, ...content: Buffer[]): Buffer {
  const bytes = Buffer.concat(content)
  const { length } = bytes
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.from([tag, ...size]), bytes])
}
