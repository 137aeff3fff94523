import { randomBytes } from 'node:crypto'
import { test } from 'tap'
import { createSeal } from '../../src/core/seal.ts'

const context = 'https://idp.example client'
const [oldKey, newKey] = [randomBytes(32), randomBytes(32)]
const seal = createSeal({ keys: [newKey], context })

test('what was sealed opens in its own place', async t => {
  const sealed = seal.seal('session', 'id', 'the text, with ünicode')
  t.equal(seal.open('session', 'id', sealed), 'the text, with ünicode')
  t.notOk(sealed.includes('text'), 'and is not legible')
})

// An attacker who can write to Redis copies the record of one session over another, or a transaction over a session.
test('a record opens in no other place', async t => {
  const sealed = seal.seal('session', 'id', 'text')
  t.equal(seal.open('session', 'other', sealed), null, 'another session')
  t.equal(seal.open('refresh', 'id', sealed), null, 'another type')
  const elsewhere = createSeal({ keys: [newKey], context: 'https://idp.example other-client' })
  t.equal(elsewhere.open('session', 'id', sealed), null, 'another application with the same key')
})

test('any change, cut or extension closes a record for good', async t => {
  const sealed = seal.seal('session', 'id', 'text')
  for (let index = 0; index < sealed.length; index += 1) {
    const changed = Buffer.from(sealed)
    changed[index] = (changed[index] ?? 0) ^ 1
    t.equal(seal.open('session', 'id', changed), null, `byte ${index} changed`)
    t.equal(seal.open('session', 'id', sealed.subarray(0, index)), null, `cut after ${index} bytes`)
  }
  t.equal(seal.open('session', 'id', Buffer.concat([sealed, Buffer.of(0)])), null, 'a byte more')
})

// Node takes tags of 4 bytes unless told otherwise; those are guessed in 2^32 tries.
test('a shortened tag does not open a record', async t => {
  const sealed = seal.seal('session', 'id', 'text')
  const body = sealed.subarray(0, -16)
  const tag = sealed.subarray(-16)
  for (const length of [4, 8, 12, 15])
    t.equal(seal.open('session', 'id', Buffer.concat([body, tag.subarray(0, length)])), null, `${length} bytes`)
})

test('a key ring opens what any of its keys sealed and seals with the first', async t => {
  const before = createSeal({ keys: [oldKey], context })
  const ring = createSeal({ keys: [newKey, oldKey], context })
  t.equal(ring.open('session', 'id', before.seal('session', 'id', 'text')), 'text', 'the old key opens')
  t.equal(before.open('session', 'id', ring.seal('session', 'id', 'text')), null, 'the new one seals')
  t.equal(seal.open('session', 'id', before.seal('session', 'id', 'text')), null, 'a dropped key opens nothing')
})

test('no initialisation vector comes twice', async t => {
  const vectors = new Set<string>()
  for (let count = 0; count < 20_000; count += 1)
    vectors.add(seal.seal('session', 'id', '').subarray(5, 17).toString('hex'))
  t.equal(vectors.size, 20_000)
})
