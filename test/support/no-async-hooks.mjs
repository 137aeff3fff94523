// Loaded ahead of tap, which follows each promise and timer of a test to know whose an uncaught error is. That takes a fifth
// of all the time that the suite takes. Without it such an error ends its file, which fails by that.
import hooks from 'node:async_hooks'
import { syncBuiltinESMExports } from 'node:module'

const idle = { enable: () => idle, disable: () => idle }
hooks.createHook = () => idle
syncBuiltinESMExports()
