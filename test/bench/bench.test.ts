import { test } from 'tap'
import { coresOf } from './machine.ts'
import { readOptions, sectionNames } from './options.ts'
import { figure, written } from './report.ts'
import { judge, median, medianRatio } from './statistics.ts'

test('the median is the middle, or between the two in the middle', async t => {
  t.equal(median([3, 1, 2]), 2)
  t.equal(median([4, 1, 3, 2]), 2.5)
  t.equal(median([7]), 7)
  t.ok(Number.isNaN(median([])))
})

test('ratios are taken round by round, so that a slow round does not count for one side alone', async t => {
  t.equal(medianRatio([100, 300, 120], [100, 300, 100]), 1)
})

test('a goal is judged by its side, and what is no number meets none', async t => {
  t.ok(judge('cost', 1, 'at most', 1).met)
  t.notOk(judge('cost', 1.01, 'at most', 1).met)
  t.ok(judge('gain', 5, 'at least', 5).met)
  t.notOk(judge('cost', Number.NaN, 'at most', 1).met)
  t.notOk(judge('gain', Number.NaN, 'at least', 1).met)
})

test('options choose sections, in the order in which they run, and refuse what is unknown', async t => {
  t.same(readOptions([]).sections, sectionNames)
  t.same(readOptions(['--only', 'growth,proxy', '--quick']).sections, ['proxy', 'growth'])
  t.equal(readOptions(['--json', 'out.json']).json, 'out.json')
  t.throws(() => readOptions(['--only', 'proxy,speed']), /no section speed/)
  t.throws(() => readOptions(['--fast']), /--fast/)
})

test('lists of cores are read as the kernel writes them', async t => {
  t.same(coresOf('0-2,5'), [0, 1, 2, 5])
  t.same(coresOf('3'), [3])
})

test('a section is a table with its goals below', async t => {
  const goals = [judge('cost', 0.93, 'at most', 1, 0.85), judge('gain', 3, 'at least', 5)]
  const rows = [
    ['one', '1'],
    ['another', '12.5'],
  ]
  t.equal(
    written({ title: 'Title', tables: [{ head: ['', 'ms'], rows }], goals, notes: ['a note'], figures: null }),
    [
      ...['Title', '=====', ''],
      ...['           ms', '-------  ----', 'one         1', 'another  12.5', ''],
      'met     cost: goal at most 1, aiming at 0.85, 0.930',
      ...['MISSED  gain: goal at least 5, 3.00', '', '- a note', ''],
    ].join('\n'),
  )
  t.same([123.4, 12.34, 1.234, 0.1234, Number.NaN].map(figure), ['123', '12.3', '1.23', '0.123', '?'])
})
