/** Waits, in bounded time, for what happens in the background. */
export async function eventually(holds: () => boolean | Promise<boolean>, timeoutMs = 30_000): Promise<boolean> {
  const limit = Date.now() + timeoutMs
  while (Date.now() < limit) {
    if (await holds()) return true
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  return holds()
}
