import { EventEmitter } from 'node:events'
import { test } from 'tap'
import { TooManyRequests } from '../../src/core/errors.ts'
import { type Closing, createConcurrency } from '../../src/http/concurrency.ts'

/** A response or connection that closes when told. */
class Place extends EventEmitter implements Closing {
  destroyed = false

  close(): void {
    this.destroyed = true
    this.emit('close')
  }
}

test('so many of one key are let in at a time, and others are not kept out by them', async t => {
  const { enter } = createConcurrency({ most: 2 })
  const first = new Place()
  enter('a', first)
  enter('a', new Place())
  t.throws(() => enter('a', new Place()), TooManyRequests)
  t.doesNotThrow(() => enter('b', new Place()))
  first.close()
  t.doesNotThrow(() => enter('a', new Place()))
  t.throws(() => enter('a', new Place()), TooManyRequests, 'full again')
})

test('what closes twice frees one place, and what has closed before takes none', async t => {
  const { enter } = createConcurrency({ most: 2 })
  const [place, gone] = [new Place(), new Place()]
  enter('a', place)
  enter('a', new Place())
  place.close()
  place.close()
  gone.close()
  enter('a', gone)
  enter('a', new Place())
  t.throws(() => enter('a', new Place()), TooManyRequests)
})

test('all places are free again after any order of coming and going', async t => {
  const { enter } = createConcurrency({ most: 100 })
  for (let round = 0; round < 5; round += 1) {
    const places = Array.from({ length: 100 }, () => new Place())
    for (const place of places) enter('a', place)
    t.throws(() => enter('a', new Place()), TooManyRequests)
    for (const place of places.sort(() => Math.random() - 0.5)) place.close()
  }
})
