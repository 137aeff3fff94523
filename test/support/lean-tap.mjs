// Loaded into each test file ahead of tap (see .taprc), to be without what tap does for things that no test here needs:
// they take more than a second of CPU in a file that starts a gateway, and a fifth of all time after that.
import hooks from 'node:async_hooks'
import module, { syncBuiltinESMExports } from 'node:module'

// tap follows each promise and timer of a test to know whose an uncaught error is. Without it such an error ends its file,
// which fails by that.
const idle = { enable: () => idle, disable: () => idle }
hooks.createHook = () => idle

// tap has every module that is loaded told to it, to measure coverage.
module.register = () => {}
syncBuiltinESMExports()

// For this process alone.
delete process.env.NODE_OPTIONS
