import type { Adapter, AdapterFactory, AdapterPayload } from 'oidc-provider'

interface Stored {
  payload: AdapterPayload
  expiresAtMs: number
  consumedAtMs: number | undefined
}

/**
 * The provider's memory, one per provider and without a size limit (the library's own forgets after 1,000 entries).
 * A refresh token that was rotated still works for `graceMs`, as at providers that allow for lost responses.
 */
export function createProviderStore(graceMs: number): AdapterFactory {
  const entries = new Map<string, Stored>()
  const byUid = new Map<string, string>()
  const byGrant = new Map<string, Set<string>>()

  const alive = (key: string | undefined): AdapterPayload | undefined => {
    const stored = key === undefined ? undefined : entries.get(key)
    if (!stored || stored.expiresAtMs <= Date.now()) return undefined
    const { payload, consumedAtMs } = stored
    if (consumedAtMs === undefined) return { ...payload }
    const allowed = key?.startsWith('RefreshToken:') ? graceMs : 0
    return Date.now() < consumedAtMs + allowed ? { ...payload } : { ...payload, consumed: consumedAtMs / 1000 }
  }

  return (model): Adapter => ({
    upsert: async (id, payload, expiresIn) => {
      const key = `${model}:${id}`
      const expiresAtMs = expiresIn === undefined ? Number.POSITIVE_INFINITY : Date.now() + expiresIn * 1000
      entries.set(key, { payload, expiresAtMs, consumedAtMs: undefined })
      if (payload.uid) byUid.set(`${model}:${payload.uid}`, key)
      if (payload.grantId) byGrant.set(payload.grantId, (byGrant.get(payload.grantId) ?? new Set()).add(key))
    },
    find: async id => alive(`${model}:${id}`),
    findByUid: async uid => alive(byUid.get(`${model}:${uid}`)),
    findByUserCode: async () => undefined,
    consume: async id => {
      const stored = entries.get(`${model}:${id}`)
      if (stored) stored.consumedAtMs ??= Date.now()
    },
    destroy: async id => {
      entries.delete(`${model}:${id}`)
    },
    revokeByGrantId: async grantId => {
      for (const key of byGrant.get(grantId) ?? []) if (key.startsWith(`${model}:`)) entries.delete(key)
    },
  })
}
