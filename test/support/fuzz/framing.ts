import fc from 'fast-check'

/** Stands for the number of a case; as long as any such number. */
export const placeholder = '######'

const often = <T>(sound: T[], odd: T[]): fc.Arbitrary<T> =>
  fc.oneof({ weight: 7, arbitrary: fc.constantFrom(...sound) }, { weight: 1, arbitrary: fc.constantFrom(...odd) })

const lineEnd = fc.oneof(
  { weight: 60, arbitrary: fc.constant('\r\n') },
  { weight: 1, arbitrary: fc.constantFrom('\n', '\r', '\r\r\n', '\n\r', '\r\n ', '\r\n\t', '', '\0\r\n', '\r\n\r') },
)
const colon = often([': ', ':', ':  ', ':\t'], [' : ', ' :', ':\x0b', ':\r\n ', '\t:', ':\0', '=', '\r\n: '])

const codingName = often(
  ['Transfer-Encoding', 'transfer-encoding', 'TRANSFER-ENCODING'],
  [
    ...['Transfer-Encoding ', ' Transfer-Encoding', 'Transfer_Encoding', 'Transfer-Encoding\0', 'Transfer-Encod\xefng'],
    ...['X: y\nTransfer-Encoding', 'X: y\rTransfer-Encoding', '\x0bTransfer-Encoding', '"Transfer-Encoding"', 'TE'],
  ],
)
const coding = often(
  ['chunked', 'chunked', 'Chunked'],
  [
    ...[
      'xchunked',
      'chunkedx',
      'chunked, chunked',
      'gzip, chunked',
      'chunked, gzip',
      'identity',
      '',
      'chunked,',
      ',chunked',
    ],
    ...[
      'chunked;a=b',
      '"chunked"',
      'chun\nked',
      '\x0bchunked',
      'chunked\x00',
      '\xa0chunked',
      'identity, chunked',
      'cow',
    ],
    ...['chunked\t', ' chunked ', "'chunked'", 'chunked\r\n x', 'deflate', 'trailers', 'x, chunked'],
  ],
)
const oddLengths = [
  ...[
    '+5',
    '-1',
    '5, 5',
    '5 5',
    '0x5',
    '5e0',
    '',
    '5.0',
    '5;',
    '\x005',
    '18446744073709551616',
    '99999999999999999999',
  ],
  ...['1 0', ',5', '"5"', '５', '5\t', '0005', '1_0', 'NaN', '-0', '+0'],
]

/** A length near the true one, or none at all. */
const lengthOf = (body: string) =>
  often(
    [body.length, body.length, body.length, body.length, 0, body.length + 1, Math.max(0, body.length - 1)].map(String),
    oddLengths,
  )

const inner = `GET /open/smuggled-${placeholder} HTTP/1.1\r\nHost: localhost\r\n\r\n`
const plainBody = fc.constantFrom('', 'abc', 'a=b&c=d', inner, `0\r\n\r\n${inner}`, `\r\n\r\n${inner}`)

const chunkSize = (length: number) => {
  const hex = length.toString(16)
  const odd = [
    `0x${hex}`,
    `+${hex}`,
    `-${hex}`,
    ` ${hex}`,
    `${hex} `,
    `${hex}\t`,
    `${hex};`,
    `${hex};a\nb`,
    `${hex};a\rb`,
  ]
  const more = ['', 'g', 'fffffffffffffffff', '80000000', `${hex};a="b`, `${hex}\0`, `${hex},`, `${hex}_`, `${hex}\r`]
  return often(
    [hex, hex, hex.toUpperCase(), `00${hex}`, `${hex};a=b`, `${hex};a="b c"`, `${hex};${'x'.repeat(40)}`],
    [...odd, ...more, `${hex};${'x'.repeat(20_000)}`, (length + 1).toString(16), '7fffffffffffffff'],
  )
}

const chunk = fc
  .constantFrom('abc', 'x', inner, '0\r\n\r\n')
  .chain(data =>
    fc.tuple(chunkSize(data.length), lineEnd, lineEnd).map(([size, one, other]) => size + one + data + other),
  )
const trailer = often(
  ['', '', 'X-Trailer: a\r\n'],
  [
    'Transfer-Encoding: chunked\r\n',
    'Content-Length: 50\r\n',
    'X-A: b\n',
    'X-A: b\r\n c\r\n',
    'Host: x\r\n',
    'X\r\n',
    'Authorization: forged\r\n',
  ],
)
const chunkedBody = fc
  .tuple(
    fc.array(chunk, { maxLength: 2 }),
    often(['0', '0', '000', '0;a=b'], ['-0', '0x0', ' 0', '', '0 ']),
    lineEnd,
    trailer,
  )
  .map(([chunks, zero, end, after]) => `${chunks.join('')}${zero}${end}${after}\r\n`)

/** A header line that says where the request ends, and a body that goes with it, or not. */
const framed = fc.oneof(
  { weight: 2, arbitrary: fc.constant({ lines: [] as string[], body: '' }) },
  {
    weight: 3,
    arbitrary: plainBody.chain(body =>
      fc
        .tuple(
          often(['Content-Length', 'content-length'], ['Content-Length ', 'Content_Length', ' Content-Length']),
          colon,
          lengthOf(body),
        )
        .map(([name, between, length]) => ({ lines: [name + between + length], body })),
    ),
  },
  {
    weight: 4,
    arbitrary: fc
      .tuple(codingName, colon, coding, chunkedBody)
      .map(([name, between, value, body]) => ({ lines: [name + between + value], body })),
  },
  {
    weight: 2,
    arbitrary: fc
      .tuple(
        codingName,
        colon,
        coding,
        fc.oneof(chunkedBody, plainBody),
        fc.constantFrom('0', '5', '3', '60'),
        fc.boolean(),
      )
      .map(([name, between, value, body, length, first]) => {
        const lines = [name + between + value, `Content-Length: ${length}`]
        return { lines: first ? lines : lines.reverse(), body }
      }),
  },
  {
    weight: 1,
    arbitrary: fc
      .tuple(fc.constantFrom('Content-Length: 3', 'Content-Length: 0', 'Transfer-Encoding: chunked'), chunkedBody)
      .map(([line, body]) => ({ lines: [line, line], body })),
  },
)

const extra = often(
  ['', '', 'X-A: b', 'Connection: keep-alive', 'Accept: */*'],
  [
    ...[
      'Connection: close',
      'Host: evil.test',
      'Host: localhost',
      'X-A: b\0',
      'X-A\0: b',
      ': b',
      'X-A',
      'X A: b',
      'X-A: b\n',
    ],
    ...[
      'Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__',
      'Expect: 100-continue',
    ],
    ...[
      'Connection: Upgrade\r\nUpgrade: websocket',
      'Expect: magic',
      'Connection: transfer-encoding',
      'Connection: content-length',
    ],
    ...['Proxy-Connection: keep-alive', 'Keep-Alive: timeout=5', 'Trailer: X', 'TE: trailers'],
  ],
)
const startLine = (route: string) =>
  fc
    .tuple(
      fc.constantFrom('POST', 'POST', 'PUT', 'GET', 'DELETE', 'HEAD', 'OPTIONS'),
      often([' '], ['  ', '\t', '\n']),
      often(
        ['HTTP/1.1', 'HTTP/1.1', 'HTTP/1.1'],
        ['HTTP/1.0', 'HTTP/2.0', 'HTTP/0.9', 'HTTP/1.2', 'http/1.1', 'HTTP/1.1 ', 'HTTP/01.1', '', 'RTSP/1.0'],
      ),
    )
    .map(([method, blank, version]) => `${method}${blank}${route}/own-${placeholder}${blank}${version}`)

/** One request with something about it, for a route and with its usual header lines, each ended by CRLF. */
function requestAt(route: string, lines: string): fc.Arbitrary<string> {
  return fc
    .tuple(startLine(route), lineEnd, framed, extra, fc.array(lineEnd, { minLength: 4, maxLength: 4 }), lineEnd)
    .map(([start, end, { lines: framing, body }, more, ends, last]) => {
      const written = [...framing, ...(more === '' ? [] : [more])].map((line, at) => line + (ends[at % 4] ?? ''))
      return start + end + lines + written.join('') + last + body
    })
}

/** Requests one after the other on a connection, which the last of them, plain and a canary, closes. */
export function connections(lines: string): fc.Arbitrary<string> {
  return fc
    .tuple(
      fc.array(
        fc.constantFrom('/open', '/api').chain(route => requestAt(route, lines)),
        { minLength: 1, maxLength: 2 },
      ),
      fc.constantFrom('', '', '\r\n'),
    )
    .map(([requests, gap]) => {
      const canary = `GET /api/smuggled-${placeholder} HTTP/1.1\r\n${lines}Connection: close\r\n\r\n`
      return requests.join(gap) + gap + canary
    })
}
