/**
 * Holds back oidc-provider's own notices on the console (an in-memory store, the age of the runtime: both are meant
 * for operators, and a demo forgets everything by design). Everything else is printed as ever.
 *
 * @returns a function that lets the notices through again
 */
export function muteProviderNotices(): () => void {
  const { warn, info } = console
  const unlessNotice =
    (print: typeof console.warn): typeof console.warn =>
    (...args) => {
      if (!/oidc-provider (WARNING|NOTICE):/.test(String(args[0]))) print(...args)
    }
  console.warn = unlessNotice(warn)
  console.info = unlessNotice(info)
  return () => {
    console.warn = warn
    console.info = info
  }
}
