import { type Browser, chromium } from 'playwright-core'
import { findBinary } from './binary.ts'

const flags = [
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/**
 * Starts a headless Chromium; close it with `browser.close()`. Each `browser.newContext()` is a browser of its own.
 * @throws when none is installed; the message says what to install.
 */
export async function launchChromium(): Promise<Browser> {
  const executablePath = findBinary({
    variable: 'CHROMIUM',
    names: ['chromium', '/usr/bin/chromium', 'chromium-browser', 'google-chrome'],
    install: 'apt-get install chromium',
  })
  // Chromium refuses to run as root with its sandbox.
  const args = process.getuid?.() === 0 ? ['--no-sandbox', ...flags] : flags
  return chromium.launch({ executablePath, args, headless: true })
}
