import { test } from 'tap'
import { createTrusts, findClient, rateKeyOf } from '../../../src/http/server/client-address.ts'

const trusts = createTrusts(['10.0.0.0/8', '192.0.2.7', 'fd00::/8', '::1'])
const clientOf = (peer: string, forwardedFor = '') => findClient(peer, forwardedFor, trusts)

test('networks hold addresses of both families, and IPv4 written as IPv6 once it has been read', async t => {
  for (const address of ['10.0.0.1', '10.255.255.255', '192.0.2.7', 'fd12::1', '::1']) t.ok(trusts(address), address)
  for (const address of ['11.0.0.1', '192.0.2.8', 'fe80::1', '::2', '']) t.notOk(trusts(address), address)
  t.equal(clientOf('::ffff:10.1.2.3', '198.51.100.1').address, '198.51.100.1')
  t.notOk(createTrusts([])('127.0.0.1'))
  t.ok(createTrusts(['0.0.0.0/0'])('203.0.113.9'))
})

// Whoever reaches the gateway directly could otherwise be anybody, and escape every limit by a new address each time.
test('a peer that is not trusted is the client, whatever it says of itself', async t => {
  for (const said of ['', '1.2.3.4', '10.0.0.1', '10.0.0.1, 10.0.0.2', 'unknown'])
    t.same(clientOf('203.0.113.9', said), { address: '203.0.113.9', chain: ['203.0.113.9'] }, said)
})

// A proxy appends to what the client sent, so that only the right end of the list is its word.
test('the list is read from the right for as long as trusted proxies wrote it', async t => {
  t.same(clientOf('10.0.0.1', '198.51.100.1'), { address: '198.51.100.1', chain: ['198.51.100.1', '10.0.0.1'] })
  t.same(clientOf('10.0.0.1', '6.6.6.6, 10.9.9.9, 198.51.100.1, fd00::5'), {
    address: '198.51.100.1',
    chain: ['198.51.100.1', 'fd00::5', '10.0.0.1'],
  })
  t.same(clientOf('10.0.0.1', '10.0.0.3,10.0.0.2'), {
    address: '10.0.0.3',
    chain: ['10.0.0.3', '10.0.0.2', '10.0.0.1'],
  })
  t.same(clientOf('10.0.0.1'), { address: '10.0.0.1', chain: ['10.0.0.1'] })
})

test('ports, brackets and spellings are understood', async t => {
  const spellings: [string, string][] = [
    ['198.51.100.1:5678', '198.51.100.1'],
    ['[2001:db8::1]:80', '2001:db8::1'],
    ['[2001:db8::1]', '2001:db8::1'],
    ['2001:DB8:0:0:0:0:0:1', '2001:db8::1'],
    ['::ffff:198.51.100.1', '198.51.100.1'],
    ['::FFFF:C633:6401', '198.51.100.1'],
    ['[::ffff:198.51.100.1]:9', '198.51.100.1'],
    ['fe80::1%eth0', 'fe80::1'],
    ['  198.51.100.1\t', '198.51.100.1'],
  ]
  for (const [said, address] of spellings) t.equal(clientOf('10.0.0.1', said).address, address, said)
})

test('what is no address ends the walk at the last good one', async t => {
  const odd = [
    'unknown',
    '_hidden',
    '',
    ' ',
    '1.2.3',
    '1.2.3.4:',
    '1.2.3.4:x',
    '[1.2.3',
    '[::1',
    '"1.2.3.4"',
    '1.2.3.4;x',
  ]
  for (const entry of [...odd, '999.1.1.1', '010.0.0.1', '0x7f.1', 'for=1.2.3.4', '[]:80']) {
    t.equal(clientOf('10.0.0.1', `6.6.6.6, ${entry}`).address, '10.0.0.1', entry)
    t.equal(clientOf('10.0.0.1', `6.6.6.6, ${entry}, 10.0.0.2`).address, '10.0.0.2', entry)
  }
})

test('a list of 16 KB is read in no time', async t => {
  const started = performance.now()
  const { chain } = clientOf('10.0.0.1', `${'10.0.0.2,'.repeat(1800)}10.0.0.2`)
  clientOf('10.0.0.1', ','.repeat(16_384))
  clientOf('10.0.0.1', '['.repeat(16_384))
  clientOf('10.0.0.1', `${'1'.repeat(16_384)}:1`)
  t.equal(chain.length, 1802)
  t.ok(performance.now() - started < 10_000)
})

test('limits count IPv6 by /64, since one client has a whole one', async t => {
  t.equal(rateKeyOf('198.51.100.1'), '198.51.100.1')
  t.equal(rateKeyOf('2001:db8:1:2:3:4:5:6'), '2001:db8:1:2')
  t.equal(rateKeyOf('2001:db8:1:2::9'), '2001:db8:1:2')
  t.equal(rateKeyOf('2001:db8::1'), '2001:db8:0:0')
  t.equal(rateKeyOf('::1'), '0:0:0:0')
  t.not(rateKeyOf('2001:db8:1:3::9'), rateKeyOf('2001:db8:1:2::9'))
})
