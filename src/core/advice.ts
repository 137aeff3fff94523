/** What has probably gone wrong, and what the operator can do about it. For the log alone. */
export interface Diagnosis {
  cause: string
  mend: string
}

/** What is known of a fault of the provider's; for the log alone. It never decides anything. */
export interface Advice extends Partial<Diagnosis> {
  /** The provider's own name of the fault, where it has one that is safe to repeat: `AADSTS65001`. */
  providerCode?: string
  /** By which the provider's support finds the request. */
  traceId?: string
  correlationId?: string
}
