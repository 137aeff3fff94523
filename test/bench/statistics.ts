/** The middle value, the mean of the two in the middle for an even number; NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length / 2
  const [low, high] = [sorted[Math.ceil(middle) - 1] ?? Number.NaN, sorted[Math.floor(middle)] ?? Number.NaN]
  return (low + high) / 2
}

/**
 * The median of the ratios of what was measured in the same round: what slows a whole round down falls out, which a ratio
 * of medians would keep.
 */
export function medianRatio(values: readonly number[], others: readonly number[]): number {
  return median(values.map((value, round) => value / (others[round] ?? Number.NaN)))
}

/** A goal, and how it was met. */
export interface Goal {
  what: string
  value: number
  limit: number
  /** Which side of the limit is good. */
  side: 'at most' | 'at least'
  met: boolean
  /** What is hoped for beyond it. */
  aim?: number
}

/** Judges a value. One that is not a number meets no goal. */
export function judge(what: string, value: number, side: Goal['side'], limit: number, aim?: number): Goal {
  const met = side === 'at most' ? value <= limit : value >= limit
  return { what, value, limit, side, met, ...(aim !== undefined && { aim }) }
}
