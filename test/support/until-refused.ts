/**
 * Asks over and over until the answer is no longer 200, for at most 5 seconds. Gives the last answer, and when, in milliseconds from now, that request
 * was sent which was the last to be served.
 */
export async function untilRefused<Answer extends { status: number }>(
  ask: () => Promise<Answer>,
): Promise<{ answer: Answer; lastServedMs: number }> {
  const startedAt = performance.now()
  for (let lastServedMs = 0; ; ) {
    const sentMs = performance.now() - startedAt
    const answer = await ask()
    if (answer.status === 200) lastServedMs = sentMs
    if (answer.status !== 200 || sentMs >= 5000) return { answer, lastServedMs }
  }
}
