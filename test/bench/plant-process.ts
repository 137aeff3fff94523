// Plants sessions apart from the process that measures. Argument: a file with the plan as JSON, which the cookies replace.
import { readFileSync, writeFileSync } from 'node:fs'
import { plant } from './plant.ts'

const file = process.argv[2] ?? ''
const cookies = await plant(JSON.parse(readFileSync(file, 'utf8')))
writeFileSync(file, JSON.stringify(cookies))
