import type { Clock } from '../core/clock.ts'
import { ProviderUnavailable } from '../core/errors.ts'
import type { Audit, ProviderDocument } from '../core/events.ts'
import { createLimit } from '../core/limit.ts'

/** Loads a document, and tells the audit log of it when that fails, and when it works again. */
export type DocumentReport = <T>(address: string, load: () => Promise<T>) => Promise<T>

const repeatMs = 60_000

/** A fault is told at once and then once a minute; documents are asked for with a growing backoff, whatever comes in. */
export function createDocumentReport(
  document: ProviderDocument,
  { audit, clock }: { audit: Audit; clock: Clock },
): DocumentReport {
  let due = createLimit(clock, repeatMs)
  let told: string | undefined

  return async (url, load) => {
    try {
      const loaded = await load()
      if (told !== undefined) audit({ event: 'provider_usable', document })
      told = undefined
      return loaded
    } catch (error) {
      if (!(error instanceof ProviderUnavailable)) throw error
      const { origin, pathname } = new URL(url)
      const { detail, advice } = error
      const fault = `${detail} ${advice?.cause}`
      // Another fault than before: the operator is about to mend it.
      if (fault !== told) due = createLimit(clock, repeatMs)
      told = fault
      if (due())
        audit({
          event: 'provider_unusable',
          severity: 'high',
          document,
          address: `${origin}${pathname}`,
          detail,
          ...advice,
        })
      throw error
    }
  }
}
