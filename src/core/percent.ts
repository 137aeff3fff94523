/** A percent-encoded text as it was meant, or null when it is not UTF-8 in that encoding (RFC 3986 §2.1). */
export function percentDecoded(text: string): string | null {
  try {
    return decodeURIComponent(text)
  } catch {
    return null
  }
}
