/** How the gateway proves at the provider which client it is; files are read when it does. */
export type ClientAuthentication =
  | { method: 'client_secret_post' | 'client_secret_basic'; secrets: readonly SecretSource[] }
  | { method: 'private_key_jwt'; keyFile: string; keyId: string | undefined; certificateFile: string | undefined }
  /** Somebody else signs the assertion and renews it in a file: workload identity federation. */
  | { method: 'federated_assertion'; file: string }

/** A secret, or the file that holds it. */
export type SecretSource = { value: string } | { file: string }

/** Whether a text is a signed JWT in compact form (RFC 7515 §3.1). */
export function isCompactJwt(text: string): boolean {
  return /^[\w-]+\.[\w-]+\.[\w-]+$/.test(text)
}
